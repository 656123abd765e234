"""A hundred SIGKILLs: is every run continued from a whole checkpoint, and does it come to the end it would have had?

Three runs of a tiny model, which save every third step and keep two checkpoints, are killed in turn: one process with
asynchronous saves in bf16, two tensor ranks asynchronous, two replicas synchronous. Every second kill strikes a random
moment after a save has begun, the others any moment of the processes' life, imports not counted. What is looked at
after every kill, and what the figures mean, is in tests/stages/killed_runs.py.

    python benchmarks/killed_runs.py --kills 100 --write
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

from results_file import append_rows

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tests' fork server

from megaphi.checkpoint.versions import short_commit, versions  # noqa: E402
from megaphi.engine.run_config import RunConfig  # noqa: E402
from megaphi.log import progress_bar  # noqa: E402
from megaphi.parallel.layout import ParallelLayout  # noqa: E402
from tests.stages.killed_runs import EVERY, Story, killed_run, tell  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "killed_runs.csv"
CASES = {
    "1, asynchronous, bf16": (ParallelLayout(), True, True),
    "TP2+SP, asynchronous, fp32": (ParallelLayout(tensor=2, sequence_parallel=True), True, False),
    "DP2, synchronous, fp32": (ParallelLayout(data=2), False, False),
}
COLUMNS = (
    "date commit torch case kills during_save corrupted orphans leftovers interval lost_steps lost_steps_during_save"
    " same_curve same_checkpoint seconds"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of all cases together (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/killed_runs.csv")
    arguments = parser.parse_args()
    logging.getLogger("megaphi").setLevel(logging.ERROR)
    rows = []
    shares = [arguments.kills // 3 + (number < arguments.kills % 3) for number in range(3)]
    with progress_bar(total=arguments.kills, unit="kill", label="killed runs") as bar:
        for (name, case), kills in zip(CASES.items(), shares, strict=True):
            rows.append(_judged(name, *case, kills=kills, seed=arguments.seed))
            bar.update(kills)
    for row in rows:
        print("  ".join(f"{column}={row[column]}" for column in COLUMNS.split()[3:]))
    if arguments.write:
        _append(rows)


def _judged(
    name: str, layout: ParallelLayout, asynchronous: bool, bf16: bool, *, kills: int, seed: int
) -> dict[str, object]:
    """The story of one killed run, compared with the one that nobody kills."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = killed_run(Path(folder), layout=layout, asynchronous=asynchronous, bf16=bf16)
        run = replace(run, training=replace(run.training, steps=9 * kills + 60))
        straight = tell(_elsewhere(run, f"{folder}/straight"), kills=0, seed=0)
        story = tell(run, kills=kills, seed=seed)
    return {
        "case": name,
        **_figures(story),
        "interval": EVERY,
        "same_curve": story.losses == straight.losses,
        "same_checkpoint": story.digests == straight.digests,
        "seconds": round(time.monotonic() - began),
    }


def _elsewhere(run: RunConfig, folder: str) -> RunConfig:
    return replace(run, folder=folder)


def _figures(story: Story) -> dict[str, object]:
    return {
        "kills": story.kills,
        "during_save": story.during_save,
        "damaged": len(story.damaged),
        "orphans": story.orphans,
        "leftovers": len(story.leftovers),
        "lost_steps": story.largest_loss,
        "lost_steps_during_save": story.largest_loss_during_save,
    }


def _append(rows: list[dict[str, object]]) -> None:
    made_by = versions()
    start: dict[str, object] = {
        "date": date.today().isoformat(),
        "commit": short_commit(7),
        "torch": made_by["torch"],
    }
    append_rows(RESULTS, COLUMNS.split(), (start | row for row in rows))


if __name__ == "__main__":
    main()
