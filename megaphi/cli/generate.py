"""Continue a text with a trained model, greedily or by sampling.

The model is loaded through the same parallel engine that trained it; --tensor and --pipeline cut it over that many
processes on this machine, whatever layout the checkpoint was written under, and --data makes copies of it. A Hugging
Face folder is read as it is. The tokenizer is the model's own.
"""

from __future__ import annotations

import argparse

from megaphi.cli.engine_options import Opened, add_engine_arguments, add_replicas, on_every_rank, on_first_rank
from megaphi.cli.job_end import end_of_job
from megaphi.errors import InputError
from megaphi.foreign.visible_text import print_text
from megaphi.sampling import Sampling

MOST_SAMPLES = 1_000_000
"""Limit of continuations of a prompt, which are all kept until they are printed."""
HELP = "continue a text with a checkpoint"
EXAMPLE = """examples:
  megaphi generate runs/quickstart/run --prompt "The answer is"
  megaphi generate downloads/phi-4 --prompt "Why is the sky blue?" --tensor 2
  megaphi generate runs/phi4_14b --prompt "def fibonacci(n):" --temperature 0.7 --top-p 0.9 --tensor 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser, batch=32)
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be given several times")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="tokens to add (default 128)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K most probable tokens")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from this much probability")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="at least this share of the top token's")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1 avoids repetition")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default 0)")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="continuations of every prompt (default 1)")
    add_replicas(parser)


def run(arguments: argparse.Namespace) -> int:
    _sampling(arguments)
    return on_every_rank(arguments, _on_its_ranks)


def _on_its_ranks(arguments: argparse.Namespace) -> int:
    return on_first_rank(arguments, lambda opened: _generate(opened, arguments), phase="generating")


def _generate(opened: Opened, arguments: argparse.Namespace) -> int:
    from megaphi.generation.local_sampler import LocalSampler
    from megaphi.log import progress_bar

    total = len(arguments.prompt) * arguments.samples
    with (
        progress_bar(total=total, unit="text", label="generate") as bar,
        LocalSampler(
            opened.generators,
            opened.tokenizer,
            name=arguments.checkpoint,
            on_end=bar.update,
            on_failure=end_of_job(),
        ) as sampler,
    ):
        found = sampler.sample(arguments.prompt, _sampling(arguments), samples=arguments.samples)
    for prompt, answers in zip(arguments.prompt, found, strict=True):
        for answer in answers:
            print_text(prompt + answer.text)
    return 0


def _sampling(arguments: argparse.Namespace) -> Sampling:
    if not 1 <= arguments.samples <= MOST_SAMPLES:
        raise InputError(f"--samples {arguments.samples}: must be at least 1, and at most {MOST_SAMPLES:,}")
    sampling = Sampling(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
    )
    sampling.check()
    return sampling
