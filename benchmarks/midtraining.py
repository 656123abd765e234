"""Mid-training at toy scale, 512 -> 2,048 tokens: long documents against joined short ones, by position and recall.

A model of two layers is pretrained at 512 tokens on short windows of the shipped corpus and on key-value documents, and
mid-trained at 2,048 with rotary base 250,000 and 70 % recall. The other 30 % are, in one arm, documents of at least
2,048 tokens (`windows=documents`) and key-value documents as long; in the other, documents of at most 512, joined. Both
arms see equally many tokens, of the same kinds. Measured on held-out documents: the loss by position, with a bootstrap
over documents; and recall: a value among the 16 of its context, placed anywhere in it, so chance is 1/16, with Wilson's
interval. One core; 25 minutes of a busy machine.

    python benchmarks/midtraining.py --write
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import math
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from megaphi.checkpoint.versions import short_commit
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.run_sections import Start, TrainingLength
from megaphi.model.architecture import Architecture
from megaphi.stages.pretrain import Pretrain
from megaphi.tokenizer.phi4 import load_tokenizer

CORPUS = Path(__file__).parents[1] / "examples" / "corpus"
RESULTS = Path(__file__).parent / "results"
HOME = Path("runs/midtraining")
VOCABULARY, SHORT, LONG = 1_024, 512, 2_048
PAIRS = 16
KEYS, VALUES = range(400, 600), range(600, 800)
"""Ids that serve as keys and values; a pair is a line break, a key, an equals sign and a value."""
RECALLED = 400
EDGES = (0, 64, 128, 256, 512, 768, 1_024, 1_536, 2_048)
MODEL = Architecture(
    layers=2, hidden=128, feed_forward=384, heads=4, key_value_groups=2, head_size=32, vocabulary=VOCABULARY
)
COLUMNS: tuple[str, ...] = tuple("date commit model measure length value low high count".split())


def pretrain() -> RunConfig:
    """At 512 tokens; blocks of 2,048, so that the sources can be continued at that length."""
    return _run("pretrained", Mixture(sources=recall_sources(), block_tokens=LONG), steps=600, length=SHORT, rate=2e-3)


def midtrain_long() -> RunConfig:
    """30 % documents of at least 2,048 tokens."""
    text = Source(
        name="long_text", weight=0.2, paths=(str(HOME / "text"),), windows="documents", shortest_document=LONG
    )
    pairs = Source(name="long_pairs", weight=0.1, paths=(str(HOME / "pairs_long"),), windows="documents")
    return _midtrain("long", text, pairs)


def midtrain_joined() -> RunConfig:
    """30 % documents of at most 512 tokens, one behind the other."""
    return _midtrain(
        "joined",
        Source(name="short_text", weight=0.2, paths=(str(HOME / "text_short"),)),
        Source(name="short_pairs", weight=0.1, paths=(str(HOME / "pairs_more"),)),
    )


def recall_sources() -> tuple[Source, ...]:
    text, pairs = (str(HOME / name) for name in ("text", "pairs"))
    return Source(name="text", weight=0.7, paths=(text,)), Source(name="pairs", weight=0.3, paths=(pairs,))


def _midtrain(name: str, *new: Source) -> RunConfig:
    recall = tuple(replace(source, weight=round(source.weight * 0.7, 2)) for source in recall_sources())
    run = _run(name, Mixture(sources=(*recall, *new)), steps=100, length=LONG, rate=6e-4)
    start = Start(initial_checkpoint=str(HOME / "pretrained"), continue_sources=True)
    return replace(run, start=start, model=replace(MODEL, rotary_base=250_000.0))


def _run(name: str, mixture: Mixture, *, steps: int, length: int, rate: float) -> RunConfig:
    batch = 8 if length == SHORT else 4
    return RunConfig(
        recipe=f"benchmarks/midtraining.py:{name}",
        folder=str(HOME / name),
        training=TrainingLength(steps=steps),
        saving=Saving(every=steps),
        model=MODEL,
        batch=BatchShape(sequence_length=length, global_batch=batch, micro_batch=batch),
        task=Pretrain(mixture=mixture),
        optimizer=Optimizer(learning_rate=rate, warmup_steps=steps // 15),
        precision=NumericPrecision(parameters="float32"),
    )


RECIPES = {"pretrained": pretrain, "long": midtrain_long, "joined": midtrain_joined}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/midtraining.csv and .png")
    arguments = parser.parse_args()
    held_out = write_data()
    rows: list[dict[str, Any]] = []
    for name, recipe in RECIPES.items():
        words = ["train", f"{__file__}:{recipe.__name__}", "--processes", "1"]
        subprocess.run([sys.executable, "-m", "megaphi", *words], check=True)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows += pool.submit(measure, name, held_out).result()
        for row in rows[-len(EDGES) - 1 :]:
            print(f"{name:<11} {row['measure']:<18} {row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})")
    if arguments.write:
        write_results(rows)
        plot(rows)


def write_data() -> list[list[int]]:
    """Write the datasets; returns the held-out documents' ids, each at least one token longer than a long window."""
    tokenizer, draw = load_tokenizer(VOCABULARY), np.random.default_rng(7)
    texts = [text for source in ("web", "code", "acquired") for text in read_corpus(source)]
    ids = [[*tokenizer.encode(text), tokenizer.end_of_text] for text in texts]
    is_held_out = [zlib.crc32(text.encode()) % 8 == 0 for text in texts]
    held_out = [one for one, held in zip(ids, is_held_out, strict=True) if held and len(one) > LONG]
    kept = [one for one, held in zip(ids, is_held_out, strict=True) if not held]
    filler = np.concatenate([np.array(one[:-1]) for one in kept])
    made = {
        "text": kept,
        "text_short": [one for one in kept if len(one) <= SHORT],
        "pairs": [pairs_document(filler, draw, tokens=(150, SHORT)) for _ in range(4_000)],
        "pairs_more": [pairs_document(filler, draw, tokens=(150, SHORT)) for _ in range(1_000)],
        "pairs_long": [pairs_document(filler, draw, tokens=(LONG, LONG + 1)) for _ in range(120)],
    }
    for name, documents in made.items():
        with IndexedDatasetWriter(HOME / name, "uint16") as writer:
            for document in documents:
                writer.add_document([*document, tokenizer.end_of_text] if "pairs" in name else document)
            writer.finish({"tokenizer": tokenizer.fingerprint, "vocabulary_size": VOCABULARY})
    return held_out


