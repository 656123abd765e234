"""Questions with options from records of MMLU, MMLU-Pro, ARC, and pools of an exam's questions.

Options are a list of texts (`choices` or `options`), ARC's `{"text": [...], "label": [...]}`, or columns A, B, C, D.
The right one is an index from 0, a letter, or one of ARC's labels; every form can be text, as in CSV.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from megaphi.errors import InputError
from megaphi.evaluation.task import Item, Record
from megaphi.evaluation.tasks.columns import (
    column,
    has_column,
    item_name,
    json_value,
    label_column,
    shown,
    text_column,
    texts_of,
)
from megaphi.grading.question import LETTERS, Choices

QUESTION = "question|Question"
OPTIONS = "options|choices|A"
ANSWER = "answerKey|answer|Answer|answer_index"
CATEGORIES = {
    "stem": "abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics "
    "college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics "
    "high_school_biology high_school_chemistry high_school_computer_science high_school_mathematics "
    "high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
    "professional_law world_religions",
    "social_sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
}
CATEGORY_OF = {subject: category for category, subjects in CATEGORIES.items() for subject in subjects.split()}
"""MMLU's subjects in three of its four categories; every other subject is in `other`."""


def choice_item(record: Record, *, group: str = "subject|category|Subject") -> Item:
    """The question of a record, with `Choices` as its key. Raises InputError that names the column."""
    question = text_column(record, QUESTION)
    options, labels = _options(record)
    right = _right(record, options, labels)
    return Item(
        name=item_name(record, "id|question_id|uid", question, *options, label_column(record, group)),
        question=question,
        gold=f"{LETTERS[right]}) {options[right]}",
        key=Choices(options, right),
        group=label_column(record, group),
    )


def mmlu_item(record: Record) -> Item:
    """A question of MMLU, grouped as category/subject."""
    item = choice_item(record)
    subject = item.group.replace(" ", "_").lower()
    return replace(item, group=f"{CATEGORY_OF.get(subject, 'other')}/{subject}" if subject else "")


def exam_item(record: Record) -> Item:
    """A question of a pool in any form, whose answer can be the words of an option too.

    Raises:
        InputError: as `choice_item`; or the answer is a letter or a number, and also the words of another option.
    """
    options, labels = _options(record)
    name, value = column(record, ANSWER)
    if not isinstance(value, str) or labels:
        return choice_item(record)
    same = [place for place, text in enumerate(options) if text.strip() == value.strip()]
    if len(same) == 1 and not re.fullmatch(r"[A-Za-z]|\d+", value.strip()):
        return choice_item({**record, name: same[0]})
    item = choice_item(record)
    if same and item.key.right not in same:
        raise InputError(
            f"column {name!r} says {value!r}, which is option {LETTERS[item.key.right]} as a letter or an index, and "
            f"the words of option {LETTERS[same[0]]}: give the letter"
        )
    return item


def _options(record: Record) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(options, their labels); labels are empty where options go by letters only."""
    name, value = column(record, OPTIONS)
    if name == "A":
        present = [letter for letter in LETTERS if has_column(record, letter)]
        if "".join(present) != LETTERS[: len(present)] or len(present) < 2:
            raise InputError(f"columns of options must be A, B, C and so on, not {', '.join(present)}")
        return tuple(_as_text(letter, record[letter]) for letter in present), ()
    value = json_value(value)
    labels: tuple[str, ...] = ()
    if isinstance(value, Mapping):
        if not {"text", "label"} <= set(value):
            raise InputError(
                f"column {name!r} must be a list of texts or an object with text and label: {shown(value)}"
            )
        labels, value = texts_of(f"{name}.label", value["label"]), value["text"]
        name = f"{name}.text"
    options = texts_of(name, value)
    if labels and (len(labels) != len(options) or len(set(labels)) < len(labels)):
        raise InputError(f"column {name!r} has {len(options)} options for {len(labels)} labels")
    if not 2 <= len(options) <= len(LETTERS):
        raise InputError(f"column {name!r} has {len(options)} options: a choice has 2 to {len(LETTERS)}")
    return options, labels


def _as_text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"column {name!r} must be a text, not {shown(value)}")
    return str(value)


def _right(record: Record, options: tuple[str, ...], labels: tuple[str, ...]) -> int:
    """Index of the right option; every column that says it must say the same."""
    found = {}
    column(record, ANSWER)
    for name in ANSWER.split("|"):
        if has_column(record, name):
            found[name] = _index(name, column(record, name)[1], len(options), labels)
    if len(set(found.values())) > 1:
        said = ", ".join(f"{name} option {LETTERS[index]}" for name, index in found.items())
        raise InputError(f"columns do not agree about the right option: {said}")
    return next(iter(found.values()))


def _index(name: str, value: Any, options: int, labels: tuple[str, ...]) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.strip() in labels:
        return labels.index(value.strip())
    if isinstance(value, str) and not labels:
        text = value.strip()
        letter = LETTERS.find(text.upper()) if len(text) == 1 else -1
        value = letter if letter >= 0 else int(text) if text.isascii() and text.isdigit() and len(text) <= 2 else value
    if isinstance(value, bool) or not isinstance(value, int):
        known = f"one of the labels {', '.join(labels)}" if labels else "an index from 0 or a letter"
        raise InputError(f"column {name!r} must be {known}, not {shown(value)}")
    if not 0 <= value < options:
        raise InputError(f"column {name!r} is option number {value}, counted from 0, of {options}")
    return value
