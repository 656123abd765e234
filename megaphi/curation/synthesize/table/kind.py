"""Kinds of synthetic data, and which settings, checks and fields of a prompt go with which form.

A form is how a kind is made and what comes out of it: a `text`; several `qa` pairs; pairs with a `chain` of deductions;
`question`s whose answers are sampled; a `conversation`; `code` with tests; an instruction `reversed` from code; the
`middle` of a text. Checks are done in the order in which a kind names them, and each takes out what does not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from megaphi.curation.requests.template import Template
from megaphi.curation.synthesize.table.setting_values import (
    one_of,
    pattern,
    range_of_numbers,
    share,
    text,
    whole_number,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticKind:
    """One row of the table."""

    name: str
    about: str
    """One line, for the list of kinds."""
    seeds: tuple[str, ...]
    """Sources of documents that it takes, one of which a document must have (`steps/seed_source.py`)."""
    form: str
    prompt: Template
    tokens: int
    """The longest answer to the prompt."""
    checks: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Fields of the prompt, and what is drawn for them: audience, difficulty, style."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its form and checks, each with its value or default."""

    @property
    def combinations(self) -> int:
        """Different prompts for one document."""
        product = 1
        for options in self.choices.values():
            product *= len(options)
        return product


@dataclass(frozen=True, slots=True)
class FormRules:
    """The checks and fields that a form allows."""

    checks: tuple[str, ...]
    required: tuple[str, ...] = ()
    """Checks that every kind of this form must name."""
    plain: tuple[str, ...] = ()
    """Fields of the prompt, besides the document and the choices, that are put in as they are."""


PLAIN_CHECKS = ("length", "shape", "copied", "repetitive")
FORMS = {
    "text": FormRules((*PLAIN_CHECKS, "relevant", "grounded", "rubric")),
    "qa": FormRules(
        ("length", "repetitive", "self_contained", "relevant", "grounded", "difficulty", "solved", "rubric"),
        plain=("items",),
    ),
    "chain": FormRules(
        ("self_contained", "quoted", "difficulty", "solved", "repetitive"), required=("quoted",), plain=("items",)
    ),
    "question": FormRules(
        ("self_contained", "relevant", "difficulty", "plurality"), required=("plurality",), plain=("items",)
    ),
    "conversation": FormRules((*PLAIN_CHECKS, "relevant", "grounded", "rubric"), plain=("turns",)),
    "code": FormRules(("executed", "difficulty", "relevant"), required=("executed",)),
    "reversed": FormRules(("length", "faithful"), required=("faithful",)),
    "middle": FormRules(("hidden", "length", "rubric"), required=("hidden",)),
}
ALL_CHECKS = tuple(dict.fromkeys(check for rules in FORMS.values() for check in rules.checks))
SPANS = ("sentence", "paragraph", "section", "function", "block", "formula")
ANSWER_KINDS = ("maths", "choice", "exact")
MUST_BE_GIVEN = object()
"""Default of a setting without one."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of a row that belongs to some forms or checks."""

    default: Any
    read: Callable[[Any], Any]
    """Raises InputError that says what the field takes."""
    users: tuple[str, ...]
    """Forms as `form:NAME`, checks by name; "revise" is any kind that revises itself."""


SETTINGS: dict[str, Setting] = {
    "words": Setting((50, 3_000), range_of_numbers(1, 100_000), ("length",)),
    "pattern": Setting(MUST_BE_GIVEN, pattern, ("shape",)),
    "least": Setting(1, whole_number(1, 1_000), ("shape",)),
    "overlap": Setting(0.3, share, ("copied",)),
    "items": Setting(3, whole_number(1, 50), ("form:qa", "form:chain", "form:question")),
    "answers": Setting(8, whole_number(2, 256), ("plurality", "solved")),
    "answer_tokens": Setting(1_024, whole_number(1, 65_536), ("plurality", "solved", "executed", "faithful")),
    "answer_kind": Setting(MUST_BE_GIVEN, one_of(ANSWER_KINDS), ("plurality", "solved")),
    "shares": Setting((0.25, 0.9), range_of_numbers(0, 1), ("plurality",)),
    "agreement": Setting(0.5, share, ("solved",)),
    "rubric": Setting(MUST_BE_GIVEN, text, ("rubric", "revise")),
    "revise": Setting(0, whole_number(0, 20), ("form:text",)),
    "score": Setting(4, whole_number(1, 5), ("rubric", "relevant")),
    "levels": Setting((2, 4), range_of_numbers(1, 5), ("difficulty",)),
    "similarity": Setting(0.5, share, ("faithful",)),
    "turns": Setting((4, 12), range_of_numbers(2, 100), ("form:conversation",)),
    "span": Setting(MUST_BE_GIVEN, one_of(SPANS), ("form:middle",)),
}
