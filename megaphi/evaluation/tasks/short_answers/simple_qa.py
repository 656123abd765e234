"""SimpleQA: short questions about facts; a judge says correct, incorrect or not attempted.

Three figures belong together: the share of correct answers, the share not attempted, and F1, the harmonic mean of the
share correct over all questions and over those attempted. Phi-4's report prints the share correct.

simple-evals takes the first A, B or C that the judge writes, also within a word: `CORRECT` begins with C and means not
attempted, `NOT_ATTEMPTED` holds an A first and means correct. Without any letter nothing was attempted. The judge here
is asked in our words.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from megaphi.conversation import Conversation, Message
from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, Switch, TaskResponse
from megaphi.evaluation.tasks.columns import has_column, item_name, plain_value, text_column, with_repetitions
from megaphi.evaluation.tasks.quirks import JUDGE_READS_IT_RAW, JUDGE_SAMPLES
from megaphi.evaluation.tasks.wording import conversation, filled
from megaphi.judging.fence import make_fence
from megaphi.sampling import Sampling

LETTER_ANYWHERE = Switch(
    name="letter-anywhere",
    on="The first A, B or C in what the judge writes decides, also within a word; none of them means not attempted.",
    off="A line with nothing but a letter or its word decides; anything else is a failure of the judge.",
    changes="grading",
)
JUDGE = """\
You grade a short answer to a question about a fact. You are given the question, the key (the right answer) and the \
answer of a model. There are three grades.

A, CORRECT: the answer holds all that the question asks for, as the key has it, and contradicts the key nowhere. \
Hedging is no fault if the fact is there. Case, punctuation, order and misspelt names do not matter.
B, INCORRECT: something in the answer contradicts the key, also if it is said with doubt or as one of several guesses.
C, NOT_ATTEMPTED: the fact is not in the answer, or not all of it, and nothing contradicts the key.

Example. Question: Which rivers meet in Koblenz? Key: Rhine and Moselle.
"the moselle and the rhine, I believe" is A. "Rhine and Main" is B. "Either Rhine and Moselle, or Rhine and Lahn" is \
B. "One of them is the Rhine" is C. "I would have to look that up" is C.

A number must agree with the key in all digits that the key gives: for the key 47 thousand, 47,210 is A, 46 thousand \
is B, and more than 10 thousand is C. Where the key says more than was asked, only what was asked is needed, and what \
the question makes plain (a unit, a country, a surname) may be left out.

Question: {question}
Key: {key}
Answer: {answer}

Write one letter, A, B or C, and nothing else."""
WORDING = {"system": "", "question": "{question}", "judge": JUDGE}
RULES = Sampling(max_tokens=2_048, temperature=0.5)
WORDS = {"A": "CORRECT", "B": "INCORRECT", "C": "NOT ATTEMPTED"}
LETTER_OF = {form: letter for letter, word in WORDS.items() for form in (letter, word, f"{letter} {word}")}
"""Texts that may stand alone on a line, punctuation aside."""
FIGURES = ("correct", "incorrect", "not_attempted")
Figures = Mapping[str, float]


def judged_letter(said: str | None, on: frozenset[str]) -> str | None:
    """A, B or C; None if the judge gave none."""
    if LETTER_ANYWHERE.name in on:
        found = re.search("[ABC]", said or "")
        return found[0] if found else None
    lines = [line for line in (said or "").splitlines() if line.strip()]
    for line in (lines[-1], lines[0]) if lines else ():
        if letter := LETTER_OF.get(" ".join(re.findall(r"[^\W_]+", line))):
            return letter
    return None


def attempted(means: Figures) -> float:
    return means["correct"] + means["incorrect"]


def correct_of_attempted(means: Figures) -> float:
    return means["correct"] / attempted(means) if attempted(means) else 0.0


def harmonic_mean(means: Figures) -> float:
    """F1 = 2 / (1 / correct + 1 / correct of attempted)."""
    return 2 * means["correct"] / (1 + attempted(means)) if means["correct"] else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FactTask:
    """Questions about facts, graded by a judge."""

    name: str = "simpleqa"
    about: str = "SimpleQA: 4,326 questions about facts, graded by a judge (basicv8vc/SimpleQA)"
    columns: tuple[str, ...] = ("problem", "answer")
    switches: tuple[Switch, ...] = (LETTER_ANYWHERE, JUDGE_READS_IT_RAW, JUDGE_SAMPLES)
    rules: Sampling = RULES
    repeats: int = 1
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))
    scores: tuple[str, ...] = FIGURES
    derived: Mapping[str, Callable[[Figures], float]] = field(
        default_factory=lambda: {"f1": harmonic_mean, "correct_of_attempted": correct_of_attempted}
    )
    shots: int = 0

    def judge_requests(self, on: frozenset[str]) -> int:
        return 1

    def read(self, record: Record) -> Item:
        problem, answer = text_column(record, "problem"), text_column(record, "answer")
        name = item_name(record, "id", problem, answer)
        return Item(name=name, question=problem, gold=answer, key=answer, group=_topic(record))

    def arranged(self, items: Sequence[Item]) -> list[Item]:
        return with_repetitions(items)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        prompt = conversation(self.wording, filled(self.wording["question"], question=item.question))
        return Continue(prompt=prompt, rules=self.rules, repeats=self.repeats)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        if tools.judge is None:
            raise AssertionError("a task that needs a judge is refused before anything is asked")
        prompts = [self._judge_prompt(response, on, tools.seed) for response in responses]
        temperature = 0.5 if JUDGE_SAMPLES.name in on else 0.0
        rules = Sampling(max_tokens=1_024, temperature=temperature, seed=tools.seed)
        return [_graded(said, on) for said in tools.judge.answers(prompts, rules)]

    def _judge_prompt(self, response: TaskResponse, on: frozenset[str], seed: int) -> Conversation:
        texts = {"question": response.item.question, "key": response.item.gold, "answer": response.text}
        if JUDGE_READS_IT_RAW.name in on:
            return Conversation((Message("user", filled(self.wording["judge"], **texts)),))
        fence = make_fence(seed=seed, name=response.item.name, texts=list(texts.values()))
        quoted = {label: f"\n{fence.quote(label, text)}" for label, text in texts.items()}
        return Conversation((Message("user", f"{fence.rule}\n\n{filled(self.wording['judge'], **quoted)}"),))


def _graded(said: str | None, on: frozenset[str]) -> Grade:
    """A judge that failed leaves the answer incorrect; as published, not attempted."""
    letter = judged_letter(said, on)
    counted = letter or ("C" if LETTER_ANYWHERE.name in on else "B")
    scores = {name: float(counted == one) for name, one in zip(FIGURES, "ABC", strict=True)}
    note = "the judge refused" if said is None else f"judge: {said}"
    return Grade(scores=scores, extracted=letter or "", problem="" if letter else "judge failed", note=note)


def _topic(record: Record) -> str:
    """The topic in the column `metadata`, an object or one as Python writes it; "" if there is none."""
    if not has_column(record, "metadata"):
        return ""
    metadata = plain_value(record["metadata"])
    if isinstance(metadata, str):
        try:
            metadata = ast.literal_eval(metadata)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return ""
    topic = metadata.get("topic") if isinstance(metadata, Mapping) else None
    return topic if isinstance(topic, str) else ""


TASKS = (FactTask(),)
