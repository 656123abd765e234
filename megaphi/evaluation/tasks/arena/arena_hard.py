"""Arena-Hard: a judge compares the answer with a baseline's, in two games with the order swapped (Li et al. 2024).

    game 1: A is the baseline, B the model        game 2: A is the model, B the baseline
    A>>B  A>B  A=B  B>A  B>>A                     a clear win or loss weighs as three slight ones

Win rate = sum of weight x outcome / sum of weight, the outcome 1, 1/2 or 0 for the model. It is what the Bradley-Terry
model says: with one opponent its likelihood is largest where the chance to win is this share. Phi-4's report prints it.
The baseline's answer is a column of each record; the judge is asked in our words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megaphi.conversation import Conversation, Message
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
from megaphi.evaluation.tasks.quirks import JUDGE_READS_IT_RAW
from megaphi.evaluation.tasks.wording import conversation, filled
from megaphi.judging.fence import make_fence
from megaphi.sampling import Sampling

FAILED_GAMES_DROPPED = Switch(
    name="failed-games-dropped",
    on="A game to which the judge gives no single verdict counts nowhere (as in the benchmark's own scripts).",
    off="Such a game is lost, with the weight of a slight loss, and the response is a failure of the judge.",
    changes="grading",
)
VERDICT = re.compile(r"\[\[([AB<>=]+)\]\]")
OUTCOMES = {"A>>B": (1.0, 3), "A>B": (1.0, 1), "A=B": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, 3)} | {
    "B<<A": (1.0, 3),
    "B<A": (1.0, 1),
    "B=A": (0.5, 1),
    "A<B": (0.0, 1),
    "A<<B": (0.0, 3),
}
"""Verdict to the outcome for assistant A and its weight."""
LARGEST_WEIGHT = 6
SYSTEM = """\
You are a fair judge of two assistants, A and B, who answered the same request. Find out whose answer is better.

Answer the request yourself first, before you judge. Then compare both answers with yours: name their mistakes and \
correct them. Look at whether each answer helps (it does what was asked, or asks back where the request is unclear), \
keeps to the request, and is brief; then at its originality where that matters; then at what it leaves out.

End with exactly one of these verdicts:

[[A>>B]] A is much better
[[A>B]] A is a little better
[[A=B]] they are about equal
[[B>A]] B is a little better
[[B>>A]] B is much better

