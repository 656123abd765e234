"""DROP: questions about a passage, answered by a number, a date or spans of text; 3-shot within one message.

simple-evals takes what stands behind the first `Answer:`, or the whole response, as one text, also where the key has
several spans; the F1 is the largest over the keys of all annotators. Corrected, the answer that counts is the last one
that is announced, and its parts are the spans. The figure of Phi-4's report is the F1.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megaphi.errors import InputError
from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, Switch, TaskResponse
from megaphi.evaluation.tasks.columns import (
    column,
    has_column,
    item_name,
    json_value,
    label_column,
    plain_value,
    shown,
    text_column,
)
from megaphi.evaluation.tasks.quirks import (
    ANSWER_ACROSS_LINES,
    FIRST_ANSWER,
    MARKUP_KEPT,
    PUBLISHED_FORM_ONLY,
    without_answer,
)
from megaphi.evaluation.tasks.short_answers.drop_metric import exact_match, f1_of_spans, normal_words
from megaphi.evaluation.tasks.unjudged import QuestionTask
from megaphi.evaluation.tasks.wording import chosen_shots, conversation, filled
from megaphi.grading.math_answer.extraction import last_boxed, stated_result
from megaphi.sampling import Sampling

WHOLE_RESPONSE = Switch(
    name="whole-response",
    on="Where no answer is announced, the whole response is the answer, and earns its share of F1.",
    off="Where none is announced, there is none.",
    changes="grading",
)
SPANS_AS_ONE = Switch(
    name="spans-as-one",
    on="Several spans of the key are one text, joined by commas, and so is the answer.",
    off="Where the key has several spans, commas and `and` separate those of the answer.",
    changes="grading",
)
WORDING = {
    "system": "",
    "opening": "Your task is a question about a passage. First come examples: passages, questions and their answers.",
    "examples": "\n\n# Examples",
    "example": "\n---\nPassage: {passage}\nQuestion: {question}\nAnswer: {answer}\n",
    "task": "\n# Your question\n",
    "question": (
        "\n---\nPassage: {passage}\nQuestion: {question}\nAnswer:\n\n"
        "Reason in steps, and end your response with a line that reads 'Answer: $ANSWER', without the quotes."
    ),
}
RULES = Sampling(max_tokens=2_048, temperature=0.5)
DRAWN = 200
"""Examples that are drawn, of which those about the item's own passage are left out: no passage has as many."""
BETWEEN_SPANS = re.compile(r"[,;&\n]|\band\b", re.IGNORECASE)
NO_MORE = re.compile(r"\W*answer\W*", re.IGNORECASE)
"""An announcement and nothing behind it."""
EMPHASIS = re.compile(r"\*\*|__")
WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class PassageKey:
    """The passage with its question, and the answers of all annotators, each a tuple of spans."""

    passage: str
    question: str
    answers: tuple[tuple[str, ...], ...]


def passage_item(record: Record) -> Item:
    """A question by the columns of EleutherAI/drop or of ucinlp/drop.

    The latter has all annotators' spans in one list: each counts as an answer by itself.
    """
    passage, question = text_column(record, "passage"), text_column(record, "question")
    answers = _annotated(record) if has_column(record, "answer") else _listed(record)
    kept = tuple(dict.fromkeys(answer for answer in answers if any(span.strip() for span in answer)))
    if not kept:
        raise InputError("columns 'answer' and 'validated_answers' hold no number, span or date")
    return Item(
        name=item_name(record, "query_id", passage, question),
        question=f"{passage}\n\n{question}",
        gold=" | ".join(", ".join(answer) for answer in kept),
        key=PassageKey(passage, question.strip(), kept),
        cluster=item_name({}, "section_id", passage),
        group=label_column(record, "section_id").split("_")[0],
    )


def _annotated(record: Record) -> list[tuple[str, ...]]:
    answers = [_answer_of("answer", json_value(column(record, "answer")[1]))]
    if has_column(record, "validated_answers"):
        others = json_value(column(record, "validated_answers")[1])
        if isinstance(others, Mapping):  # columns of lists, as tables hold them
            lists = {name: list(plain_value(values)) for name, values in others.items()}
            kept = [lists.get(name, []) for name in ("number", "date", "spans")]
            if len({len(values) for values in kept}) != 1:
                raise InputError("column 'validated_answers' must have as many numbers as dates and spans")
            others = [dict(zip(("number", "date", "spans"), one, strict=True)) for one in zip(*kept, strict=True)]
        if not isinstance(others, list | tuple):
            raise InputError(f"column 'validated_answers' must be a list of answers, not {shown(others)}")
        answers += [_answer_of("validated_answers", one) for one in others]
    return answers


def _answer_of(name: str, answer: Any) -> tuple[str, ...]:
    """The number, else the spans, else the date; as DROP's own evaluation reads an annotation."""
    if not isinstance(answer, Mapping):
        raise InputError(f"column {name!r} must be an object with number, spans and date, not {shown(answer)}")
    number, spans, date = answer.get("number"), plain_value(answer.get("spans")), answer.get("date")
    if isinstance(number, str | int | float) and not isinstance(number, bool) and str(number).strip():
        return (str(number).strip(),)
    if spans:
        if not isinstance(spans, list | tuple) or not all(isinstance(span, str) for span in spans):
            raise InputError(f"field 'spans' of column {name!r} must be a list of texts, not {shown(spans)}")
        return tuple(spans)
    parts = [str(date.get(part) or "") for part in ("day", "month", "year")] if isinstance(date, Mapping) else []
    return (" ".join(parts).strip(),)


