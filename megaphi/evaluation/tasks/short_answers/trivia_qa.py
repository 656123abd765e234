"""TriviaQA for base models: a question of general knowledge, 1-shot, without the documents (rc.nocontext).

The answer is the first line that the model goes on with. Compared as the benchmark compares (Joshi et al. 2017): exact
match with any alias, in lower case, underscores and punctuation as spaces, without articles. Not in simple-evals.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megaphi.errors import InputError
from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, TaskResponse
from megaphi.evaluation.tasks.columns import (
    column,
    item_name,
    json_value,
    plain_value,
    shown,
    text_column,
    texts_of,
)
from megaphi.evaluation.tasks.quirks import without_answer
from megaphi.evaluation.tasks.unjudged import QuestionTask
from megaphi.evaluation.tasks.wording import chosen_shots, filled
from megaphi.sampling import Sampling

RULES = Sampling(max_tokens=64, stop=("\n",))
WORDING = {"opening": "", "question": "Question: {question}\nAnswer:", "answer": " {answer}\n\n"}
AS_SPACE = re.compile(f"[{re.escape(string.punctuation)}‘’´`]")


def normal_answer(text: str) -> str:
    """The form in which answers are compared."""
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", AS_SPACE.sub(" ", text.lower())).split())


def trivia_item(record: Record) -> Item:
    question = text_column(record, "question").strip()
    answer = json_value(column(record, "answer")[1])
    if not isinstance(answer, Mapping) or not isinstance(answer.get("value"), str):
        raise InputError(f"column 'answer' must be an object with value and aliases, not {shown(answer)}")
    lists = [plain_value(answer.get(name)) for name in ("aliases", "normalized_aliases")]
    listed = [text for one in lists if one for text in texts_of("answer", one)]
    aliases = tuple(dict.fromkeys(filter(None, map(normal_answer, (answer["value"], *listed)))))
    if not aliases:
        raise InputError("column 'answer' has no alias with a word in it")
    return Item(name=item_name(record, "question_id", question), question=question, gold=answer["value"], key=aliases)


def f1_of_texts(found: str, key: str) -> float:
    """F1 of the words of two texts in their normal form, repeated words counted."""
    ours, theirs = found.split(), key.split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TriviaTask(QuestionTask):
    """Questions of general knowledge, for base models."""

    name: str = "triviaqa"
    about: str = "TriviaQA: 17,944 questions of general knowledge, 1-shot (mandarjoshi/trivia_qa, rc.nocontext)"
    columns: tuple[str, ...] = ("question", "answer")
    rules: Sampling = RULES
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))
    scores: tuple[str, ...] = ("exact_match", "f1")
    shots: int = 1

    def read(self, record: Record) -> Item:
        return trivia_item(record)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        parts = [self.wording["opening"]]
        for one in chosen_shots(self.name, self.shots, item, shots, same_group=False):
            parts.append(filled(self.wording["question"], question=one.question))
            parts.append(filled(self.wording["answer"], answer=one.gold))
        return Continue(
            prompt="".join(parts) + filled(self.wording["question"], question=item.question), rules=self.rules
        )

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        return [_graded(response) for response in responses]


def _graded(response: TaskResponse) -> Grade:
    line = response.text.strip().split("\n")[0].strip()
    found = normal_answer(line)
    if not found:
        return Grade(scores={"exact_match": 0.0, "f1": 0.0}, problem=without_answer(response))
    aliases = response.item.key
    return Grade(
        scores={"exact_match": float(found in aliases), "f1": max(f1_of_texts(found, alias) for alias in aliases)},
        extracted=line,
    )


TASKS = (TriviaTask(),)
