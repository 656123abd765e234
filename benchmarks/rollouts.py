"""Rollouts of pivotal token search: our engine with and without drafts against transformers.generate, turn by turn.

SmolLM2-135M-Instruct in fp32 solves a few questions at temperature 1; from several places in each solution many samples
of a few tokens continue it. transformers takes them as a careful user would: prefixes sorted by length and padded on
the left, all samples of one by `num_return_sequences`, with its key-value cache, as many sequences at once as ours.

Tokens with drafts must be those without (they may part where two numbers tie: that is counted). The load of the machine
goes into the results, because a neighbour changes the ratio of what computes to what waits for memory.

    python benchmarks/rollouts.py --rounds 3 --write
    python benchmarks/rollouts.py --prefixes 8 --samples 16 --max-tokens 64 --rounds 1
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from generation import until
from machine import machine
from results_file import append_rows
from smollm2_model import load_transformers, smollm2

from megaphi.checkpoint.versions import short_commit
from megaphi.conversion.open_weights import open_weights
from megaphi.engine.inference.forward_only import InferenceModel, open_model
from megaphi.generation.decoding.drafts import Speculation
from megaphi.generation.decoding.generate import complete, generate
from megaphi.generation.decoding.inference_engine import InferenceEngine
from megaphi.generation.decoding.interface import Request
from megaphi.kernels.loading import instruction_set
from megaphi.sampling import Sampling

RESULTS = Path(__file__).parent / "results" / "rollouts.csv"
COLUMNS = (
    "date commit torch transformers machine threads load questions examples prefixes samples max_tokens temperature "
    "batch prompt_tokens tokens theirs_s ours_s drafts_s ratio drafts_ratio drafted accepted parted"
)
QUESTIONS = (
    "Natalia sold 48 clips in April and half as many in May. How many clips did she sell altogether?",
    "A train travels 60 miles per hour for 3 hours and then 40 miles per hour for 2 hours. How far does it go?",
    "Weng earns $12 an hour for babysitting. Yesterday she babysat for 50 minutes. How much did she earn?",
    "A box holds 24 apples. A shop has 7 boxes and sells 95 apples. How many apples are left?",
)
EXAMPLE = (
    "<|im_start|>user\nMia has {a} boxes with {b} pencils each and gives away {c} pencils. How many are left? "
    "Think step by step, then give the answer.<|im_end|>\n<|im_start|>assistant\nFirst, Mia has {a} * {b} = {ab} "
    "pencils in all of her boxes together. Then she gives {c} of them away, so {ab} - {c} = {left} pencils are left. "
    "The answer is {left}.<|im_end|>\n"
)
"""A worked example in the prompt; with others as many tokens as few-shot prompts have."""
CHAT = "<|im_start|>user\n{} Think step by step, then give the answer.<|im_end|>\n<|im_start|>assistant\n"
SOLUTION = 160
"""Tokens of a solution at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side; their medians count")
    parser.add_argument("--examples", type=int, default=0, help="worked examples in front of each question")
    parser.add_argument("--prefixes", type=int, default=4, help="places in each solution")
    parser.add_argument("--samples", type=int, default=8, help="rollouts from each place")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=64, help="sequences at once, on both sides")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/rollouts.csv")
    arguments = parser.parse_args()
    gguf = smollm2()
    theirs, tokenizer = load_transformers(gguf)
    ours = open_model(open_weights(str(gguf)))
    stop = frozenset({tokenizer.eos_token_id})
    prompts = prompts_of(tokenizer, examples=arguments.examples)
    prefixes = prefixes_of(ours, prompts, stop, count=arguments.prefixes)
    row = compare(ours, theirs, tokenizer, prefixes, stop, arguments)
    if arguments.write:
        append(row)


def prompts_of(tokenizer: Any, *, examples: int) -> list[list[int]]:
    shown = ""
    for a in range(3, 3 + examples):
        b, c = 7 + 2 * a, 5 * a
        shown += EXAMPLE.format(a=a, b=b, c=c, ab=a * b, left=a * b - c)
    return [tokenizer(shown + CHAT.format(question))["input_ids"] for question in QUESTIONS]


