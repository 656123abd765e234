"""A ladder of toy size on the corpus that ships with the repository: predicted against measured, run for run.

Five sources are tokenised with 1,024 tokens, four sizes from 27 thousand to 360 thousand parameters are trained with
three learning rates and two seeds each, and 640 thousand are predicted and then trained: `megaphi ladder` with the
fields below, about twenty minutes of one core. What is in the folder already is used again; a ladder that was stopped
goes on.

    python benchmarks/ladder.py --folder runs/ladder_benchmark --write
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from datetime import date
from pathlib import Path

from results_file import append_rows

from megaphi.checkpoint.versions import short_commit, versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "ladder.csv"
SOURCES = ("web", "rewrites", "synthetic", "code", "acquired")
VOCABULARY = 1_024
FIELDS = (
    "layout.tensor=1",
    "layout.sequence_parallel=false",
    f"model.vocabulary={VOCABULARY}",
    "batch.sequence_length=128",
    "validation.samples=256",
)
OPTIONS = ("--sizes", "27k,107k,240k,360k", "--target", "640k", "--tokens-per-parameter", "3", "--measure")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/ladder_benchmark"), help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/ladder.csv")
    arguments = parser.parse_args()
    table = arguments.folder / "ladder" / "ladder.csv"
    if not table.exists():
        tokenise(arguments.folder / "data")
        climb(arguments.folder)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        print("  ".join(f"{name}={value}" for name, value in row.items() if value))
    if arguments.write:
        append(rows)


def tokenise(folder: Path) -> None:
    """Training and held-out text of every source, unless it is there."""
    for name in SOURCES:
        for split, ending in (("train", ""), ("validation", "_validation")):
            prefix = folder / f"{name}{ending}"
            if not prefix.with_suffix(".idx").exists():
                text = ROOT / "examples" / "corpus" / name / f"{split}.jsonl.zst"
                megaphi("tokenize", str(text), "--output", str(prefix), "--vocabulary", str(VOCABULARY))


def climb(folder: Path) -> None:
    """The ladder; its exit code 1 says that the prediction was wrong, which is a result, too."""
    data = [
        word
        for name in SOURCES
        for word in (
            f"task.mixture.sources.{name}.paths={folder}/data/{name}",
            f"task.mixture.sources.{name}.validation_paths={folder}/data/{name}_validation",
        )
    ]
    words = ("ladder", "quickstart_pretrain", *FIELDS, *data, *OPTIONS, "--output", str(folder / "ladder"))
    megaphi(*words, codes=(0, 1))


def megaphi(*words: str, codes: tuple[int, ...] = (0,)) -> None:
    code = subprocess.run([sys.executable, "-m", "megaphi", *words], check=False).returncode
    if code not in codes:
        sys.exit(code)


def append(rows: list[dict[str, str]]) -> None:
    start = {"date": date.today().isoformat(), "commit": short_commit(7), "torch": versions()["torch"]}
    append_rows(RESULTS, [*start, *rows[0]], (start | row for row in rows))


if __name__ == "__main__":
    main()
