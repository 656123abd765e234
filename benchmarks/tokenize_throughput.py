"""Time from JSON lines to a .bin/.idx pair: `megaphi tokenize`, and Megatron-LM's way of doing it.

Megatron-LM's preprocess_data.py encodes in a `multiprocessing.Pool` and adds document after document to an
`IndexedDatasetBuilder` in the parent; that is written out here with the same two libraries, with tiktoken and with the
Hugging Face tokenizer, for one and two workers. Ours includes starting the processes, joining and shuffling. All sides
take turns in every round, in fresh processes on the same file; a side is one row, its ratio is taken within the round.
Without the shuffle all sides must give the same bytes. Text comes from Debian's archive, once, into a cache folder:

    python benchmarks/tokenize_throughput.py --cache /tmp/debian --megabytes 50 --rounds 3
"""

from __future__ import annotations

import argparse
import filecmp
import json
import multiprocessing
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results_file import append_rows

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.debian_text import dictionary_pieces, page_text, unpack

RESULTS = Path(__file__).parent / "results" / "tokenize_throughput.csv"
PACKAGES = ("python3.11-doc", "debian-handbook", "anarchism", "dict-gcide")
"""Technical prose, one book in 26 languages, long essays, a dictionary; beside them Python's standard library."""
BASELINES = ("megatron tiktoken", "megatron huggingface")
Side = Callable[[Path, Path], None]
"""Tokenise a file into a prefix."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for Debian's packages and the text")
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/tokenize_throughput.csv")
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "INPUT", "PREFIX"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, source, prefix = arguments.one
        sides()[name](Path(source), Path(prefix))
        return
    text = build_text(arguments.cache, megabytes=arguments.megabytes)
    rounds = [measure_round(text) for _ in range(arguments.rounds)]
    rows = list(summarise(rounds, megabytes=text.stat().st_size / 1e6))
    for row in rows:
        print(" ".join(f"{value:>24}" if place == 0 else f"{value:>11}" for place, value in enumerate(row.values())))
    if arguments.write:
        append(rows)


def sides() -> dict[str, Side]:
    """The tokenizers under comparison; those that end in `in order` are there to compare the bytes."""
    found: dict[str, Side] = {}
    for workers in (1, 2):
        found[f"megatron tiktoken {workers}"] = partial(megatron_way, encoder="tiktoken", workers=workers)
        found[f"megatron huggingface {workers}"] = partial(megatron_way, encoder="huggingface", workers=workers)
        for encoder in ("tiktoken", "gigatoken"):
            found[f"megaphi {encoder} {workers}"] = partial(our_way, encoder=encoder, processes=workers, seed=0)
    found["megaphi gigatoken 2 in order"] = partial(our_way, encoder="gigatoken", processes=2, seed=None)
    return found


def our_way(source: Path, prefix: Path, *, encoder: str, processes: int, seed: int | None) -> None:
    from megaphi.data.tokenize.pipeline import tokenize_documents
    from megaphi.data.tokenize.settings import TokenizeSettings

    tokenize_documents(
        [source], prefix, TokenizeSettings(encoder=encoder, shuffle_seed=seed), processes=processes, show_progress=False
    )


def megatron_way(source: Path, prefix: Path, *, encoder: str, workers: int) -> None:
    """A pool that parses and encodes, a parent that writes."""
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(100_352))
    with open(source, encoding="utf-8") as lines, multiprocessing.Pool(workers, start_encoder, [encoder]) as pool:
        for ids in pool.imap(encode_line, lines, 32):
            builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")


_state: dict[str, Any] = {}


def start_encoder(encoder: str) -> None:
    from megaphi.tokenizer.phi4 import load_tokenizer

    tokenizer = load_tokenizer()
    _state["end"] = tokenizer.end_of_text
    if encoder == "tiktoken":
        _state["encode"] = tokenizer.encode
        return
    from transformers import AutoTokenizer

    from megaphi.tokenizer.huggingface import export_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        export_tokenizer(tokenizer, folder, model_max_length=1 << 30)
        fast = AutoTokenizer.from_pretrained(folder)
    _state["encode"] = lambda text: fast.encode(text, split_special_tokens=True)


def encode_line(line: str) -> list[int]:
    ids = _state["encode"](json.loads(line)["text"])
    ids.append(_state["end"])
    return ids


def measure_round(text: Path) -> dict[str, tuple[float, float]]:
    """(wall, processor) seconds of every side; all .bin/.idx in input order must be equal."""
    found: dict[str, tuple[float, float]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir=text.parent) as folder:
        for name in sides():
            prefix = Path(folder) / name.replace(" ", "_")
            command = [sys.executable, __file__, "--cache", str(text.parent), "--one", name, str(text), str(prefix)]
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            subprocess.run(command, check=True, env=environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            found[name] = (time.monotonic() - began, processor)
            print(f"{name}: {found[name][0]:.1f} s, {processor:.1f} s of processor", flush=True)
        in_order = [name.replace(" ", "_") for name in sides() if "megatron" in name or "in order" in name]
        for name in in_order[1:]:
            for ending in (".bin", ".idx"):
                first, other = (Path(folder) / f"{one}{ending}" for one in (in_order[0], name))
                if not filecmp.cmp(first, other, shallow=False):
                    raise SystemExit(f"{other.name} differs from {first.name}")
    return found


def summarise(rounds: list[dict[str, tuple[float, float]]], *, megabytes: float) -> Iterator[dict[str, Any]]:
    """One row per side: medians, and the median ratio to Megatron's way with as many workers in the same round."""
    for name in rounds[0]:
        workers = name.split()[2]
        row = {"side": name, "megabytes": f"{megabytes:.1f}", "rounds": len(rounds)}
        for place, what in enumerate(("wall", "processor")):
            seconds = statistics.median(times[name][place] for times in rounds)
            row[f"{what}_mb_per_s"] = f"{megabytes / seconds:.2f}"
        for baseline in BASELINES:
            for place, what in enumerate(("wall", "processor")):
                ratios = [times[f"{baseline} {workers}"][place] / times[name][place] for times in rounds]
                row[f"{what}_speedup_over_{baseline.split()[1]}"] = f"{statistics.median(ratios):.2f}"
        yield row