def prefixes_of(
    ours: InferenceModel, prompts: list[list[int]], stop: frozenset[int], *, count: int
) -> list[list[list[int]]]:
    """For every question, the prompt with 0, 1/count, 2/count, ... of a solution."""
    rules = Sampling(max_tokens=SOLUTION, temperature=1.0, seed=1)
    solutions = generate(InferenceEngine(ours, slots=len(prompts)), prompts, rules, stop_tokens=stop)
    return [
        [prompt + solution.tokens[: place * len(solution.tokens) // count] for place in range(count)]
        for prompt, (solution,) in zip(prompts, solutions, strict=True)
    ]


def requests_of(
    prefixes: list[list[list[int]]], stop: frozenset[int], arguments: argparse.Namespace, *, seed: int
) -> list[Request]:
    rules = Sampling(max_tokens=arguments.max_tokens, temperature=arguments.temperature, seed=seed)
    return [
        Request(
            name=f"{question}/{place}/{sample}",
            prompt=tuple(prefix),
            sampling=rules,
            sample=place * arguments.samples + sample,
            stop_tokens=stop,
            family=str(question),
        )
        for question, places in enumerate(prefixes)
        for place, prefix in enumerate(places)
        for sample in range(arguments.samples)
    ]


def run_theirs(theirs: Any, tokenizer: Any, prefixes: list[list[list[int]]], arguments: argparse.Namespace) -> int:
    """Returns the number of tokens, each text's up to its end."""
    prompts = sorted((prefix for places in prefixes for prefix in places), key=len)
    at_once, tokens = max(1, arguments.batch // arguments.samples), 0
    for first in range(0, len(prompts), at_once):
        batch = tokenizer.pad({"input_ids": prompts[first : first + at_once]}, return_tensors="pt").to(theirs.device)
        added = theirs.generate(
            **batch,
            max_new_tokens=arguments.max_tokens,
            do_sample=True,
            temperature=arguments.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=arguments.samples,
        )[:, batch["input_ids"].shape[1] :]
        tokens += sum(len(until(text, frozenset({tokenizer.eos_token_id}))) for text in added.tolist())
    return tokens


def compare(
    ours: InferenceModel,
    theirs: Any,
    tokenizer: Any,
    prefixes: list[list[list[int]]],
    stop: frozenset[int],
    arguments: argparse.Namespace,
) -> list[Any]:
    """One row: medians over the rounds of the seconds of each side."""
    seconds: dict[str, list[float]] = {"theirs": [], "ours": [], "drafts": []}
    parted = drafted = accepted = tokens = rollouts = prompt_tokens = 0
    for number in range(arguments.rounds):
        requests = requests_of(prefixes, stop, arguments, seed=number)
        rollouts, prompt_tokens = len(requests), sum(len(request.prompt) for request in requests)
        torch.manual_seed(number)
        elapsed, _ = timed(lambda: run_theirs(theirs, tokenizer, prefixes, arguments))
        seconds["theirs"].append(elapsed)
        answers = []
        for side, speculation in (("ours", None), ("drafts", Speculation())):
            engine = InferenceEngine(ours, slots=arguments.batch, speculation=speculation)
            elapsed, found = timed(lambda engine=engine, requests=requests: complete(engine, requests))
            seconds[side].append(elapsed)
            answers.append([found[request.name].tokens for request in requests])
            drafted += engine.usage.drafted_tokens
            accepted += engine.usage.accepted_tokens
        parted += sum(one != other for one, other in zip(*answers, strict=True))
        tokens = sum(map(len, answers[0]))
        print(f"round {number}: {', '.join(f'{side} {values[-1]:.1f} s' for side, values in seconds.items())}")
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    ratios = [medians["theirs"] / medians[side] for side in ("ours", "drafts")]
    rates = ", ".join(f"{side} {rollouts / value:.2f}" for side, value in medians.items())
    print(
        f"{rollouts} rollouts of {prompt_tokens / rollouts:.0f} + {tokens / rollouts:.0f} tokens, per second: {rates}"
    )
    print(
        f"{ratios[0]:.2f} times as fast, {ratios[1]:.2f} with drafts ({accepted} of {drafted} right); {parted} parted"
    )
    shape = [len(QUESTIONS), arguments.examples, arguments.prefixes, arguments.samples]
    rules = [arguments.max_tokens, arguments.temperature, arguments.batch]
    timings = [round(value, 2) for value in medians.values()]
    counts = [drafted, accepted, parted]
    return [*shape, *rules, prompt_tokens, tokens, *timings, *(round(ratio, 3) for ratio in ratios), *counts]


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result)"""
    began = time.perf_counter()
    found = run()
    return time.perf_counter() - began, found


def append(row: list[Any]) -> None:
    computed_by = machine() if torch.cuda.is_available() else instruction_set()
    versions = [torch.__version__, version("transformers")]
    load = round(os.getloadavg()[1], 1)
    facts = [date.today(), short_commit(40), *versions, computed_by, torch.get_num_threads(), load]
    append_rows(RESULTS, COLUMNS.split(), [[*facts, *row]])


if __name__ == "__main__":
    main()
