"""GSM8K and MGSM: word problems of primary school whose answers are whole numbers.

MGSM is 250 of GSM8K's problems in eleven languages, asked in each of them, and follows simple-evals. GSM8K itself is
not in simple-evals: for chat models it is asked and graded as MGSM's English, for base models as lm-eval does, 8-shot,
with the number behind `####` as the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from megaphi.errors import InputError
from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, Switch, TaskResponse
from megaphi.evaluation.tasks.columns import column, item_name, label_column, shown, text_column, with_repetitions
from megaphi.evaluation.tasks.mathematics.languages import LATIN_SCRIPT, REQUESTS
from megaphi.evaluation.tasks.mathematics.number_reading import (
    ANSWER_WORDS,
    COMPARED_AS_TEXT,
    NUMBER_QUIRKS,
    read_number,
)
from megaphi.evaluation.tasks.quirks import FIRST_ANSWER, PUBLISHED_FORM_ONLY, without_answer
from megaphi.evaluation.tasks.unjudged import QuestionTask
from megaphi.evaluation.tasks.wording import chosen_shots, conversation, filled
from megaphi.grading.math_answer.extraction import stated_result
from megaphi.sampling import Sampling

QUESTION = "question"
GOLD = "answer_number|answer"
WORDING = {"system": "", **{language: f"{request}\n\n{{question}}" for language, request in REQUESTS.items()}}
BASE_WORDING = {"opening": "", "question": "Question: {question}\nAnswer:"}
RULES = Sampling(max_tokens=2_048, temperature=0.5)
BASE_RULES = Sampling(max_tokens=512, stop=("Question:", "</s>", "<|im_end|>"))
BEHIND_HASHES = re.compile(r"#### (-?[0-9.,]+)")
ANY_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


@dataclass(frozen=True, slots=True)
class WordProblem:
    """The answer as plain digits, the language, and the solution if the file has one."""

    number: str
    language: str = "en"
    solution: str = ""


def english_item(record: Record) -> Item:
    """A problem of GSM8K: `answer` is a solution that ends with `#### 72`, or a number."""
    question = text_column(record, QUESTION)
    key = WordProblem(_number(record), "en", _solution(record))
    return Item(name=item_name(record, "id", question), question=question, gold=key.number, key=key)


def translated_item(record: Record) -> Item:
    """A problem of MGSM, with a column for its language that the hub's files say by their names only."""
    _, value = column(record, "language|lang")
    if value not in ANSWER_WORDS:
        raise InputError(f"column 'language' must be one of {', '.join(ANSWER_WORDS)}, not {shown(value)}")
    question = text_column(record, QUESTION)
    script = "latin" if value in LATIN_SCRIPT else "non_latin"
    key = WordProblem(_number(record), value, _solution(record))
    return Item(
        name=item_name(record, "id", value, question),
        question=question,
        gold=key.number,
        key=key,
        cluster=label_column(record, "index"),
        group=f"{script}/{value}",
    )


def _number(record: Record) -> str:
    name, value = column(record, GOLD)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).rpartition("####")[2].replace(",", "").strip()
    if isinstance(value, bool) or not isinstance(value, str | int) or not re.fullmatch(r"-?[0-9]{1,100}", text):
        raise InputError(
            f"column {name!r} must be a whole number or a solution that ends with '#### 72': {shown(value)}"
        )
    return text


def _solution(record: Record) -> str:
    value: Any = record.get("answer")
    return value.strip() if isinstance(value, str) and "####" in value else ""


def clustered_translations(items: Sequence[Item]) -> list[Item]:
    """Items of which those with equal places in the files of their languages share a cluster.

    Raises:
        InputError: the languages have different numbers of items, so that places say nothing.
    """
    counts: dict[str, int] = {}
    found = []
    for item in items:
        place = counts[item.key.language] = counts.get(item.key.language, 0) + 1
        found.append(replace(item, cluster=item.cluster or f"problem {place}"))
    if len(set(counts.values())) > 1 and not all(item.cluster for item in items):
        said = ", ".join(f"{language} {count}" for language, count in counts.items())
        raise InputError(
            f"mgsm: languages have different numbers of problems ({said}), so their order does not tell which are "
            "translations of each other: give each record its number in a column 'index'"
        )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class WordProblemTask(QuestionTask):
    """Word problems, solved in words that end with a whole number."""

    name: str
    about: str
    item: Callable[[Record], Item]
    columns: tuple[str, ...]
    switches: tuple[Switch, ...] = NUMBER_QUIRKS
    rules: Sampling = RULES
    repeats: int = 1
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))
    scores: tuple[str, ...] = ("accuracy",)

    def read(self, record: Record) -> Item:
        return self.item(record)

    def arranged(self, items: Sequence[Item]) -> list[Item]:
        return with_repetitions(clustered_translations(items) if "language|lang" in self.columns else items)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        prompt = conversation(self.wording, filled(self.wording[item.key.language], question=item.question))
        return Continue(prompt=prompt, rules=self.rules, repeats=self.repeats)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        return [_number_grade(one, on) for one in responses]


