"""Recall: one value of a JSON object of random pairs, by its key (Liu et al. 2023; `json_kv` of HELMET).

Nothing is read from files. Keys and values are random, so the right value can be known from the context only: a model
that copies any value of the object is right once in as many times as there are pairs (`units` in the details). The
base form repeats the key as the object spells it and stops before the value.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

from megaphi.evaluation.task import Item
from megaphi.evaluation.tasks.long_context.filling import FilledContext, Making, placed

WORDING = {
    "chat": "{pairs}\n\nFind the value of the given key in the JSON object above. Reply with the value alone.\n\n"
    "Key: {key}\nValue:",
    "text": '{pairs}\n\nOne entry of the object above, copied:\n"{key}": "',
}
Spelling = Callable[[random.Random], str]


def uuid(draw: random.Random) -> str:
    """A random UUID."""
    digits = f"{draw.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def five_digits(draw: random.Random) -> str:
    """A number of five digits: a few tokens, for models and contexts that are small."""
    return str(draw.randrange(10_000, 100_000))


def make_recall(making: Making, spelling: Spelling) -> list[Item]:
    """`making.count` objects, each with one key that is asked for."""
    made, guess = [], 0
    for number, depth in enumerate(making.depths(making.count)):
        draw = making.draw(str(number))
        texts = _different(draw, spelling, min(2 * (2 + making.tokens // 4), 80_000))
        pairs = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in zip(texts[::2], texts[1::2], strict=True)]
        key, value = texts[:2]

        def build(units: int, pairs: list[str] = pairs, key: str = key, depth: float = depth):
            listed = ",\n".join(placed(pairs[0], pairs[1:units], depth))
            return making.prompt(pairs=f"{{\n{listed}\n}}", key=key)

        units, tokens = making.most_units(build, least=1, most=len(pairs), guess=guess)
        if units == len(pairs):
            raise making.too_little("different pairs", units, tokens)
        guess = units
        facts = {"tokens": tokens, "units": units, "depth": round(depth, 4)}
        alone = f"{making.tokens}/{number}"  # objects of other lengths have nothing in common with it
        item = Item(name=str(number), question=f"The value of {key}", gold=value, key=None, cluster=alone)
        made.append(making.filled_item(item, FilledContext(prompt=build(units), answers=(value,), facts=facts)))
    return made


def _different(draw: random.Random, spelling: Spelling, count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[spelling(draw)] = None
    return list(found)


def recalled(answer: str) -> str:
    """The value that an answer states: its first line that is not blank, without quotes, key and punctuation."""
    line = next((line for line in answer.splitlines() if line.strip()), "")
    line = re.sub(r"^\W*(?:corresponding )?value\W*:\s*", "", line, flags=re.IGNORECASE)
    return line.strip().strip("\"'`*{}.,").strip()
