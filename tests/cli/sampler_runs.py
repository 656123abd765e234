"""Ranks of the tests of samplers on a command line: two models one after the other, and the first one again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from megaphi.cli import sampler_option
from megaphi.cli.sampler_option import OpenSamplers, add_sampler_arguments, sampler_place, with_samplers
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.sampling import Sampling

RULES = Sampling(max_tokens=6, temperature=1.0, seed=2)
PROMPTS = ([5, 6, 7], [9, 8])


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_sampler_arguments(parser, batch=4)
    return parser.parse_args(words)


def through_two_models(first: str, second: str, words: list[str], journal: str) -> dict[str, Any]:
    """Answers to rank 0; on every rank the models that it opened."""
    opened: list[str] = []
    open_engine = sampler_option.open_engine
    sampler_option.open_engine = lambda path, arguments: opened.append(Path(path).name) or open_engine(path, arguments)
    places = [sampler_place(path, option="--model") for path in (first, second, first)]
    found: list[Any] = []
    ended: list[int] = []

    def work(samplers: OpenSamplers) -> int:
        with RequestJournal(journal) as kept:
            for place in (places[0], places[0], *places[1:]):
                sampler = samplers.open(place, journal=kept, on_end=lambda: ended.append(1))
                found.append([[answer.tokens for answer in one] for one in sampler.sample(PROMPTS, RULES, samples=2)])
        return 7

    try:
        code = with_samplers(options("--tokenizer", "phi4", *words), places, work)
    finally:
        sampler_option.open_engine = open_engine
    return {"code": code, "found": found, "opened": opened, "ended": len(ended)}
