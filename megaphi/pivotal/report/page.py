"""The page of a search: one HTML file that needs nothing else, without scripts. Everything in it is escaped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from megaphi.conversation import Conversation
from megaphi.grading.question import Question
from megaphi.pivotal.report.answer_view import view_of
from megaphi.pivotal.report.curve import success_curve
from megaphi.pivotal.search import SearchedAnswer
from megaphi.tokenizer.interface import Tokenizer

TEMPLATE = Path(__file__).with_name("page.html")
MOST_ANSWERS = 200
"""Answers on a page: a browser shows these at once. The files of a search hold all."""


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    """An answer, and the positions whose effect stands over all questions."""

    question: Question
    answer: SearchedAnswer
    pivotal: Collection[int]


def render_page(answers: Sequence[ShownAnswer], tokenizer: Tokenizer, *, title: str) -> str:
    """The page; answers with pivotal tokens come first."""
    ordered = sorted(answers, key=lambda shown: -len(shown.pivotal))
    pivots = sum(len(shown.pivotal) for shown in answers)
    introduction = f"{pivots:,} pivotal tokens in {len(answers):,} answers."
    if len(ordered) > MOST_ANSWERS:
        introduction += f" The {MOST_ANSWERS} with most of them are shown; pivotal_tokens.jsonl holds all."
    items = [_item(shown, tokenizer) for shown in ordered[:MOST_ANSWERS]]
    return _template().render(title=title, introduction=introduction, answers=items)


def _item(shown: ShownAnswer, tokenizer: Tokenizer) -> dict[str, Any]:
    from markupsafe import Markup

    answer = shown.answer
    return {
        "name": shown.question.name,
        "prompt": prompt_text(shown.question),
        "outcome": "This answer is right." if answer.trace.success else "This answer is wrong.",
        "curve": Markup(success_curve(answer, shown.pivotal)),
        "view": view_of(answer, shown.pivotal, tokenizer),
    }


def prompt_text(question: Question) -> str:
    """Text of a question: of a conversation, the texts of its messages."""
    if isinstance(question.prompt, Conversation):
        return "\n".join(message.content for message in question.prompt.messages)
    return question.prompt


@cache
def _template() -> Any:
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text())