def _listed(record: Record) -> list[tuple[str, ...]]:
    spans = json_value(column(record, "answer|answers_spans")[1])
    texts = plain_value(spans.get("spans")) if isinstance(spans, Mapping) else None
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"column 'answers_spans' must be an object with a list of spans, not {shown(spans)}")
    return [(text,) for text in texts]


def announced_answer(text: str, on: frozenset[str]) -> str | None:
    """The answer that a response announces under the switches `on`."""
    plain = text if MARKUP_KEPT.name in on else EMPHASIS.sub("", text)
    space = r"\s*" if ANSWER_ACROSS_LINES.name in on else r"[ \t]*"
    matches = re.findall(rf"Answer{space}:{space}([^\n]+)", plain, re.IGNORECASE)
    if PUBLISHED_FORM_ONLY.name not in on:
        matches = [one for one in matches if one.strip()]
    found: str | None = matches[0 if FIRST_ANSWER.name in on else -1] if matches else None
    if found is None and PUBLISHED_FORM_ONLY.name not in on:
        stated = stated_result(plain, last_number=False)
        found = None if stated is None or NO_MORE.fullmatch(stated.text) else stated.text
    if found is not None and MARKUP_KEPT.name not in on:
        found = WRAPPED.sub(r"\1", last_boxed(found) or found)
    return found


def measured(answer: str, key: PassageKey, on: frozenset[str]) -> dict[str, float]:
    """Scores of an answer: for each measure the largest over the annotators' answers."""
    pairs: list[tuple[Sequence[str], Sequence[str]]] = []
    for spans in key.answers:
        if len(spans) == 1 or SPANS_AS_ONE.name in on:
            pairs.append(((answer,), (", ".join(spans),)))
        else:
            pairs.append(((answer,), spans))
            pairs.append(([part for part in BETWEEN_SPANS.split(answer) if part.strip()] or [""], spans))
    return {
        "f1": max(f1_of_spans(*pair) for pair in pairs),
        "exact_match": max(exact_match(*pair) for pair in pairs),
        "contained": float(any(_contained(answer, ", ".join(spans)) for spans in key.answers)),
    }


def _contained(answer: str, key: str) -> bool:
    """The looser measure that simple-evals calls the score: one text is within the other."""
    ours, theirs = (" ".join(re.sub(r"\b(a|an|the)\b", " ", _bare(text)).split()) for text in (answer, key))
    return ours == theirs if not ours or not theirs else ours in theirs or theirs in ours


def _bare(text: str) -> str:
    return re.sub(r"[!-/:-@\[-`{-~]", "", text.lower())


@dataclass(frozen=True, kw_only=True, slots=True)
class PassageTask(QuestionTask):
    """Questions about passages."""

    name: str = "drop"
    about: str = "DROP: 9,536 questions about passages, with numbers, dates and spans as answers (EleutherAI/drop)"
    columns: tuple[str, ...] = ("passage", "question", "answer|answers_spans")
    switches: tuple[Switch, ...] = (
        FIRST_ANSWER,
        ANSWER_ACROSS_LINES,
        PUBLISHED_FORM_ONLY,
        MARKUP_KEPT,
        WHOLE_RESPONSE,
        SPANS_AS_ONE,
    )
    rules: Sampling = RULES
    repeats: int = 1
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))
    scores: tuple[str, ...] = ("f1", "exact_match", "contained")
    shots: int = 3

    def read(self, record: Record) -> Item:
        return passage_item(record)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        """Each item has its own examples, drawn by its name, of other passages."""
        places = random.Random(f"42 {item.name}").sample(range(len(shots)), min(len(shots), DRAWN))
        drawn = [shots[place] for place in places if shots[place].key.passage != item.key.passage]
        parts = [self.wording["opening"], self.wording["examples"]]
        for one in chosen_shots(self.name, self.shots, item, drawn, same_group=False):
            parts.append(self._filled("example", one, answer=", ".join(one.key.answers[0])))
        parts += [self.wording["task"], self._filled("question", item)]
        return Continue(prompt=conversation(self.wording, "".join(parts)), rules=self.rules, repeats=self.repeats)

    def _filled(self, template: str, item: Item, **texts: str) -> str:
        return filled(self.wording[template], passage=item.key.passage, question=item.key.question, **texts)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        return [self._graded(response, on) for response in responses]

    def _graded(self, response: TaskResponse, on: frozenset[str]) -> Grade:
        found = announced_answer(response.text, on)
        if found is None and WHOLE_RESPONSE.name not in on:
            return Grade(scores=dict.fromkeys(self.scores, 0.0), problem=without_answer(response))
        return Grade(
            scores=measured(response.text if found is None else found, response.item.key, on),
            extracted=found or "",
            problem="" if found and found.strip() else without_answer(response),
            note=" ".join(normal_words(found or "")),
        )


TASKS = (PassageTask(),)
