"""`megaphi pivotal search`: tokens of sampled answers that decide whether these succeed, and pairs made from them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.cli.pivotal.sampling_run import add_unsafe, tell_isolation
from megaphi.cli.sampler_option import (
    SAMPLER_HELP,
    OpenSamplers,
    SamplerPlace,
    add_sampler_arguments,
    sampler_place,
    with_samplers,
)
from megaphi.config import user_path
from megaphi.errors import InputError
from megaphi.sampling import Sampling

if TYPE_CHECKING:
    from megaphi.generation.client.endpoint import EndpointSampler
    from megaphi.generation.local_sampler import LocalSampler
    from megaphi.grading.question import Question
    from megaphi.pivotal.methods.method import Method
    from megaphi.pivotal.methods.settings import Settings
    from megaphi.pivotal.rollouts.prefix_reuse import QuestionRollouts
    from megaphi.pivotal.rollouts.runner import Search
    from megaphi.pivotal.rollouts.source import RolloutSource
    from megaphi.pivotal.search import QuestionPlan
    from megaphi.tokenizer.interface import Tokenizer

HELP = "pivotal tokens of sampled answers, with intervals, and the DPO pairs they make"
EXAMPLE = """examples:
  megaphi pivotal search questions.jsonl --sampler runs/sft --output runs/pivotal
  megaphi pivotal search gsm8k.jsonl --sampler downloads/phi-4 --tensor 2 --max-tokens 800 --output runs/pivotal
  megaphi pivotal search gsm8k.jsonl --sampler http://127.0.0.1:8000/v1=phi-4 --method bisection --output runs/pivotal
  megaphi train phi4_14b_dpo_pivotal 'task.paths=["runs/pivotal/pairs.jsonl"]'

