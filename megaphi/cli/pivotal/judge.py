"""Make preference pairs: sample responses, have a judge score them, and prefer the better to the worse.

FILE holds one prompt a line, as JSON with `prompt` (a text or messages), maybe an `id` and a `reference`, the right
answer, which the judge sees. Every --model answers every prompt --samples times. The judge writes down the faults of a
response and then scores its accuracy, style and detail from 1 to 5; with --mode pairwise it sees two responses at a
time, in both orders, and only a winner of both wins. FOLDER then has pairs.jsonl, which the DPO stage reads as it is,
judged.jsonl with every judgement, left_out.jsonl, and report.md with the judge's biases for length and position.
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
    judge_rules,
    make_data,
    places_of,
    print_plan,
    response_rules,
    tokens_of,
)

if TYPE_CHECKING:
    from megaphi.generation.client.request_journal import RequestJournal
    from megaphi.pivotal.preference.judge import JudgeSettings
    from megaphi.pivotal.preference.prompts import AskedPrompt
    from megaphi.pivotal.preference.responses import OpenSampler

HELP = "preference pairs from responses that a judge has scored"
EXAMPLE = """examples:
  megaphi pivotal judge prompts.jsonl --model runs/sft --judge downloads/phi-4 --output data/judged --dry-run
  megaphi pivotal judge prompts.jsonl --model runs/sft --judge downloads/phi-4 --output data/judged
  megaphi pivotal judge prompts.jsonl --model runs/sft --model http://10.0.0.7:8000/v1=qwen --samples 2 \\
      --judge https://api.example.org/v1=large --api-key-file api.example.org=key.txt \\
      --mode pairwise --by overall --margin 0.5 --output data/compared
  megaphi inspect conversations data/judged/pairs.jsonl --pairs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, what="prompts, one record a line", samples=4, max_tokens=1024, temperature=0.8)
    add_sampler(parser, "--model", "a sampler that answers (may be given several times)", several=True)
    add_sampler(parser, "--judge", "the sampler that judges")
    parser.add_argument(
        "--mode",
        choices=("pointwise", "pairwise"),
        default="pointwise",
        help="judge each response alone (default), or every two side by side in both orders",
    )
    parser.add_argument(
        "--by",
        choices=("accuracy", "overall"),
        default="accuracy",
        help="what decides: accuracy (default), or the mean of accuracy, style and detail",
    )
    parser.add_argument("--margin", type=float, default=0.0, metavar="D", help="least difference (default: any)")
    parser.add_argument(
        "--ties",
        choices=("drop", "overall", "shorter"),
        default="drop",
        help="of equal ones: no pair (default), the higher mean of the three, or the shorter",
    )
    parser.add_argument(
        "--pairs",
        choices=("extremes", "all"),
        default="extremes",
        help="of one prompt: the best over the worst (default), or every two",
    )
    add_judge_rules(parser)


def run(arguments: argparse.Namespace) -> int:
    from megaphi.pivotal.preference.prompts import read_prompts

    places = places_of(arguments, "--model", "--judge")
    settings = _settings(arguments)
    prompts = read_prompts(arguments.questions)
    if arguments.dry_run:
        return print_plan(_plan(prompts, settings))

    def work(opened: OpenSampler, journal: RequestJournal, folder: Path) -> None:
        from megaphi.pivotal.preference.judge import judge_prompts
        from megaphi.pivotal.preference.judge_report import write_judged

        write_judged(folder, judge_prompts(prompts, settings, opened, journal=journal), settings)

    return make_data(arguments, places, work)


def _settings(arguments: argparse.Namespace) -> JudgeSettings:
    from megaphi.pivotal.preference.judge import JudgeSettings
    from megaphi.pivotal.preference.pairs import PairRule

    settings = JudgeSettings(
        models=tuple(arguments.model),
        judge=arguments.judge,
        samples=arguments.samples,
        rules=response_rules(arguments),
        judge_rules=judge_rules(arguments),
        mode=arguments.mode,
        attempts=arguments.attempts,
        pairs=PairRule(by=arguments.by, margin=arguments.margin, ties=arguments.ties, pick=arguments.pairs),
        seed=arguments.seed,
    )
    settings.check()
    return settings


def _plan(prompts: list[AskedPrompt], settings: JudgeSettings) -> list[PlannedRequests]:
    """Requests of each sampler; those of the judge with responses at their longest."""
    from megaphi.conversation import Conversation
    from megaphi.pivotal.preference.judging import comparison, pointwise

    count, tokens = settings.samples * len(prompts), tokens_of([prompt.conversation for prompt in prompts])
    longest = settings.rules.max_tokens
    lines = [
        PlannedRequests(model, "responses", count, settings.samples * tokens, count * longest)
        for model in settings.models
    ]
    alone = settings.mode == "pointwise"
    empty = [
        Conversation(
            (pointwise(prompt, "", seed=0, name="") if alone else comparison(prompt, "", "", seed=0, name="")).messages
        )
        for prompt in prompts
    ]
    judged = settings.judgements * len(prompts)
    shown = settings.judgements * tokens_of(empty) + judged * longest * (1 if alone else 2)
    role = "judgements" if alone else "comparisons"
    return [
        *lines,
        PlannedRequests(settings.judge, role, judged, shown, judged * settings.judge_rules.max_tokens),
    ]
