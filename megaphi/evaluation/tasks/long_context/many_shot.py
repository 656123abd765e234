"""Many-shot in-context learning: texts with labels, and a text whose label is asked for (Bertsch et al. 2024).

The examples are the manifest's `shots` files, the questions its items. Labels are replaced by numbers, in another order
for each item, so that only the examples say what a number means. Examples come in rounds with one of each label; a
round is shuffled. HELMET's kinds: TREC, BANKING77, CLINC150, NLU.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from megaphi.errors import InputError
from megaphi.evaluation.task import Item, Record
from megaphi.evaluation.tasks.columns import column, item_name, shown, text_column
from megaphi.evaluation.tasks.long_context.filling import FilledContext, Making

WORDING = {
    "chat": "Each text below has the number of its label. Give the number that belongs to the last text. Reply in this "
    "form:\nlabel: [number]\n\n{examples}\n\n{text}",
    "text": "{examples}\n\n{text}\nlabel:",
}


def labelled_item(record: Record) -> Item:
    """A text with its label, a text or a number. Raises InputError."""
    text = text_column(record, "text|question|sentence")
    name, label = column(record, "label|coarse_label|intent")
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise InputError(f"column {name!r} must be a text or a whole number, not {shown(label)}")
    return Item(name=item_name(record, "id", text), question=text.strip(), gold=str(label).strip(), key=None)


def make_many_shot(making: Making) -> list[Item]:
    """One item for each labelled text: as many examples as fit before it."""
    examples = _examples_by_label(making)
    made, guess = [], 0
    for item in making.items[: making.count]:
        if item.gold not in examples:
            raise InputError(f"{making.task}: no example of the shots files has the label {item.gold!r} of {item.name}")
        draw = making.draw(item.name)
        numbers = dict(zip(examples, draw.sample(range(len(examples)), len(examples)), strict=True))
        lines = [f"{text}\nlabel: {numbers[label]}" for text, label in _in_rounds(examples, draw)]

        def build(units: int, item: Item = item, lines: Sequence[str] = lines):
            return making.prompt(examples="\n\n".join(lines[:units]), text=item.question)

        units, tokens = making.most_units(build, least=len(examples), most=len(lines), guess=guess)
        if units == len(lines):
            raise making.too_little("examples", units, tokens)
        guess = units
        facts = {"tokens": tokens, "units": units, "labels": len(examples)}
        context = FilledContext(prompt=build(units), answers=(str(numbers[item.gold]),), facts=facts)
        made.append(making.filled_item(item, context))
    return made


def _examples_by_label(making: Making) -> dict[str, list[str]]:
    """Label to its different texts. Raises InputError: one of them is asked, or has two labels."""
    asked = {item.question: item.name for item in making.items}
    label_of: dict[str, str] = {}
    for shot in making.shots:
        if shot.question in asked:
            raise InputError(
                f"{making.task}: the example {shot.name!r} is the evaluated item {asked[shot.question]!r} itself"
            )
        if label_of.setdefault(shot.question, shot.gold) != shot.gold:
            raise InputError(
                f"{making.task}: the text of example {shot.name!r} has two labels, "
                f"{label_of[shot.question]!r} and {shot.gold!r}"
            )
    by_label: dict[str, list[str]] = {}
    for text, label in label_of.items():
        by_label.setdefault(label, []).append(text)
    if len(by_label) < 2:
        raise InputError(f"{making.task}: the shots files must have examples of two labels at least")
    return dict(sorted(by_label.items()))


def _in_rounds(examples: dict[str, list[str]], draw: random.Random) -> list[tuple[str, str]]:
    shuffled = {label: draw.sample(texts, len(texts)) for label, texts in examples.items()}
    lines: list[tuple[str, str]] = []
    for number in range(max(map(len, shuffled.values()))):
        one_of_each = [(texts[number], label) for label, texts in shuffled.items() if number < len(texts)]
        lines += draw.sample(one_of_each, len(one_of_each))
    return lines


def label_in(answer: str) -> str:
    """The number after the last `label:`, or else the first number of the answer; "" if there is none."""
    announced = re.findall(r"label\W*:\s*\W*(\d+)", answer, flags=re.IGNORECASE)
    found = re.search(r"\d+", answer)
    return announced[-1] if announced else found[0] if found else ""