def build_text(cache: Path, *, megabytes: int) -> Path:
    """A file of JSON lines of real documents in a fixed order, made once."""
    path = cache / f"text_{megabytes}mb.jsonl"
    if path.exists():
        return path
    texts = sorted(set(documents([unpack(package, cache) for package in PACKAGES])))
    random.Random(0).shuffle(texts)
    written = 0
    with open(path.with_suffix(".partial"), "w", encoding="utf-8") as file:
        for text in texts:
            if written >= megabytes * 1_000_000:
                break
            line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
            file.write(line)
            written += len(line.encode())
    path.with_suffix(".partial").rename(path)
    return path


def documents(folders: list[Path]) -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" not in path.parts:
            yield path.read_text(encoding="utf-8", errors="ignore")
    for folder in folders:
        yield from map(page_text, sorted(folder.rglob("*.html")))
        yield from (piece for path in sorted(folder.rglob("*.dict.dz")) for piece in dictionary_pieces(path))


def append(rows: list[dict[str, Any]]) -> None:
    """One line per side: what was measured, where, with what."""
    from megaphi.checkpoint.versions import short_commit

    stamp = {"date": date.today().isoformat(), "device": f"CPU, {len(os.sched_getaffinity(0))} processors"}
    stamp |= {"commit": short_commit(), "python": platform.python_version()}
    stamp |= {name: version(name) for name in ("tiktoken", "gigatoken", "tokenizers", "megatron-core")}
    append_rows(RESULTS, [*stamp, *rows[0]], ({**stamp, **row} for row in rows))


if __name__ == "__main__":
    main()
