"""Judged preference pairs: sample responses, have them judged, choose pairs (`megaphi pivotal judge`).

    prompts -> responses of one or several samplers -> judgements (each alone, or every two in both orders) -> pairs

Functions of samplers and data; whoever calls them opens samplers and writes files (`judge_report.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

from megaphi.errors import InputError
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.judging.asking import Unanswered, ask_json
from megaphi.pivotal.preference.judging import COMPARISON, JUDGEMENT, Judgement, comparison, pointwise
from megaphi.pivotal.preference.pairs import JudgedPair, PairRule, pair_of_orders, pairs_of_scores, winner
from megaphi.pivotal.preference.prompts import AskedPrompt
from megaphi.pivotal.preference.record_files import MissingItems
from megaphi.pivotal.preference.responses import OpenSampler, Response, sample_responses, usable
from megaphi.sampling import Sampling

Mode = Literal["pointwise", "pairwise"]
NO_JUDGEMENT = "the judge gave no judgement that can be read"
ONE_RESPONSE = "fewer than two responses could be judged"


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSettings:
    """One run of the judge."""

    models: tuple[str, ...]
    """Samplers that answer, as the command line names them."""
    judge: str
    samples: int = 4
    """Responses of each sampler to a prompt."""
    rules: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024, temperature=0.8))
    judge_rules: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024))
    mode: Mode = "pointwise"
    attempts: int = 3
    """Times that the judge is asked for a judgement that can be read."""
    pairs: PairRule = field(default_factory=PairRule)
    seed: int = 0

    def check(self) -> None:
        """Raises InputError that names the option."""
        for rules in (self.rules, self.judge_rules):
            rules.check()
        self.pairs.check()
        if self.samples < 1 or self.attempts < 1:
            name, value = ("--samples", self.samples) if self.samples < 1 else ("--attempts", self.attempts)
            raise InputError(f"{name} {value}: must be at least 1")
        if self.responses < 2:
            raise InputError(
                "one response to each prompt makes no pair: ask for several with --samples, or name more samplers"
            )
        if self.rules.temperature == 0 and self.samples > 1:
            raise InputError("--temperature 0 gives the same response --samples times: raise it")

    @property
    def responses(self) -> int:
        """For each prompt."""
        return self.samples * len(self.models)

    @property
    def judgements(self) -> int:
        """Requests to the judge for each prompt, at most, without those that are asked again."""
        return self.responses if self.mode == "pointwise" else self.responses * (self.responses - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedResponse:
    """A response, and every judgement of it."""

    response: Response
    judgements: tuple[Judgement, ...]

    def mean(self, name: str) -> float:
        """Mean of a score, or of `overall`."""
        return sum(float(getattr(judgement, name)) for judgement in self.judgements) / len(self.judgements)


@dataclass(slots=True)
class JudgedRun:
    """Results of a run."""

    prompts: Sequence[AskedPrompt]
    responses: int = 0
    """Sampled ones, usable or not."""
    judged: list[JudgedResponse] = field(default_factory=list)
    pairs: list[JudgedPair] = field(default_factory=list)
    first_won: int = 0
    """Comparisons in which the response that was shown first won."""
    second_won: int = 0
    undecided: int = 0
    """Comparisons that neither won."""
    orders_disagreed: int = 0
    """Pairs of responses of which each won once, when it was shown in the same place."""
    left_out: MissingItems = field(default_factory=MissingItems)


def judge_prompts(
    prompts: Sequence[AskedPrompt],
    settings: JudgeSettings,
    open_sampler: OpenSampler,
    *,
    journal: RequestJournal | None = None,
) -> JudgedRun:
    """All of it. Raises InputError, RunFailed of the samplers."""
    settings.check()
    run = JudgedRun(prompts)
    sampled = sample_responses(
        open_sampler,
        settings.models,
        prompts,
        settings.rules,
        samples=settings.samples,
        left_out=run.left_out,
    )
    run.responses = sum(map(len, sampled))
    candidates = [usable(responses, run.left_out) for responses in sampled]
    for prompt, responses in zip(prompts, candidates, strict=True):
        if len(responses) < 2:
            run.left_out.add(ONE_RESPONSE, prompt.name)
    candidates = [responses if len(responses) > 1 else [] for responses in candidates]
    if settings.mode == "pointwise":
        _judge_alone(run, candidates, settings, open_sampler, journal)
    else:
        _judge_in_both_orders(run, candidates, settings, open_sampler, journal)
    return run


def _judge_alone(
    run: JudgedRun,
    candidates: Sequence[Sequence[Response]],
    settings: JudgeSettings,
    open_sampler: OpenSampler,
    journal: RequestJournal | None,
) -> None:
    responses = [response for group in candidates for response in group]
    questions = [
        pointwise(run.prompts[response.prompt], response.text, seed=settings.seed, name=response.name)
        for response in responses
    ]
    with open_sampler(settings.judge, len(questions), "judgements") as judge:
        found = ask_json(
            judge, questions, settings.judge_rules, schema=JUDGEMENT, attempts=settings.attempts, memory=journal
        )
    by_prompt: list[list[tuple[Response, Judgement]]] = [[] for _ in run.prompts]
    for response, judgement in zip(responses, found, strict=True):
        if isinstance(judgement, Unanswered):
            run.left_out.add(NO_JUDGEMENT, response.name, judgement.reason)
            continue
        by_prompt[response.prompt].append((response, judgement))
        run.judged.append(JudgedResponse(response=response, judgements=(judgement,)))
    for prompt, judged, group in zip(run.prompts, by_prompt, candidates, strict=True):
        if group and len(judged) < 2:
            run.left_out.add(ONE_RESPONSE, prompt.name)
        run.pairs += pairs_of_scores(judged, settings.pairs, seed=settings.seed, left_out=run.left_out)


def _judge_in_both_orders(
    run: JudgedRun,
    candidates: Sequence[Sequence[Response]],
    settings: JudgeSettings,
    open_sampler: OpenSampler,
    journal: RequestJournal | None,
) -> None:
    twos = [two for group in candidates for two in combinations(group, 2)]
    questions = [
        comparison(
            run.prompts[first.prompt], first.text, second.text, seed=settings.seed, name=f"{first.name} {second.name}"
        )
        for left, right in twos
        for first, second in ((left, right), (right, left))
    ]
    with open_sampler(settings.judge, len(questions), "comparisons") as judge:
        found = ask_json(
            judge, questions, settings.judge_rules, schema=COMPARISON, attempts=settings.attempts, memory=journal
        )
    judgements: dict[str, tuple[Response, list[Judgement]]] = {}
    pairs_of: list[list[JudgedPair]] = [[] for _ in run.prompts]
    for (left, right), as_is, turned in zip(twos, found[::2], found[1::2], strict=True):
        if isinstance(as_is, Unanswered) or isinstance(turned, Unanswered):
            reason = as_is if isinstance(as_is, Unanswered) else turned
            assert isinstance(reason, Unanswered)
            run.left_out.add(NO_JUDGEMENT, f"{left.name} and {right.name}", reason.reason)
            continue
        for response, found_of in ((left, (as_is[0], turned[1])), (right, (as_is[1], turned[0]))):
            judgements.setdefault(response.name, (response, []))[1].extend(found_of)
        _count_places(run, as_is, turned, settings.pairs)
        pair = pair_of_orders(left, right, (as_is, turned), settings.pairs, left_out=run.left_out)
        if pair is not None:
            pairs_of[left.prompt].append(pair)
    run.judged = [
        JudgedResponse(response=response, judgements=tuple(all_of_it)) for response, all_of_it in judgements.values()
    ]
    for pairs in pairs_of:
        clearest = sorted(pairs, key=lambda pair: -pair.difference)
        run.pairs += clearest if settings.pairs.pick == "all" else clearest[:1]
        for pair in [] if settings.pairs.pick == "all" else clearest[1:]:
            names = f"{pair.chosen.name} and {pair.rejected.name}"
            run.left_out.add("another pair of the same prompt is clearer (--pairs extremes)", names)


def _count_places(
    run: JudgedRun,
    as_is: tuple[Judgement, Judgement],
    turned: tuple[Judgement, Judgement],
    rule: PairRule,
) -> None:
    places = [winner(*order, rule) for order in (as_is, turned)]
    run.first_won += places.count(1)
    run.second_won += places.count(-1)
    run.undecided += places.count(0)
    run.orders_disagreed += places[0] == places[1] != 0
