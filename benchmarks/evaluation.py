"""Evaluation by our engine against lm-eval's own backend of transformers: same items, same threads, turn by turn.

Both sides are models of lm-eval with one and the same list of requests: questions of the amateur-radio and FCC pools
(Debian's hamexam and fccexam) as log-likelihoods of letters, with or without worked examples, as log-likelihoods of
the options' words, or as texts that are continued greedily. Log-likelihoods, accuracies and texts are compared item by
item before a time counts. lm-eval's batch size is the best of those tried in the first round.

    python benchmarks/evaluation.py --pools FOLDER --questions 120 --rounds 3 --write
    python benchmarks/evaluation.py --pools FOLDER --questions 4733 --kinds letters --rounds 1 --write
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from machine import machine
from results_file import append_rows
from smollm2_model import load_transformers, smollm2
from smollm2_post_training import Question, read_pools

from megaphi.checkpoint.model_tokenizer import text_tokenizer_of
from megaphi.checkpoint.versions import short_commit
from megaphi.conversion.open_weights import open_weights
from megaphi.engine.inference.forward_only import open_model
from megaphi.evaluation.asking.lm_eval_model import MegaphiLM
from megaphi.generation.decoding.inference_engine import InferenceEngine
from megaphi.generation.local_sampler import LocalSampler
from megaphi.grading.question import LETTERS

RESULTS = Path(__file__).parent / "results" / "evaluation.csv"
COLUMNS = (
    "date commit torch transformers lm_eval machine threads load kind questions shots requests batch theirs_s ours_s "
    "ratio accuracy largest_difference choices_that_differ texts_that_differ"
)
KINDS = {"letters": 0, "letters, 5 examples": 5, "words": 0, "answers": 0}
"""Kind of requests to the number of worked examples."""
BATCHES = (1, 8, 32)
NEW_TOKENS = 48


class Sides(NamedTuple):
    """Both models."""

    ours: MegaphiLM
    theirs: Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", required=True, type=Path, help="folder that hamexam and fccexam were unpacked into")
    parser.add_argument("--questions", type=int, default=120, help="evenly spread over the pools")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side; their medians count")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES), help="lm-eval's, to choose from")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/evaluation.csv")
    arguments = parser.parse_args()
    pool = read_pools(arguments.pools)
    step = max(len(pool) // arguments.questions, 1)
    questions, examples = pool[::step][: arguments.questions], pool[1 : 1 + max(KINDS.values())]
    gguf = smollm2()
    model, tokenizer = load_transformers(gguf)
    backend: Any = HFLM  # its signature hides behind a decorator
    theirs = backend(pretrained=model, tokenizer=tokenizer, max_length=2_048)
    reader = open_weights(str(gguf))
    engine = InferenceEngine(open_model(reader), slots=32)
    with LocalSampler([engine], text_tokenizer_of(reader, path=None), name="SmolLM2") as sampler:
        sides = Sides(MegaphiLM(sampler), theirs)
        rows = [compare(sides, kind, questions, examples, arguments) for kind in arguments.kinds]
    if arguments.write:
        append(rows)


def prompt_of(question: Question, *, with_options: bool) -> str:
    options = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=False))
    return f"{question.text}{options}\nAnswer:" if with_options else f"Question: {question.text}\nAnswer:"


def requests_of(kind: str, questions: list[Question], examples: list[Question]) -> list[Instance]:
    """lm-eval's requests; those of one question are neighbours, as lm-eval's own tasks make them."""
    if kind == "answers":
        rules = {"until": ["\n\n"], "max_gen_toks": NEW_TOKENS, "do_sample": False}
        texts = [prompt_of(one, with_options=True) for one in questions]
        return [Instance("generate_until", {}, (text, rules), number) for number, text in enumerate(texts)]
    by_letter = kind.startswith("letters")
    shown = "".join(f"{prompt_of(one, with_options=True)} {LETTERS[one.right]}\n\n" for one in examples[: KINDS[kind]])
    return [
        Instance("loglikelihood", {}, (shown + prompt_of(one, with_options=by_letter), f" {continuation}"), number)
        for number, one in enumerate(questions)
        for continuation in (LETTERS[: len(one.options)] if by_letter else one.options)
    ]


def compare(
    sides: Sides, kind: str, questions: list[Question], examples: list[Question], arguments: argparse.Namespace
) -> list[Any]:
    requests = requests_of(kind, questions, examples)
    sides.theirs.batch_size_per_gpu = best_batch(sides, requests, arguments.batches)
    times: tuple[list[float], list[float]] = ([], [])
    results: list[Any] = [None, None]
    for _ in range(arguments.rounds):
        for side, model in enumerate(sides):
            seconds, results[side] = measured(model, requests)
            times[side].append(seconds)
    ours, theirs = results
    accuracy = difference = differing = texts = ""
    if kind == "answers":
        texts = sum(one.strip() != other.strip() for one, other in zip(ours, theirs, strict=True))
    else:
        difference = f"{max(abs(one[0] - other[0]) for one, other in zip(ours, theirs, strict=True)):.1e}"
        chosen = [choices(questions, scores) for scores in (ours, theirs)]
        differing = sum(one != other for one, other in zip(*chosen, strict=True))
        right = [choice == question.right for choice, question in zip(chosen[0], questions, strict=True)]
        accuracy = f"{statistics.mean(right):.4f}"
    ours_s, theirs_s = map(statistics.median, times)
    print(
        f"{kind}: {len(requests)} requests, lm-eval {theirs_s:.1f} s, ours {ours_s:.1f} s: {theirs_s / ours_s:.2f}x; "
        f"accuracy {accuracy}, log-likelihoods within {difference}, choices that differ {differing}, texts {texts}"
    )
    versions = [version(name) for name in ("torch", "transformers", "lm_eval")]
    here = [machine(), torch.get_num_threads(), round(os.getloadavg()[0], 1)]
    facts = [kind, len(questions), KINDS[kind], len(requests), sides.theirs.batch_size_per_gpu]
    figures = [round(theirs_s, 2), round(ours_s, 2), round(theirs_s / ours_s, 2)]
    return [date.today(), short_commit(), *versions, *here, *facts, *figures, accuracy, difference, differing, texts]


def best_batch(sides: Sides, requests: list[Instance], batches: list[int]) -> int:
    """The batch size with which lm-eval's backend is fastest, on a sixteenth of the requests."""
    few, found = requests[: max(len(requests) // 16, 16)], {}
    for batch in batches:
        sides.theirs.batch_size_per_gpu = batch
        found[batch] = measured(sides.theirs, few)[0]
    return min(found, key=found.__getitem__)


def measured(model: Any, requests: list[Instance]) -> tuple[float, list[Any]]:
    begun = time.perf_counter()
    answers = getattr(model, requests[0].request_type)(requests, disable_tqdm=True)
    return time.perf_counter() - begun, answers


def choices(questions: list[Question], scores: list[tuple[float, bool]]) -> list[int]:
    """The option that each question's log-likelihoods choose."""
    ready = iter(scores)
    totals = [[next(ready)[0] for _ in question.options] for question in questions]
    return [max(range(len(one)), key=one.__getitem__) for one in totals]


def append(rows: list[list[Any]]) -> None:
    append_rows(RESULTS, COLUMNS.split(), rows)


if __name__ == "__main__":
    main()
