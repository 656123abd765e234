"""JSON that models are asked for: schemas, and readers that take nothing else.

A reader raises InputError in words of ours, which the next attempt shows to the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from megaphi.errors import InputError
from megaphi.judging.asking import fields_of, text_of

LONGEST = 20_000
MOST_ITEMS = 60
FEWEST_OPTIONS, MOST_OPTIONS = 3, 8
LONGEST_FINDINGS = 400
MOST_FAULTS, MOST_CLAIMS = 12, 30
"""Limits of judgements, by the schema: a small model that begins to repeat itself still comes to its end."""


def _object(**properties: Any) -> dict[str, Any]:
    names = list(properties)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _list(items: Any, *, least: int = 1, most: int = MOST_ITEMS) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def with_items(schema: dict[str, Any], name: str, *, least: int, most: int) -> dict[str, Any]:
    """The schema with limits on the length of its list `name`."""
    entries = {**schema["properties"][name], "minItems": least, "maxItems": most}
    return {**schema, "properties": {**schema["properties"], name: entries}}


EXAMPLE = "name"
"""The function of the form in prompts/form_code.txt, which small models copy."""
HEAD = re.compile(r"def\s+([A-Za-z_]\w*)\s*\(")
TEXT = {"type": "string"}
SCORE = {"type": "integer", "minimum": 1, "maximum": 5}
PAIRS = _object(items=_list(_object(question=TEXT, reasoning=TEXT, answer=TEXT)))
CHAINS = _object(
    items=_list(_object(question=TEXT, steps=_list(_object(claim=TEXT, quote=TEXT)), answer=TEXT)),
)
QUESTIONS = _object(items=_list(_object(question=TEXT)))
OPTIONS = _list(TEXT, least=FEWEST_OPTIONS, most=MOST_OPTIONS)
CHOICES = _object(items=_list(_object(question=TEXT, options=OPTIONS)))
TURNS = _object(turns=_list(_object(speaker={"type": "string", "enum": ["user", "assistant"]}, text=TEXT)))
CODE_TASK = _object(task=TEXT, function=TEXT, signature=TEXT)
FINDING = {"type": "string", "maxLength": LONGEST_FINDINGS}
SCORED = _object(findings=FINDING, score=SCORE)
CRITIQUE = _object(faults={"type": "array", "items": FINDING, "maxItems": MOST_FAULTS}, score=SCORE)
SUPPORT = _object(claims=_list(_object(claim=FINDING, quote=FINDING), most=MOST_CLAIMS))


@dataclass(frozen=True, slots=True)
class Scored:
    """The findings of a judge, and its score from 1 to 5."""

    findings: str
    score: int


@dataclass(frozen=True, slots=True)
class Critique:
    """Faults of a draft, and its score from 1 to 5."""

    faults: tuple[str, ...]
    score: int


@dataclass(frozen=True, slots=True)
class QuotedClaim:
    """A statement, and the words of the seed that support it; empty if none do."""

    claim: str
    quote: str


@dataclass(frozen=True, slots=True)
class CodeTask:
    """A task for a programmer: its text, and the function that a solution defines."""

    task: str
    function: str
    signature: str


def read_pairs(value: Any) -> list[dict[str, str]]:
    names = ("question", "reasoning", "answer")
    return [{name: text_of(one[name], name, longest=LONGEST) for name in names} for one in _items(value, names)]


def read_chains(value: Any) -> list[tuple[str, list[QuotedClaim], str]]:
    found = []
    for one in _items(value, ("question", "steps", "answer")):
        steps = [_claim(step) for step in _entries(one["steps"], "steps")]
        found.append((text_of(one["question"], "question"), steps, text_of(one["answer"], "answer")))
    return found


def read_questions(value: Any) -> list[str]:
    return [text_of(one["question"], "question") for one in _items(value, ("question",))]


def read_choices(value: Any) -> list[tuple[str, tuple[str, ...]]]:
    found = []
    for one in _items(value, ("question", "options")):
        options = tuple(text_of(option, "options") for option in _entries(one["options"], "options"))
        is_right = FEWEST_OPTIONS <= len(options) <= MOST_OPTIONS
        if not is_right or len({option.casefold() for option in options}) < len(options):
            raise InputError(f"a question has {FEWEST_OPTIONS} to {MOST_OPTIONS} options, no two of them the same")
        found.append((text_of(one["question"], "question"), options))
    return found


def read_turns(value: Any) -> list[dict[str, str]]:
    """Messages, from the user's first to the assistant's last, in turn."""
    turns = _entries(fields_of(value, ("turns",))["turns"], "turns")
    found = []
    for number, turn in enumerate(turns):
        fields_of(turn, ("speaker", "text"))
        speaker = ("user", "assistant")[number % 2]
        if turn["speaker"] != speaker:
            raise InputError(f"turn {number + 1} must be the {speaker}'s: user and assistant speak in turn")
        found.append({"role": speaker, "content": text_of(turn["text"], "text", longest=LONGEST)})
    if len(found) % 2:
        raise InputError("the last turn must be the assistant's")
    return found


def read_code_task(value: Any) -> CodeTask:
    names = ("task", "function", "signature")
    fields_of(value, names)
    task, function, signature = (text_of(value[name], name, longest=LONGEST) for name in names)
    head = HEAD.match(signature)
    if head is None:
        raise InputError("the field 'signature' must begin with `def`, the name of the function and a bracket")
    whole = HEAD.match(function)  # some models write the head there too
    if head[1] != (whole[1] if whole else function.removeprefix("def ")):
        raise InputError("the field 'function' must be the name of the function, as in the signature")
    if head[1] == EXAMPLE:
        raise InputError(f"{EXAMPLE!r} is the example of the form, and not the name of a function")
    return CodeTask(task, head[1], signature)


def read_scored(value: Any) -> Scored:
    fields_of(value, ("findings", "score"))
    return Scored(text_of(value["findings"], "findings", longest=LONGEST), _score(value["score"]))


def read_critique(value: Any) -> Critique:
    fields_of(value, ("faults", "score"))
    faults = value["faults"]
    if not isinstance(faults, list) or not all(isinstance(fault, str) for fault in faults):
        raise InputError("the field 'faults' must be a list of texts")
    return Critique(tuple(fault.strip() for fault in faults if fault.strip()), _score(value["score"]))


def read_support(value: Any) -> list[QuotedClaim]:
    return [_claim(one) for one in _entries(fields_of(value, ("claims",))["claims"], "claims")]


def _items(value: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [fields_of(one, names) for one in _entries(fields_of(value, ("items",))["items"], "items")]


def _entries(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_ITEMS:
        raise InputError(f"the field {name!r} must be a list of 1 to {MOST_ITEMS} entries")
    return value


def _claim(value: Any) -> QuotedClaim:
    fields_of(value, ("claim", "quote"))
    if not isinstance(value["quote"], str):
        raise InputError("the field 'quote' must be a text")
    return QuotedClaim(text_of(value["claim"], "claim"), value["quote"].strip())


def _score(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 5:
        raise InputError("the field 'score' must be a whole number from 1 to 5")
    return value
