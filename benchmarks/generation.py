"""Generation against transformers.generate: the same model, prompts, batch and threads, in turn in every round.

SmolLM2-135M-Instruct in fp32, stopped by its own end token, or a slice of the 14B with random weights in bf16. Tokens
are counted up to each text's end on both sides, and the greedy ones of SmolLM2 must be the same (bf16 rounds products
of other shapes otherwise, so the slice's may differ).

- `ragged`: 64 prompts of many lengths, each with a limit of its own for the answer, as requests come to a server.
  transformers takes them in batches in the order in which they came, pads the prompts to the longest and goes on until
  the last answer of the batch has ended; ours gives a place that becomes free to the next prompt.
- `sorted`: the same prompts with one limit for all, and sorted by length for transformers: the best that it can do.
- `samples`: 16 samples of one long prompt; transformers reads it 16 times.

    python benchmarks/generation.py --rounds 3 --write
    python benchmarks/generation.py --model slice --write
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the files beside this one, by their full name

from benchmarks.generation_models import MODELS, Models
from benchmarks.machine import machine
from benchmarks.results_file import append_rows
from megaphi.checkpoint.versions import short_commit
from megaphi.generation.decoding.generate import complete, generate
from megaphi.generation.decoding.inference_engine import InferenceEngine
from megaphi.generation.decoding.interface import Request
from megaphi.kernels.loading import instruction_set
from megaphi.sampling import Sampling

RESULTS = Path(__file__).parent / "results" / "generation.csv"
COLUMNS = (
    "date commit torch transformers instructions threads case prompts batch max_tokens tokens ours_s theirs_s ratio"
)
MESSAGES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="smollm2", help="default: smollm2")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side; their medians count")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--cases", nargs="+", default=["ragged", "sorted", "samples"], help="which to measure")
    parser.add_argument("--messages", type=int, default=MESSAGES, help=f"prompts of ragged and sorted ({MESSAGES})")
    parser.add_argument("--write", action="store_true", help="append to the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: benchmarks/results/generation.csv")
    arguments = parser.parse_args()
    models = MODELS[arguments.model]()
    rows = []
    for case in arguments.cases:
        if case == "samples":
            rows.append(measure_samples(models, arguments))
        else:
            rows.append(measure_many(case, models, arguments))
    if arguments.write:
        append(rows, arguments.results)


def limits(count: int, *, highest: int) -> list[int]:
    """From 4 to `highest` tokens, evenly on a logarithmic scale, in an order that looks random."""
    return [round(4 * (highest / 4) ** (number * 29 % count / (count - 1))) for number in range(count)]


def measure_many(case: str, models: Models, arguments: argparse.Namespace) -> list[Any]:
    messages = arguments.messages
    prompts, order = models.chats(messages), list(range(messages))
    most = [arguments.max_tokens] * messages
    if case == "ragged":
        most = limits(messages, highest=arguments.max_tokens)
    else:
        order.sort(key=lambda number: len(prompts[number]))

    def run_ours() -> list[list[int]]:
        requests = [
            Request(
                name=str(number), prompt=tuple(prompt), sampling=Sampling(max_tokens=limit), stop_tokens=models.stop
            )
            for number, (prompt, limit) in enumerate(zip(prompts, most, strict=True))
        ]
        found = complete(InferenceEngine(models.ours, slots=arguments.batch), requests)
        return [found[str(number)].tokens for number in range(messages)]

    def run_theirs() -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in prompts]
        for first in range(0, messages, arguments.batch):
            numbers = order[first : first + arguments.batch]
            batch = models.padded([prompts[number] for number in numbers])
            longest = max(most[number] for number in numbers)
            added = models.theirs.generate(**batch, max_new_tokens=longest, do_sample=False)
            for number, tokens in zip(numbers, added[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                answers[number] = until(tokens, models.stop)[: most[number]]
        return answers

    return compare(case, models, run_ours, run_theirs, messages, arguments)


def measure_samples(models: Models, arguments: argparse.Namespace) -> list[Any]:
    prompt = models.long_prompt
    rules = Sampling(max_tokens=arguments.max_tokens // 2, temperature=1.0)

    def run_ours() -> list[list[int]]:
        (found,) = generate(
            InferenceEngine(models.ours, slots=16), [prompt], rules, samples=16, stop_tokens=models.stop
        )
        return [sample.tokens for sample in found]

    def run_theirs() -> list[list[int]]:
        added = models.theirs.generate(
            **models.padded([prompt]),
            max_new_tokens=rules.max_tokens,
            do_sample=True,
            top_k=0,
            num_return_sequences=16,
        )
        return [until(tokens, models.stop) for tokens in added[:, len(prompt) :].tolist()]

    return compare("samples", models, run_ours, run_theirs, 1, arguments)


def until(tokens: list[int], stop: frozenset[int]) -> list[int]:
    ends = [place for place, token in enumerate(tokens) if token in stop]
    return tokens[: ends[0]] if ends else tokens


def compare(
    case: str,
    models: Models,
    ours: Callable[[], list[list[int]]],
    theirs: Callable[[], list[list[int]]],
    prompts: int,
    arguments: argparse.Namespace,
) -> list[Any]:
    """One row: medians over the rounds of seconds per token on each side."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    tokens = 0
    for _ in range(arguments.rounds):
        answers = {}
        for side, run in (("ours", ours), ("theirs", theirs)):
            began = time.perf_counter()
            answers[side] = run()
            elapsed = time.perf_counter() - began
            tokens = sum(map(len, answers[side]))
            seconds[side].append(elapsed / tokens)
        if case != "samples":
            same = sum(one == other for one, other in zip(answers["ours"], answers["theirs"], strict=True))
            print(f"{case}: {same} of {prompts} answers are the same tokens")
    per_token = {side: statistics.median(values) for side, values in seconds.items()}
    ratio = per_token["theirs"] / per_token["ours"]
    print(
        f"{case}: ours {1 / per_token['ours']:.1f} tokens/s, transformers {1 / per_token['theirs']:.1f} tokens/s, "
        f"{ratio:.2f} times as fast"
    )
    batch = 16 if case == "samples" else arguments.batch
    timings = [round(per_token[side] * tokens, 3) for side in ("ours", "theirs")]
    return [case + models.suffix, prompts, batch, arguments.max_tokens, tokens, *timings, round(ratio, 3)]


def append(rows: list[list[Any]], path: Path) -> None:
    from importlib.metadata import version

    computed_by = machine() if torch.cuda.is_available() else instruction_set()
    machine_columns = [date.today(), short_commit(40), torch.__version__, version("transformers"), computed_by]
    append_rows(path, COLUMNS.split(), ([*machine_columns, torch.get_num_threads(), *row] for row in rows))


if __name__ == "__main__":
    main()
