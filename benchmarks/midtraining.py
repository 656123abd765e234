"""Mid-training at toy scale, 512 -> 2,048 tokens: long documents against joined short ones, by position and recall.

A model of two layers learns recall at 64 tokens, is pretrained at 512 on the shipped corpus and on documents of facts,
and mid-trained at 2,048 with rotary base 250,000 and 70 % of that. The other 30 % are, in one arm, documents of at
least 2,048 tokens (`windows=documents`) and documents of facts as long; in the other, documents of at most 512, joined.
A fact is one token, a key with its value; it stands anywhere in text, and a question is a key, to which the value is
the answer. Keys with values as two tokens are not learnt in the minutes that this has (docs/midtraining.md). Measured
on held-out documents: the loss by position, with a bootstrap over documents; and recall: whether the value is the most
probable of 16, all of which stand in the context, so chance is 1/16, with Wilson's interval. One core.

    python benchmarks/midtraining.py --write
"""

from __future__ import annotations

import argparse
import csv
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
VOCABULARY, FIRST, SHORT, LONG = 1_024, 64, 512, 2_048
TEXT_VOCABULARY = 640
"""Text is written in the ids of this smaller vocabulary, which are the first of the larger one."""
KEYS = 16
"""Keys, and values; in a context, no value belongs to two keys."""
FACTS, QUESTIONS, ANSWERS = 600, 856, 872
"""First ids of the 256 facts, the 16 keys of questions and the 16 values: none of them occurs in text."""
ASKED = 200
LENGTHS = (SHORT, LONG)
EDGES = (0, 64, 128, 256, 512, 768, 1_024, 1_536, 2_048)
MODEL = Architecture(
    layers=2,
    hidden=64,
    feed_forward=192,
    heads=2,
    key_value_groups=2,
    head_size=32,
    vocabulary=VOCABULARY,
    initial_std=0.04,
)
COLUMNS: tuple[str, ...] = tuple("date commit model measure length value low high count".split())


def begin() -> RunConfig:
    """Facts and questions without text, at 64 tokens: among text, or at 512, recall takes several times the tokens."""
    facts = Source(name="first_facts", weight=1.0, paths=(str(HOME / "facts_first"),), windows="documents")
    run = _run("begun", Mixture(sources=(facts,)), steps=700, length=FIRST, rate=5e-3)
    return replace(run, optimizer=replace(run.optimizer, schedule="constant"))


def pretrain() -> RunConfig:
    """At 512 tokens; blocks of 2,048, so that the text can be continued at that length."""
    mixture = Mixture(sources=recall_sources(), block_tokens=LONG)
    run = _run("pretrained", mixture, steps=300, length=SHORT, rate=3e-3)
    return replace(run, start=Start(initial_checkpoint=str(HOME / "begun")))


def midtrain_long() -> RunConfig:
    """30 % documents of at least 2,048 tokens."""
    text = Source(
        name="long_text", weight=0.15, paths=(str(HOME / "text"),), windows="documents", shortest_document=LONG
    )
    facts = Source(name="long_facts", weight=0.15, paths=(str(HOME / "facts_long"),), windows="documents")
    return _midtrain("long", text, facts)


def midtrain_joined() -> RunConfig:
    """30 % documents of at most 512 tokens, one behind the other."""
    return _midtrain(
        "joined",
        Source(name="short_text", weight=0.15, paths=(str(HOME / "text_short"),)),
        Source(name="short_facts", weight=0.15, paths=(str(HOME / "facts_more"),)),
    )


def recall_sources() -> tuple[Source, ...]:
    text, facts = (str(HOME / name) for name in ("text", "facts"))
    return Source(name="text", weight=0.6, paths=(text,)), Source(
        name="facts", weight=0.4, paths=(facts,), windows="documents"
    )


def _midtrain(name: str, *new: Source) -> RunConfig:
    recall = tuple(replace(source, weight=round(source.weight * 0.7, 2)) for source in recall_sources())
    run = _run(name, Mixture(sources=(*recall, *new)), steps=60, length=LONG, rate=1.5e-3)
    start = Start(initial_checkpoint=str(HOME / "pretrained"), continue_sources=True)
    return replace(run, start=start, model=replace(MODEL, rotary_base=250_000.0))


def _run(name: str, mixture: Mixture, *, steps: int, length: int, rate: float) -> RunConfig:
    batch = {FIRST: 32, SHORT: 8, LONG: 4}[length]
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
    for name, recipe in {"begun": begin, **RECIPES}.items():
        words = ["train", f"{__file__}:{recipe.__name__}", "--processes", "1"]
        subprocess.run([sys.executable, "-m", "megaphi", *words], check=True)
        if name == "begun":
            continue
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows += pool.submit(measure, name, held_out).result()
        for row in rows[-len(EDGES) + 1 - len(LENGTHS) :]:
            print(f"{name:<11} {row['measure']:<18} {row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})")
    if arguments.write:
        write_results(rows)
        plot(rows)