For instance: "My verdict: [[A=B]]"."""
WORDING = {
    "system": "",
    "question": "{question}",
    "judge_system": SYSTEM,
    "judge": "Request:\n{question}\n\nAnswer of assistant A:\n{a}\n\nAnswer of assistant B:\n{b}",
    "judge_again": "Finish your judgement now, with one of the five verdicts.",
}
RULES = Sampling(max_tokens=4_096)


@dataclass(frozen=True, slots=True)
class Game:
    """The outcome for the model, its weight, and what the judge wrote; weight 0 if there was no verdict."""

    outcome: float
    weight: int
    said: str


def verdict_of(said: str) -> tuple[float, int] | None:
    """(outcome for A, weight) of the one verdict in a text; None if there is none, or if they differ."""
    labels = set(VERDICT.findall(said))
    return OUTCOMES.get(next(iter(labels))) if len(labels) == 1 else None


def win_rate(means: Mapping[str, float]) -> float:
    """The Bradley-Terry chance to win against the baseline; 0 if no game had a verdict."""
    return means["points"] / means["weight"] if means["weight"] else 0.0


def first_turn(record: Record) -> str:
    if not has_column(record, "turns"):
        return text_column(record, "prompt")
    turns = json_value(column(record, "turns")[1])
    first = turns[0] if isinstance(turns, list | tuple) and turns else None
    text = first.get("content") if isinstance(first, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"column 'turns' must be a list of objects with a content, not {shown(turns)}")
    return text


def baseline_answer(record: Record) -> str:
    """The baseline's answer: a text, or as the benchmark's answer files have it, in `choices` or in `messages`."""
    name, value = column(record, "baseline|choices|messages")
    value = json_value(value)
    try:
        text = _answer_in(name, value)
    except (KeyError, IndexError, TypeError, AttributeError):
        text = None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"column {name!r} holds no answer of the baseline: {shown(value)}")
    return text


def _answer_in(name: str, value: Any) -> Any:
    if name == "choices":
        return plain_value(plain_value(value)[0]["turns"])[0]["content"]
    if name == "messages":
        content = plain_value(value)[-1]["content"]
        return content["answer"] if isinstance(content, Mapping) else content
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class ArenaTask:
    """Requests of users, on which a judge compares two models."""

    name: str = "arena_hard"
    about: str = "Arena-Hard: 500 requests, compared with a baseline's answers by a judge (lmarena-ai/arena-hard-auto)"
    columns: tuple[str, ...] = ("turns|prompt", "baseline|choices|messages")
    switches: tuple[Switch, ...] = (FAILED_GAMES_DROPPED, JUDGE_READS_IT_RAW)
    rules: Sampling = RULES
    repeats: int = 1
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))
    scores: tuple[str, ...] = ("preferred", "points", "weight")
    """`preferred`: the mean outcome of the two games. The others are parts of the win rate: weighted outcomes, and
    weights, both over the largest weight of two games."""
    derived: Mapping[str, Callable[[Mapping[str, float]], float]] = field(
        default_factory=lambda: {"win_rate": win_rate}
    )
    shots: int = 0

    def judge_requests(self, on: frozenset[str]) -> int:
        return 4  # two games; one without a verdict is finished in a second request

    def read(self, record: Record) -> Item:
        question, baseline = first_turn(record), baseline_answer(record)
        labels = filter(None, (label_column(record, "category"), label_column(record, "subcategory")))
        return Item(
            name=item_name(record, "question_id|uid", question),
            question=question,
            gold=baseline,
            key=baseline,
            cluster=label_column(record, "cluster"),
            group="/".join(labels),
        )

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        prompt = conversation(self.wording, filled(self.wording["question"], question=item.question))
        return Continue(prompt=prompt, rules=self.rules, repeats=self.repeats)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        prompts = [
            self._judge_prompt(response.item, *answers, on, tools.seed)
            for response in responses
            for answers in ((response.item.key, response.text), (response.text, response.item.key))
        ]
        said = self._judged(prompts, tools)
        games = [_game(text, model_is_a=place % 2 == 1) for place, text in enumerate(said)]
        return [_graded(games[place : place + 2], on) for place in range(0, len(games), 2)]

    def _judge_prompt(self, item: Item, a: str, b: str, on: frozenset[str], seed: int) -> Conversation:
        texts = {"question": item.question, "a": a, "b": b}
        system = self.wording["judge_system"]
        if JUDGE_READS_IT_RAW.name not in on:
            fence = make_fence(seed=seed, name=item.name, texts=list(texts.values()))
            labels = {"question": "request", "a": "answer of assistant A", "b": "answer of assistant B"}
            texts = {name: fence.quote(labels[name], text) for name, text in texts.items()}
            system = f"{system}\n\n{fence.rule}"
        return Conversation((Message("system", system), Message("user", filled(self.wording["judge"], **texts))))

    def _judged(self, prompts: Sequence[Conversation], tools: GradingTools) -> list[str | None]:
        """The judge's texts; one that names no verdict is asked to finish, once, as in the benchmark's scripts."""
        if tools.judge is None:
            raise AssertionError("a task that needs a judge is refused before anything is asked")
        said = tools.judge.answers(prompts, RULES)
        open_ended = [place for place, text in enumerate(said) if text is not None and not VERDICT.search(text)]
        if open_ended:
            asked = [self._again(prompts[place], said[place] or "") for place in open_ended]
            for place, more in zip(open_ended, tools.judge.answers(asked, RULES), strict=True):
                said[place] = f"{said[place]}\n{more or ''}"
        return said

    def _again(self, prompt: Conversation, said: str) -> Conversation:
        return Conversation(
            (*prompt.messages, Message("assistant", said), Message("user", self.wording["judge_again"]))
        )


def _game(said: str | None, *, model_is_a: bool) -> Game:
    found = verdict_of(said or "")
    if found is None:
        return Game(0.0, 0, "the judge refused" if said is None else said)
    outcome, weight = found
    return Game(outcome if model_is_a else 1 - outcome, weight, said or "")


def _graded(games: Sequence[Game], on: frozenset[str]) -> Grade:
    failed = [game for game in games if not game.weight]
    if FAILED_GAMES_DROPPED.name in on:
        counted = [game for game in games if game.weight]
    else:
        counted = [Game(0.0, 1, game.said) if not game.weight else game for game in games]
    return Grade(
        scores={
            "preferred": sum(game.outcome for game in counted) / len(counted) if counted else 0.0,
            "points": sum(game.outcome * game.weight for game in counted) / LARGEST_WEIGHT,
            "weight": sum(game.weight for game in counted) / LARGEST_WEIGHT,
        },
        extracted=", ".join(" ".join(dict.fromkeys(VERDICT.findall(game.said))) or "none" for game in games),
        problem="judge failed" if failed else "",
        note="\n\n".join(f"game {number}: {game.said}" for number, game in enumerate(games, start=1)),
    )


TASKS = (ArenaTask(),)