def read_corpus(source: str) -> Iterator[str]:
    with zstandard.open(CORPUS / source / "train.jsonl.zst", "rb") as file:
        for line in io.TextIOWrapper(file, encoding="utf-8"):
            yield json.loads(line)["text"]


def scattered(filler: np.ndarray, draw: np.random.Generator, *, tokens: int) -> tuple[list[int], list[tuple[int, int]]]:
    """(a context of about `tokens` tokens with 16 pairs at random places in text, the pairs)."""
    keys, values = draw.choice(KEYS, PAIRS, replace=False), draw.choice(VALUES, PAIRS, replace=False)
    pairs = [(int(key), int(value)) for key, value in zip(keys, values, strict=True)]
    room = max(PAIRS + 1, tokens - 4 * PAIRS)
    cuts = np.sort(draw.integers(0, room, PAIRS))
    start = int(draw.integers(0, len(filler) - room))
    context: list[int] = []
    for begin, end, pair in zip([0, *cuts], cuts, pairs, strict=False):
        context += [*filler[start + begin : start + end].tolist(), *spelled(pair)]
    return [*context, *filler[start + int(cuts[-1]) : start + room].tolist()], pairs


@functools.cache
def marks() -> tuple[int, int]:
    """Ids of a line break and an equals sign."""
    tokenizer = load_tokenizer(VOCABULARY)
    ((line_break,), (equals,)) = tokenizer.encode("\n"), tokenizer.encode("=")
    return line_break, equals


def spelled(pair: tuple[int, int]) -> list[int]:
    line_break, equals = marks()
    return [line_break, pair[0], equals, pair[1]]


def pairs_document(filler: np.ndarray, draw: np.random.Generator, *, tokens: tuple[int, int]) -> list[int]:
    """Sixteen pairs in text, and then all of them once more, in another order."""
    context, pairs = scattered(filler, draw, tokens=int(draw.integers(*tokens)) - 4 * PAIRS)
    return context + [token for place in draw.permutation(PAIRS) for token in spelled(pairs[place])]


def measure(name: str, held_out: list[list[int]]) -> list[dict[str, Any]]:
    """Loss by position and recall of one model."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import next_token_losses, open_model

    model = open_model(open_weights(str(HOME / name)))
    losses_DS = np.concatenate([next_token_losses(model, np.array([one[: LONG + 1]])) for one in held_out])
    draw, rows = np.random.default_rng(3), []
    for first, end in pairwise(EDGES):
        means_D = losses_DS[:, first:end].mean(axis=1)
        resampled = means_D[draw.integers(0, len(means_D), (2_000, len(means_D)))].mean(axis=1)
        low, high = np.quantile(resampled, [0.025, 0.975])
        rows.append(row(name, f"loss {first}..{end}", end, means_D.mean(), low, high, len(means_D)))
    filler = np.concatenate([np.array(one[:-1]) for one in held_out])
    for length in (SHORT, LONG):
        right = sum(recalls(model, *scattered(filler, draw, tokens=length - 3), draw) for _ in range(RECALLED))
        rows.append(row(name, f"recall at {length}", length, right / RECALLED, *wilson(right, RECALLED), RECALLED))
    return rows


def recalls(model: Any, context: list[int], pairs: list[tuple[int, int]], draw: np.random.Generator) -> bool:
    """Ask for one key; return whether its value is the most probable of the 16."""
    from megaphi.engine.inference.forward_only import logits_of

    asked = int(draw.integers(PAIRS))
    logits_V = logits_of(model, np.array([[*context, *spelled(pairs[asked])[:3]]]))[0, -1]
    return int(logits_V[[value for _, value in pairs]].argmax()) == asked


def wilson(right: int, count: int) -> tuple[float, float]:
    share, z = right / count, 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def row(model: str, measure: str, length: int, value: float, low: float, high: float, count: int) -> dict[str, Any]:
    numbers = {"value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}
    of = {"date": date.today().isoformat(), "commit": short_commit(), "model": model, "measure": measure}
    return {**of, "length": length, **numbers, "count": count}


def write_results(rows: list[dict[str, Any]]) -> None:
    with (RESULTS / "midtraining.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def plot(rows: list[dict[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    for name in RECIPES:
        mine = [row for row in rows if row["model"] == name and row["measure"].startswith("loss")]
        middles = [(first + end) / 2 for first, end in pairwise(EDGES)]
        label = {"pretrained": "pretrained at 512", "long": "long documents", "joined": "joined short ones"}[name]
        axes.plot(middles, [row["value"] for row in mine], marker="o", label=label)
    axes.axvline(SHORT, color="grey", linestyle=":")
    axes.set(xlabel="position in the document", ylabel="held-out loss (nats per token)", xscale="log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "midtraining.png", dpi=120)


if __name__ == "__main__":
    main()
