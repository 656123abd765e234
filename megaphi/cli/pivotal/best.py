"""Make fine-tuning data by rejection sampling: several responses to each prompt, and the best one is kept.

FILE holds one question a line, as JSON with `prompt` and a key (`math_answer`, `choices`, `exact_answers`, or `tests`),
by which the responses are graded; with --judge the prompts need no key, and a judge scores the responses instead.
FOLDER then has sft.jsonl, which the fine-tuning stage reads as it is, questions.jsonl with counts for every prompt,
left_out.jsonl, which names every prompt without a good response, and report.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.cli.pivotal.sampling_run import (
    PlannedRequests,
    add_judge_rules,
    add_run_arguments,
    add_sampler,
    add_unsafe,
    grades,
    judge_rules,
    make_data,
    places_of,
    print_plan,
    response_rules,
    tell_isolation,
    tokens_of,
)

if TYPE_CHECKING:
    from megaphi.generation.client.request_journal import RequestJournal
    from megaphi.pivotal.preference.best import BestSettings
    from megaphi.pivotal.preference.prompts import AskedPrompt
    from megaphi.pivotal.preference.responses import OpenSampler

HELP = "fine-tuning data: the best of several responses, by key or by judge"
EXAMPLE = """examples:
  megaphi pivotal best questions.jsonl --model runs/sft --samples 16 --output data/best --dry-run
  megaphi pivotal best questions.jsonl --model runs/sft --samples 16 --tensor 2 --output data/best
  megaphi pivotal best prompts.jsonl --model runs/sft --model http://10.0.0.7:8000/v1=qwen \\
      --judge downloads/phi-4 --least-accuracy 5 --output data/best
  megaphi inspect conversations data/best/sft.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, what="questions, one record a line", samples=8, max_tokens=1024, temperature=0.8)
    add_sampler(parser, "--model", "a sampler that answers (may be given several times)", several=True)
    add_sampler(parser, "--judge", "a sampler that judges, where the prompts have no keys", required=False)
    parser.add_argument(
        "--least-accuracy",
        type=int,
        default=4,
        metavar="N",
        help="by judge: a best response below it is none (default 4, of 5)",
    )
    add_judge_rules(parser)
    add_unsafe(parser)


def run(arguments: argparse.Namespace) -> int:
    from megaphi.grading.grader import isolation_for
    from megaphi.grading.question_file import read_questions
    from megaphi.pivotal.preference.prompts import of_questions, read_prompts

    places = places_of(arguments, "--model", "--judge")
    settings = _settings(arguments)
    questions = [] if settings.judge else read_questions(arguments.questions)
    prompts = of_questions(questions) if questions else read_prompts(arguments.questions)
    if arguments.dry_run:
        return print_plan(_plan(prompts, settings))
    isolation = isolation_for(questions, unsafe=arguments.unsafe)

    def work(opened: OpenSampler, journal: RequestJournal, folder: Path) -> None:
        from megaphi.pivotal.preference.best import best_responses, write_best

        tell_isolation(isolation)
        grade = (lambda items: grades(questions, items, unsafe=arguments.unsafe)) if questions else None
        write_best(folder, best_responses(prompts, settings, opened, grade=grade, journal=journal), settings)

    return make_data(arguments, places, work)


def _settings(arguments: argparse.Namespace) -> BestSettings:
    from megaphi.pivotal.preference.best import BestSettings

    settings = BestSettings(
        models=tuple(arguments.model),
        judge=arguments.judge,
        samples=arguments.samples,
        rules=response_rules(arguments),
        judge_rules=judge_rules(arguments),
        attempts=arguments.attempts,
        least_accuracy=arguments.least_accuracy,
        seed=arguments.seed,
    )
    settings.check()
    return settings


def _plan(prompts: list[AskedPrompt], settings: BestSettings) -> list[PlannedRequests]:
    from megaphi.conversation import Conversation
    from megaphi.pivotal.preference.judging import pointwise

    count, tokens = settings.samples * len(prompts), tokens_of([prompt.conversation for prompt in prompts])
    longest = settings.rules.max_tokens
    lines = [
        PlannedRequests(model, "responses", count, settings.samples * tokens, count * longest)
        for model in settings.models
    ]
    if settings.judge:
        each = settings.samples * len(settings.models)
        empty = [Conversation(pointwise(prompt, "", seed=0, name="").messages) for prompt in prompts]
        judged = each * len(prompts)
        shown = each * tokens_of(empty) + judged * longest
        lines.append(
            PlannedRequests(settings.judge, "judgements", judged, shown, judged * settings.judge_rules.max_tokens)
        )
    return lines
