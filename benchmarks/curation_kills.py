"""Twenty SIGKILLs: does a run of curation that is killed again and again give the bytes of one that nobody disturbs?

`megaphi curate` with two processes on 200 records and a recipe with every kind of step (one by one, batches, a joint
step: tests/curation/pipeline/my_steps.py, slow ones) is killed with all its processes at random moments, most of them
after it began its first shard, and started again, until it ends. If that took fewer kills than asked for, the next
folder is begun. Compared are all files of the folder but those that tell of time, with those of one process that was
let alone, of two ranks of mpirun, and of Ray. Rows are the figures of a whole run of this program.

    python benchmarks/curation_kills.py --kills 20 --write
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from results_file import append_rows

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tests' recipe

from megaphi.checkpoint.versions import short_commit  # noqa: E402
from megaphi.log import progress_bar  # noqa: E402
from tests.curation.pipeline.conftest import result_of, write_source  # noqa: E402
from tests.curation.pipeline.killed_curation import Command, killed_until_finished  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "curation_kills.csv"
RECIPE = f"{ROOT / 'tests/curation/pipeline/my_steps.py'}:slow_recipe"
COLUMNS: Sequence[str] = "date commit case kills states runs_killed identical seconds".split()
MPIRUN = ("mpirun", "--allow-run-as-root", "--bind-to", "none", "--oversubscribe", "-n", "2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/curation_kills.csv")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), kills=arguments.kills, seed=arguments.seed)
    for row in rows:
        print("  ".join(f"{name}={row[name]}" for name in COLUMNS[2:]))
    if arguments.write:
        _append(rows)


def measure(folder: Path, *, kills: int, seed: int) -> list[dict[str, object]]:
    """The rows: killed runs, and other ways to run it."""
    source = folder / "input.jsonl"
    write_source(source)
    began = time.monotonic()
    _run(_words(folder / "alone", "--processes", "1"), source)
    alone_seconds = time.monotonic() - began
    expected = result_of(folder / "alone")
    rows = [_killed(folder, source, expected, kills=kills, seed=seed)]
    launcher = (str(Path(sys.executable).parent / MPIRUN[0]), *MPIRUN[1:])
    for case, words in (
        ("one process", _words(folder / "again", "--processes", "1")),
        ("mpirun -n 2", [*launcher, *_words(folder / "mpirun", "--processes", "1")]),
        ("Ray, 2 processes", _words(folder / "ray", "--processes", "2", "--ray", "local")),
    ):
        began = time.monotonic()
        _run(words, source)
        same = result_of(Path(words[words.index("--output") + 1])) == expected
        rows.append(_row(case, identical=same, seconds=time.monotonic() - began))
    rows.append(_row("one process, first", identical=True, seconds=alone_seconds))
    return rows


def _killed(folder: Path, source: Path, expected: dict[str, bytes], *, kills: int, seed: int) -> dict[str, object]:
    began, found, runs, identical, moments = time.monotonic(), 0, 0, True, set()
    with progress_bar(total=kills, unit="kill", label="killed runs") as bar:
        while found < kills:
            output = folder / f"killed{runs}"
            killed = killed_until_finished(
                lambda output=output: Command(_words(output, "--processes", "2"), _environment(source)),
                output,
                most_seconds=2.0,
                seed=seed + runs,
            )
            found, runs = found + killed.kills, runs + 1
            moments |= set(killed.moments or [])
            found_files = result_of(output)
            for name in sorted({*found_files, *expected}):
                if found_files.get(name) != expected.get(name):
                    print(f"{output.name}: {name} differs", file=sys.stderr)
                    identical = False
            bar.update(killed.kills)
    return _row(
        "killed, 2 processes",
        kills=found,
        states=len(moments),
        runs_killed=runs,
        identical=identical,
        seconds=time.monotonic() - began,
    )


def _words(output: Path, *options: str) -> list[str]:
    step = "steps.waits.seconds=0.02"
    return [sys.executable, "-m", "megaphi", "curate", RECIPE, step, "--output", str(output), *options]


def _environment(source: Path) -> dict[str, str]:
    return {**os.environ, "CURATION_INPUT": str(source), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _run(words: Sequence[str], source: Path) -> None:
    subprocess.run(words, env=_environment(source), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _row(case: str, **figures: object) -> dict[str, object]:
    seconds = figures.pop("seconds")
    assert isinstance(seconds, float)
    about = {"date": date.today().isoformat(), "commit": short_commit(), "case": case}
    return {**dict.fromkeys(COLUMNS, ""), **about, **figures, "seconds": round(seconds, 1)}


def _append(rows: Sequence[dict[str, object]]) -> None:
    append_rows(RESULTS, COLUMNS, rows)


if __name__ == "__main__":
    main()