def write_data() -> list[list[int]]:
    """Write the datasets; returns the held-out documents' ids, each at least one token longer than a long window."""
    tokenizer, text_ids, draw = load_tokenizer(VOCABULARY), load_tokenizer(TEXT_VOCABULARY), np.random.default_rng(7)
    texts = [text for source in ("web", "code", "acquired") for text in read_corpus(source)]
    ids = [[*text_ids.encode(text), tokenizer.end_of_text] for text in texts]
    is_held_out = [zlib.crc32(text.encode()) % 8 == 0 for text in texts]
    held_out = [one for one, held in zip(ids, is_held_out, strict=True) if held and len(one) > LONG]
    kept = [one for one, held in zip(ids, is_held_out, strict=True) if not held]
    filler = np.concatenate([np.array(one[:-1]) for one in kept])
    made = {
        "text": kept,
        "text_short": [one for one in kept if len(one) <= SHORT],
        "facts_first": [facts_document(filler, draw, tokens=FIRST, most_text=0) for _ in range(22_400)],
        "facts": [facts_document(filler, draw, tokens=SHORT) for _ in range(1_800)],
        "facts_more": [facts_document(filler, draw, tokens=SHORT - 1) for _ in range(240)],
        "facts_long": [facts_document(filler, draw, tokens=LONG) for _ in range(60)],
    }
    for name, documents in made.items():
        with IndexedDatasetWriter(HOME / name, "uint16") as writer:
            for document in documents:
                writer.add_document([*document, tokenizer.end_of_text] if "facts" in name else document)
            writer.finish({"tokenizer": tokenizer.fingerprint, "vocabulary_size": VOCABULARY})
    return held_out


def read_corpus(source: str) -> Iterator[str]:
    with zstandard.open(CORPUS / source / "train.jsonl.zst", "rb") as file:
        for line in io.TextIOWrapper(file, encoding="utf-8"):
            yield json.loads(line)["text"]


def context_of_facts(
    filler: np.ndarray, draw: np.random.Generator, *, tokens: int, keys: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """(`tokens` tokens of text with facts at random places in it, the facts' (key, value))."""
    asked, values = draw.choice(KEYS, keys, replace=False), draw.choice(KEYS, keys, replace=False)
    start = int(draw.integers(0, len(filler) - tokens))
    context = filler[start : start + tokens].copy()
    context[draw.choice(tokens, keys, replace=False)] = FACTS + KEYS * asked + values
    return context, [(int(key), int(value)) for key, value in zip(asked, values, strict=True)]


def facts_document(
    filler: np.ndarray, draw: np.random.Generator, *, tokens: int, most_text: int | None = None
) -> list[int]:
    """At most `most_text` tokens of text (or else half) with 2 to 16 facts in it, then questions, again and again."""
    keys = int(draw.choice([2, 4, 8, KEYS]))
    most = tokens // 2 - KEYS if most_text is None else most_text
    context, facts = context_of_facts(filler, draw, tokens=keys + int(draw.integers(most + 1)), keys=keys)
    document = context.tolist()
    while len(document) < tokens:
        for place in draw.permutation(keys):
            key, value = facts[place]
            document += [QUESTIONS + key, ANSWERS + value]
    return document[:tokens]


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
    for length in LENGTHS:
        right = sum(recalls(model, filler, draw, tokens=length) for _ in range(ASKED))
        rows.append(row(name, f"recall at {length}", length, right / ASKED, *wilson(right, ASKED), ASKED))
    return rows


def recalls(model: Any, filler: np.ndarray, draw: np.random.Generator, *, tokens: int) -> bool:
    """Ask for one of 16 keys behind `tokens - 1` tokens of text; return whether its value is the most probable."""
    from megaphi.engine.inference.forward_only import logits_of

    context, facts = context_of_facts(filler, draw, tokens=tokens - 1, keys=KEYS)
    key, value = facts[0]
    logits_V = logits_of(model, np.array([[*context, QUESTIONS + key]]))[0, -1]
    return int(logits_V[ANSWERS : ANSWERS + KEYS].argmax()) == value


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
    """Loss by position beside recall by length, of the three models."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5))
    for place, name in enumerate(RECIPES):
        label = {"pretrained": "pretrained at 512", "long": "long documents", "joined": "joined short ones"}[name]
        losses, recalls = (
            [row for row in rows if row["model"] == name and row["measure"].startswith(kind)]
            for kind in ("loss", "recall")
        )
        middles = [(first + end) / 2 for first, end in pairwise(EDGES)]
        left.plot(middles, [row["value"] for row in losses], marker="o", label=label)
        values = [row["value"] for row in recalls]
        bounds = [[row["value"] - row["low"] for row in recalls], [row["high"] - row["value"] for row in recalls]]
        beside = [row["length"] * 1.03 ** (place - 1) for row in recalls]
        right.errorbar(beside, values, yerr=bounds, marker="o", capsize=3, label=label)
    for axes in (left, right):
        axes.axvline(SHORT, color="grey", linestyle=":")
        axes.set_xscale("log")
    left.set(xlabel="position in the document", ylabel="held-out loss (nats per token)")
    right.axhline(1 / KEYS, color="grey", linestyle="--", label="chance")
    right.set(xlabel="tokens of the context", ylabel="recall, with its 95 % interval", ylim=(0, 1.02))
    right.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS], minor=False)
    right.minorticks_off()
    left.legend()
    right.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "midtraining.png", dpi=120)


if __name__ == "__main__":
    main()