def _number_grade(response: TaskResponse, on: frozenset[str]) -> Grade:
    key: WordProblem = response.item.key
    found = read_number(response.text, key.number, key.language, on)
    return Grade(
        scores={"accuracy": float(found.is_right)},
        extracted=found.text,
        problem="" if found.text else without_answer(response),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkedWordProblemTask(QuestionTask):
    """GSM8K for base models: after worked examples, the number behind `####`; `flexible` takes the last number."""

    name: str = "gsm8k_base"
    about: str = "GSM8K for base models: 1,319 word problems, 8-shot with worked solutions (openai/gsm8k)"
    columns: tuple[str, ...] = (QUESTION, "answer")
    switches: tuple[Switch, ...] = (FIRST_ANSWER, COMPARED_AS_TEXT, PUBLISHED_FORM_ONLY)
    rules: Sampling = BASE_RULES
    wording: Mapping[str, str] = field(default_factory=lambda: dict(BASE_WORDING))
    scores: tuple[str, ...] = ("exact_match", "flexible")
    shots: int = 8

    def read(self, record: Record) -> Item:
        return english_item(record)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        worked = chosen_shots(self.name, self.shots, item, shots, same_group=False)
        unsolved = [one.name for one in worked if not one.key.solution]
        if unsolved:
            raise InputError(
                f"{self.name}: the worked example {unsolved[0]!r} has no solution that ends with '#### 72'"
            )
        parts = [self.wording["opening"]]
        parts += [f"{self._question(one)} {one.key.solution}\n\n" for one in worked]
        return Continue(prompt="".join(parts) + self._question(item), rules=self.rules)

    def _question(self, item: Item) -> str:
        return filled(self.wording["question"], question=item.question)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        return [_hashes_grade(one, on) for one in responses]


def _hashes_grade(response: TaskResponse, on: frozenset[str]) -> Grade:
    number = response.item.key.number
    behind = BEHIND_HASHES.findall(response.text)
    found = behind[0 if FIRST_ANSWER.name in on else -1] if behind else ""
    if not found and PUBLISHED_FORM_ONLY.name not in on:
        stated = stated_result(response.text, last_number=False)
        numbers = ANY_NUMBER.findall(stated.text) if stated is not None else []
        found = numbers[0] if numbers else ""
    numbers = ANY_NUMBER.findall(response.text)
    scores = {
        "exact_match": float(_same_number(found, number, on)),
        "flexible": float(bool(numbers) and _as_compared(numbers[-1]) == number),
    }
    return Grade(scores=scores, extracted=found, problem="" if found else without_answer(response))


def _as_compared(text: str) -> str:
    """As lm-eval compares: without commas and dollar signs, and without one point at the end."""
    return text.replace(",", "").replace("$", "").removesuffix(".")


def _same_number(found: str, number: str, on: frozenset[str]) -> bool:
    text = _as_compared(found)
    if COMPARED_AS_TEXT.name in on:
        return text == number
    return bool(re.fullmatch(r"-?\d{1,100}(?:\.\d{0,100})?|-?\.\d{1,100}", text)) and Decimal(text) == Decimal(number)


TASKS = (
    WordProblemTask(
        name="gsm8k",
        about="GSM8K: 1,319 word problems whose answers are whole numbers (openai/gsm8k)",
        item=english_item,
        columns=(QUESTION, "answer"),
    ),
    WordProblemTask(
        name="mgsm",
        about="MGSM: 250 word problems in each of eleven languages (juletxara/mgsm, with a column `language`)",
        item=translated_item,
        columns=("language|lang", QUESTION, GOLD),
    ),
    WorkedWordProblemTask(),
)