A question is a line of JSON with its key: see docs/grading.md. The same command, given again, goes on where it was
stopped: rollouts are kept in OUTPUT/rollouts.jsonl, and another --gap or --method uses those that it can.
"""
METHODS = ("backward", "bisection", "two_arm")
OWN_OPTIONS = {"most_rollouts": ("backward",), "doubt": ("backward",), "rollouts": ("bisection", "two_arm")}
"""Settings that only some methods use."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "questions", type=user_path, metavar="QUESTIONS", help="questions with answers, choices or tests"
    )
    parser.add_argument("--sampler", required=True, type=user_path, metavar="SAMPLER", help=SAMPLER_HELP)
    parser.add_argument("--output", required=True, type=user_path, metavar="FOLDER", help="folder for all results")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="backward",
        help="how pivotal tokens are looked for: the backward estimator (default), the report's bisection, or a plain "
        "comparison at every uncertain token",
    )
    _add_numbers(parser)
    _add_own_options(parser)
    add_unsafe(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be asked at most, and stop")
    add_sampler_arguments(parser)


def _add_numbers(parser: argparse.ArgumentParser) -> None:
    for name, default, what in (
        ("gap", 0.2, "a token is pivotal if it changes the success probability by at least this much"),
        ("level", 0.05, "expected share of false ones among the pivotal tokens, at most"),
        ("margin", 0.1, "the accepted side of a pair must succeed more often by this much, with certainty 0.95"),
        ("lowest-rate", 0.2, "questions that succeed less often are too hard"),
        ("highest-rate", 0.8, "questions that succeed more often are too easy"),
        ("temperature", 1.0, "of the rollouts"),
        ("top-p", 1.0, "of the rollouts: draw from this much probability"),
        ("min-p", 0.0, "of the rollouts: at least this share of the top token's probability"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, metavar="X", help=f"{what} (default {default})")
    for name, default, what in (
        ("first-rollouts", 16, "answers that estimate a question's success rate"),
        ("answers", 1, "of those, answers that are searched; 0 estimates success rates only"),
        ("confirm", 64, "fresh rollouts on each side of a token that the search found"),
        ("max-tokens", 1_024, "tokens of an answer; longer ones are cut off, and count as neither success nor failure"),
        ("top-k", 0, "of the rollouts: draw from the k most probable tokens, 0 for all"),
        ("in-flight", 64, "questions that are searched at a time"),
        ("seed", 0, "random seed"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default {default})")


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    for name, kind, what in (
        ("rollouts", int, "bisection, two_arm: rollouts for each prefix (default 50)"),
        ("most-rollouts", int, "backward: search rollouts of one answer, at most (default 800)"),
        ("doubt", float, "backward: probability below which a token is left alone; less finds more (default 0.01)"),
    ):
        parser.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X", help=what)


def run(arguments: argparse.Namespace) -> int:
    from megaphi.grading.grader import isolation_for
    from megaphi.grading.question_file import read_questions

    plan, settings, rules = plan_of(arguments), settings_of(arguments), rules_of(arguments)
    place = sampler_place(arguments.sampler, option="--sampler")
    questions = read_questions(arguments.questions)
    if arguments.dry_run:
        print(*forecast(questions, plan, settings, rules), sep="\n")
        return 0

    isolation = isolation_for(questions, unsafe=arguments.unsafe)

    def work(samplers: OpenSamplers) -> int:
        tell_isolation(isolation)
        return _search(arguments, questions, place, samplers)

    return with_samplers(arguments, [place], work)


def plan_of(arguments: argparse.Namespace) -> QuestionPlan:
    from megaphi.pivotal.search import QuestionPlan

    plan = QuestionPlan(
        first_rollouts=arguments.first_rollouts,
        lowest_rate=arguments.lowest_rate,
        highest_rate=arguments.highest_rate,
        answers=arguments.answers,
    )
    plan.check()
    if arguments.in_flight < 1:
        raise InputError(f"--in-flight {arguments.in_flight}: must be at least 1")
    for name, share in (("level", arguments.level), ("margin", arguments.margin)):
        if not 0 < share < 1:
            raise InputError(f"--{name} {share}: must lie between 0 and 1")
    return plan


def settings_of(arguments: argparse.Namespace) -> Settings:
    from megaphi.pivotal.methods.settings import Settings

    own = {name: getattr(arguments, name) for name in OWN_OPTIONS if getattr(arguments, name) is not None}
    for name in own:
        # A server without probabilities is bisected whatever --method says.
        may_bisect = name == "rollouts" and arguments.sampler.startswith(("http://", "https://"))
        if arguments.method not in OWN_OPTIONS[name] and not may_bisect:
            used = " and ".join(OWN_OPTIONS[name])
            raise InputError(f"--{name.replace('_', '-')} is for {used}: --method {arguments.method} does not use it")
    settings = Settings(gap=arguments.gap, confirm=arguments.confirm, seed=arguments.seed, **own)
    settings.check()
    return settings


def rules_of(arguments: argparse.Namespace) -> Sampling:
    rules = Sampling(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
    )
    rules.check()
    if rules.temperature == 0:
        raise InputError("--temperature 0: every rollout from one prefix would be the same; 1 is usual")
    return rules


def forecast(questions: list[Question], plan: QuestionPlan, settings: Settings, rules: Sampling) -> Iterator[str]:
    """Lines that say what a search asks for at most."""
    kinds = Counter(type(question.key).__name__ for question in questions)
    named = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
    first = len(questions) * plan.first_rollouts
    each = settings.most_rollouts + 2 * settings.confirm
    most = first + len(questions) * plan.answers * each
    yield f"{len(questions):,} questions ({named})"
    yield f"{first:,} rollouts to find those of middling difficulty"
    yield f"for each of those at most {plan.answers} x {each:,} by the backward estimator, more where many tokens need"
    yield "confirmation; bisection asks for --rollouts at each of the prefixes that it splits at"
    yield f"so about {most:,} rollouts and {most * rules.max_tokens:,} tokens at most, if no question is left out"


def _search(
    arguments: argparse.Namespace, questions: list[Question], place: SamplerPlace, samplers: OpenSamplers
) -> int:
    from megaphi.grading.grader import Grader
    from megaphi.log import logger, progress_bar
    from megaphi.pivotal.results import SearchedQuestion, write_results
    from megaphi.pivotal.rollouts.runner import RolloutRunner, Tally
    from megaphi.pivotal.rollouts.store import RolloutStore

    plan, settings, rules = plan_of(arguments), settings_of(arguments), rules_of(arguments)
    folder, sampler = Path(arguments.output), samplers.open(place)
    source = source_of(sampler, rules, concurrency=arguments.concurrency)
    prompts = rendered(questions, sampler.tokenizer, rules, context=source.context)
    method = method_of(arguments.method, source)
    work = begun(
        questions,
        prompts,
        plan=plan,
        method=method,
        settings=settings,
        has_probabilities=not source.reason_without_probabilities,
    )
    found, places = [], {question.name: place for place, question in enumerate(questions)}
    with (
        closing(RolloutStore(folder / "rollouts.jsonl", {**source.facts, "rules": asdict(rules)})) as store,
        Grader(unsafe=arguments.unsafe) as grader,
        progress_bar(total=len(questions), unit="question", label="search") as bar,
    ):

        def show(tally: Tally) -> None:
            said = f"{tally.generated_rollouts:,} rollouts, {tally.generated_tokens:,} tokens"
            bar.set_postfix_str(said, refresh=False)

        runner = RolloutRunner(source, store, grader.grade, sampler.tokenizer, rules, on_progress=show)
        for question, rollouts, result in runner.run(work, in_flight=arguments.in_flight):
            found.append(SearchedQuestion(question, rollouts, result))
            bar.update()
    found.sort(key=lambda one: places[one.question.name])  # in the order of the file, not of events
    said = write_results(
        found,
        folder,
        runner.tally,
        sampler.tokenizer,
        model=str(place),
        settings=settings,
        level=arguments.level,
        margin=arguments.margin,
    )
    logger.info("%s", said)
    return 0


def source_of(sampler: LocalSampler | EndpointSampler, rules: Sampling, *, concurrency: int) -> RolloutSource:
    from megaphi.generation.local_sampler import LocalSampler
    from megaphi.pivotal.rollouts.endpoint_source import EndpointSource
    from megaphi.pivotal.rollouts.local_source import LocalSource

    if isinstance(sampler, LocalSampler):
        return LocalSource(sampler.service, facts={"sampler": sampler.identity})
    return EndpointSource(sampler, rules, at_once=concurrency)


def method_of(name: str, source: RolloutSource) -> Method:
    """The method of this name; bisection, with a warning that says why, where the source has no probabilities."""
    from megaphi.log import logger
    from megaphi.pivotal.methods.backward import backward
    from megaphi.pivotal.methods.baselines import two_arm
    from megaphi.pivotal.methods.bisection import bisection

    methods: dict[str, Method] = {"backward": backward, "bisection": bisection, "two_arm": two_arm}
    reason = source.reason_without_probabilities
    if reason and name != "bisection":
        logger.warning("--method %s needs the probabilities of tokens, so this search bisects: %s", name, reason)
        return bisection
    return methods[name]


def rendered(
    questions: list[Question], tokenizer: Tokenizer, rules: Sampling, *, context: int | None
) -> list[tuple[int, ...]]:
    """Token ids of every prompt. Raises InputError for one that leaves no room for an answer."""
    from megaphi.generation.text import render_prompt

    prompts = [tuple(render_prompt(question.prompt, tokenizer)) for question in questions]
    for question, prompt in zip(questions, prompts, strict=True):
        if context is not None and len(prompt) + rules.max_tokens > context:
            raise InputError(
                f"question {question.name}: {len(prompt)} tokens of prompt and --max-tokens {rules.max_tokens} exceed "
                f"the model's context of {context}: lower --max-tokens, or leave the question out"
            )
    return prompts


def begun(
    questions: list[Question],
    prompts: list[tuple[int, ...]],
    *,
    plan: QuestionPlan,
    method: Method,
    settings: Settings,
    has_probabilities: bool,
) -> Iterator[tuple[Question, QuestionRollouts, Search]]:
    """A search for each question."""
    from megaphi.pivotal.rollouts.prefix_reuse import QuestionRollouts
    from megaphi.pivotal.search import search_question

    for number, (question, prompt) in enumerate(zip(questions, prompts, strict=True)):
        rollouts = QuestionRollouts(question.name, prompt)
        own = replace(settings, seed=settings.seed + number)
        yield question, rollouts, search_question(rollouts, plan, method, own, has_probabilities=has_probabilities)
