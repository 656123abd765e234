"""Runs many questions side by side: gathers what their searches ask for, generates, grades, stores, and answers them.

A search is a coroutine that yields asks (`Draws`, `Scores`) and is sent the replies. As soon as everything that one
search asked for is there it goes on, whatever the others do, so the model always has the requests of many questions to
work on. A rollout is written to the store when it ends and before it is graded; one that is in the store already costs
nothing. Its random numbers depend on its key alone: the same rollout comes whoever asks for it, and in whatever order.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.interface import Request
from megaphi.grading.question import Question
from megaphi.grading.verdict import Verdict
from megaphi.pivotal.methods.rollout import Draw, Rollout, RolloutOutcome
from megaphi.pivotal.rollouts.prefix_reuse import QuestionRollouts
from megaphi.pivotal.rollouts.source import RolloutSource
from megaphi.pivotal.rollouts.store import RolloutKey, RolloutStore, StoredRollout
from megaphi.sampling import Sampling
from megaphi.tokenizer.interface import Tokenizer


@dataclass(frozen=True, slots=True)
class Draws:
    """Ask for rollouts that continue parts of one answer. Reply: for each draw its rollouts, in the draw's order."""

    answer: tuple[int, ...]
    """Token ids of the answer (the trace), after the prompt; a draw continues answer[:position]."""
    draws: tuple[Draw, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """Ask for the probability of every token of an answer under the sampling rules. Reply: a tuple of floats."""

    answer: tuple[int, ...]


Ask: TypeAlias = Draws | Scores
Search: TypeAlias = Generator[Ask, Any, Any]
Grade: TypeAlias = Callable[[Sequence[tuple[Question, str]]], list[Verdict]]
"""Judges answers: `megaphi.grading.grader.Grader.grade`."""


@dataclass(kw_only=True, slots=True)
class Tally:
    """Costs of a run, and the answers without a verdict."""

    generated_rollouts: int = 0
    generated_tokens: int = 0
    stored_rollouts: int = 0
    """Rollouts that were in the store already."""
    stored_tokens: int = 0
    scored_tokens: int = 0
    censored: int = 0
    undecided: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Question -> (answer, reason) of answers that no grader could decide."""


@dataclass(slots=True)
class _Open:
    """A search that is under way."""

    question: Question
    rollouts: QuestionRollouts
    search: Search
    ask: Ask | None = None
    wanted: list[list[RolloutKey | Rollout]] = field(default_factory=list)
    """For each draw that it asked for, the rollouts that answer it."""
    missing: int = 0
    """Requests that have not come back."""
    known: dict[RolloutKey, Rollout] = field(default_factory=dict)
    probabilities: tuple[float, ...] = ()


class RolloutRunner:
    """Drives searches over a source and a store."""

    def __init__(
        self,
        source: RolloutSource,
        store: RolloutStore,
        grade: Grade,
        tokenizer: Tokenizer,
        rules: Sampling,
        *,
        on_progress: Callable[[Tally], object] = lambda _: None,
    ) -> None:
        """Args:
        rules: for the whole answer: `max_tokens` counts from its beginning, wherever a rollout starts.
        on_progress: called when rollouts have come back.
        """
        self.tally = Tally()
        self._source, self._store, self._grade = source, store, grade
        self._tokenizer, self._rules, self._on_progress = tokenizer, rules, on_progress
        self._names = itertools.count()
        self._asked: dict[str, tuple[_Open, RolloutKey | None, Draw | None]] = {}

    def run(
        self, questions: Iterable[tuple[Question, QuestionRollouts, Search]], *, in_flight: int
    ) -> Iterator[tuple[Question, QuestionRollouts, Any]]:
        """Drive every search to its end, `in_flight` at a time; yields (question, rollouts, its search's result)."""
        waiting, under_way = iter(questions), 0
        ready: list[_Open] = []
        while True:
            begun = [_Open(*one) for one in itertools.islice(waiting, in_flight - under_way)]
            ended = [result for item in (*ready, *begun) for result in self._go_on(item)]
            under_way += len(begun) - len(ended)
            yield from ended
            if not under_way and not ended:
                return
            ready = [] if ended else self._take(self._source.ended())

    def _go_on(self, item: _Open) -> list[tuple[Question, QuestionRollouts, Any]]:
        """Advance a search until it waits for the model; returns its result if it has ended."""
        while not item.missing:
            try:
                item.ask = next(item.search) if item.ask is None else item.search.send(self._reply(item, item.ask))
            except StopIteration as end:
                return [(item.question, item.rollouts, end.value)]
            requests = self._score(item, item.ask) if isinstance(item.ask, Scores) else self._continue(item, item.ask)
            item.missing = len(requests)
            self._source.submit(requests)
        return []

    def _score(self, item: _Open, ask: Scores) -> list[Request]:
        answer = ask.answer
        name = self._name(item, None, None)
        return [Request(name=name, prompt=(*item.rollouts.prompt, *answer), sampling=self._rules, scored=len(answer))]

    def _continue(self, item: _Open, ask: Draws) -> list[Request]:
        """Requests for the rollouts of draws that are neither known nor stored."""
        requests: list[Request] = []
        asked: set[RolloutKey] = set()
        found: list[tuple[_Open, RolloutKey, Draw, StoredRollout]] = []
        item.wanted = [item.rollouts.wanted(draw, ask.answer) for draw in ask.draws]
        for draw, wanted in zip(ask.draws, item.wanted, strict=True):
            for key in wanted:
                if isinstance(key, Rollout) or key in item.known or key in asked:
                    continue
                asked.add(key)
                stored = self._store.get(key)
                if stored is None:
                    requests.append(self._request(item, ask, draw, key))
                else:
                    self.tally.stored_rollouts += 1
                    self.tally.stored_tokens += len(stored.tokens)
                    found.append((item, key, draw, stored))
        self._judge(found)
        return requests

    def _request(self, item: _Open, ask: Draws, draw: Draw, key: RolloutKey) -> Request:
        prompt = (*item.rollouts.prompt, *ask.answer[: draw.position])
        rules = replace(
            self._rules, seed=seed_of(self._rules.seed, key), max_tokens=self._rules.max_tokens - draw.position
        )
        return Request(
            name=self._name(item, key, draw),
            prompt=prompt,
            sampling=rules,
            sample=key.number,
            stop_tokens=self._tokenizer.stop_tokens,
            excluded_first=frozenset() if draw.excluded is None else frozenset({draw.excluded}),
            family=key.question,
        )

    def _name(self, item: _Open, key: RolloutKey | None, draw: Draw | None) -> str:
        name = str(next(self._names))
        self._asked[name] = item, key, draw
        return name

    def _take(self, completions: list[tuple[str, Completion]]) -> list[_Open]:
        """Store, grade and hand on what came back; returns the searches that can go on."""
        judged, ready = [], []
        for name, completion in completions:
            item, key, draw = self._asked.pop(name)
            item.missing -= 1
            if not item.missing:
                ready.append(item)
            if key is None or draw is None:
                item.probabilities = tuple(score.sampled_probability for score in completion.scores)
                self.tally.scored_tokens += len(completion.scores)
                continue
            tokens = tuple(completion.tokens)
            if completion.stop_token is not None:
                tokens = (*tokens, completion.stop_token)
            self.tally.generated_rollouts += 1
            self.tally.generated_tokens += len(tokens)
            judged.append((item, key, draw, self._store.add(key, tokens, completion.finish)))
        self._judge(judged)
        self._on_progress(self.tally)
        return ready

    def _judge(self, stored: Sequence[tuple[_Open, RolloutKey, Draw, StoredRollout]]) -> None:
        """Grade whole answers whose verdicts are not stored, and turn all into rollouts."""
        texts: list[tuple[Question, str]] = []
        fresh: list[tuple[StoredRollout, str]] = []
        for item, _, draw, rollout in stored:
            grader = grader_digest(item.question)
            if rollout.finish == "stop" and self._store.verdict(rollout, grader) is None:
                texts.append((item.question, self._text(item, draw, rollout)))
                fresh.append((rollout, grader))
        if texts:
            verdicts = self._grade(texts)
            self._store.judge((*one, verdict) for one, verdict in zip(fresh, verdicts, strict=True))
        for item, key, draw, rollout in stored:
            item.known[key] = self._rollout(item, draw, rollout)

    def _text(self, item: _Open, draw: Draw, rollout: StoredRollout) -> str:
        assert isinstance(item.ask, Draws)
        tokens = (*item.ask.answer[: draw.position], *rollout.tokens)
        return self._tokenizer.decode([token for token in tokens if token not in self._tokenizer.stop_tokens])

    def _rollout(self, item: _Open, draw: Draw, stored: StoredRollout) -> Rollout:
        verdict = self._store.verdict(stored, grader_digest(item.question)) if stored.finish == "stop" else None
        outcome: RolloutOutcome = "censored"
        if verdict is None:
            self.tally.censored += 1
        elif verdict.outcome == "undecided":
            listed = self.tally.undecided.setdefault(item.question.name, [])
            listed.append((self._text(item, draw, stored), verdict.reason))
        else:
            outcome = "success" if verdict.outcome == "right" else "failure"
        return Rollout(stored.tokens, outcome)

    def _reply(self, item: _Open, ask: Ask) -> Any:
        if isinstance(ask, Scores):
            return item.probabilities
        for draw, wanted in zip(ask.draws, item.wanted, strict=True):
            for key in wanted:
                if not isinstance(key, Rollout):
                    item.rollouts.learn(key, draw, ask.answer, item.known[key])
        return [[one if isinstance(one, Rollout) else item.known[one] for one in wanted] for wanted in item.wanted]


def seed_of(seed: int, key: RolloutKey) -> int:
    """The seed of all rollouts of one kind: a function of (seed, question, prefix, excluded token, purpose)."""
    content = json.dumps([seed, key.question, key.prefix, key.excluded, key.purpose]).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1  # endpoints take a signed number


def grader_digest(question: Question) -> str:
    """16 hex digits of a question's answer key: verdicts by another key are of no use."""
    return hashlib.sha256(repr(question.key).encode()).hexdigest()[:16]
