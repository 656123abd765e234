"""Fault drills with the default patience: how soon is a lost rank named, how soon does it train again, what is lost?

Four ranks (two tensor ranks times two replicas of a tiny model, saving every sixth step) are started as a user starts
them, `python -m megaphi train --processes 4 --restarts 2`, and something happens to rank 1 or to the job after step 10.
For every case: seconds until the rank is named in events.jsonl (or the job has saved and ended), seconds until the job
trains again, steps that had to be taken again, and whether the curve is that of the run that nothing happens to.

    python benchmarks/fault_drills.py --write
    python benchmarks/fault_drills.py --cases killed hung
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from results_file import append_rows

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tests' recipe

from megaphi.checkpoint.versions import short_commit, versions  # noqa: E402
from megaphi.data.tokenize.pipeline import tokenize_documents  # noqa: E402
from megaphi.data.tokenize.settings import TokenizeSettings  # noqa: E402
from megaphi.parallel.launcher import free_port  # noqa: E402
from tests.processes import children_of  # noqa: E402
from tests.stages.fault_drills import EVERY, FAULT_STEP, RECIPE, STEPS, TIMEOUT_SECONDS, Curve, Drill  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "fault_drills.csv"
CORPUS = ROOT / "examples" / "corpus"
COLUMNS = "date commit torch case seconds_to_name seconds_to_recover steps_again same_curve said"
TOLERANCE = 2e-5
"""Largest difference of a loss or a gradient norm where the layout has changed; the same layout gives the same bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Folders of one case."""

    folder: Path
    tokens: Path
    drills: list[Drill] = field(default_factory=list)

    def drill(self, *words: str, **options: Any) -> Drill:
        self.drills.append(Drill(self.folder, self.tokens, *words, **{"launch": by_interpreter, **options}))
        return self.drills[-1]

    def clear(self) -> None:
        """Kill what an interrupted case has left running; its ranks die with it."""
        for drill in self.drills:
            drill.job.kill()


def by_interpreter(words: list[str], environment: dict[str, str], code: Path = ROOT) -> subprocess.Popen[str]:
    """Start `python -m megaphi` as a user does."""
    command = [sys.executable, "-m", "megaphi", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=code, **pipes)  # pyright: ignore[reportCallIssue, reportArgumentType]


def by_torchrun(words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start the ranks under torchrun's elastic agent."""
    where = words.index("--processes")
    ranks, words = words[where + 1], words[:where] + words[where + 2 :]
    agent = ["--nnodes", "1:1", "--nproc-per-node", ranks, "--max-restarts", "2", "--rdzv-backend", "c10d"]
    agent += ["--rdzv-endpoint", "127.0.0.1:0", "--rdzv-id", "drill", "-m", "megaphi"]
    command = [sys.executable, "-m", "torch.distributed.run", *agent, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)  # pyright: ignore[reportCallIssue, reportArgumentType]


def lost_rank(place: Place, strike: str, **options: Any) -> dict[str, object]:
    """Something happens to rank 1 in a forward pass, and the job restarts by itself."""
    strikes = {FAULT_STEP + 1: strike}
    drill = place.drill(*(["--restarts", "2"] if not options else []), strikes=strikes, **options)
    drill.seconds_until(lambda: drill.has_struck(strike), strike)
    named = drill.seconds_until(lambda: drill.events("lost_rank"), "the rank is named")
    again = named + drill.seconds_until(lambda: drill.events("restarted"), "the job trains again")
    code, errors = drill.end()
    assert code == 0, errors
    (lost,), (start,) = drill.events("lost_rank"), drill.events("restarted")
    return {
        "seconds_to_name": round(named, 1),
        "seconds_to_recover": round(again, 1),
        "steps_again": FAULT_STEP - start["step"],
        "said": lost["text"],
        "curve": drill.curve(),
    }


def asked_to_stop(place: Place, number: int) -> dict[str, object]:
    """The job gets a signal, saves and ends; the same command continues it."""
    drill = place.drill("--restarts", "2")
    drill.seconds_until(lambda: drill.step() >= FAULT_STEP, "the step")
    drill.job.send_signal(number)
    asked = time.monotonic()
    code, errors = drill.end()
    ended = time.monotonic() - asked
    assert code == 0, errors
    reached = drill.step()
    save = re.findall(rf"step_0*{reached} in ([\d.]+) s", errors)
    again = place.drill("--restarts", "2")
    began = time.monotonic()
    again.seconds_until(lambda: again.step() > reached, "the run continues")
    recovered = time.monotonic() - began
    code, errors = again.end()
    assert code == 0, errors
    return {
        "seconds_to_name": round(ended, 1),
        "seconds_to_recover": round(recovered, 1),
        "steps_again": 0,
        "said": f"saved step {reached}, the save took {save[-1]} s",
        "curve": again.curve(),
    }


def lost_node(place: Place) -> dict[str, object]:
    """Two of the four ranks are killed with the job that started them; two processes continue the run."""
    drill = place.drill()
    drill.seconds_until(lambda: drill.step() >= FAULT_STEP, "the step")
    for victim in children_of(drill.job.pid)[2:]:
        os.kill(victim, signal.SIGKILL)
    killed, reached = time.monotonic(), drill.step()
    code, _ = drill.end()
    named = time.monotonic() - killed
    again = place.drill(processes=2)
    again.seconds_until(lambda: again.events("resumed"), "the run continues")
    recovered = time.monotonic() - killed
    step = again.events("resumed")[-1]["step"]
    ended, errors = again.end()
    assert ended == 0, errors
    return {
        "seconds_to_name": round(named, 1),
        "seconds_to_recover": round(recovered, 1),
        "steps_again": reached - step,
        "said": f"exit code {code}",
        "curve": again.curve(),
    }


def other_version(place: Place) -> dict[str, object]:
    """Rank 1 of two has another version of one source file: both end before the first step."""
    copy = place.folder / "copy"
    shutil.copytree(ROOT / "megaphi", copy / "megaphi")
    changed = copy / "megaphi" / "engine" / "objective.py"
    changed.write_text(changed.read_text() + "\n# a line more\n")
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    began, ranks = time.monotonic(), []
    for rank, code in enumerate((ROOT, copy)):
        variables = {**world, "RANK": str(rank), "LOCAL_RANK": str(rank), "TINY_DATA": str(place.tokens)}
        environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
        ranks.append(by_interpreter(["train", RECIPE, f"folder={place.folder / 'run'}"], environment, code))
    ends = [rank.communicate(timeout=TIMEOUT_SECONDS) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], ends
    assert not (place.folder / "run" / "metrics.jsonl").exists()
    said = " ".join(line.strip() for line in ends[0][1].splitlines() if "objective.py" in line)
    return {"seconds_to_name": round(time.monotonic() - began, 1), "said": said, "curve": None}


CASES: dict[str, Callable[[Place], dict[str, object]]] = {
    "killed": lambda place: lost_rank(place, "killed"),
    "stopped": lambda place: lost_rank(place, "stopped"),
    "hung main thread": lambda place: lost_rank(place, "hung"),
    "SIGTERM": lambda place: asked_to_stop(place, signal.SIGTERM),
    "SIGUSR1": lambda place: asked_to_stop(place, signal.SIGUSR1),
    "lost node, 4 to 2 processes": lost_node,
    "another version of one file": other_version,
    "killed, torchrun --max-restarts": lambda place: lost_rank(place, "killed", launch=by_torchrun),
}


def judged(name: str, place: Place, clean: Curve) -> dict[str, object]:
    """One case, its curve compared with that of the clean run."""
    try:
        found = CASES[name](place)
    finally:
        place.clear()
    curve: Any = found.pop("curve")
    if curve is None:
        return {"case": name, **found, "same_curve": "no step was taken"}
    steps = [step for step, *_ in curve]
    largest = max(
        abs(mine - theirs)
        for one, other in zip(curve, clean, strict=True)
        for mine, theirs in zip(one[1:], other[1:], strict=True)
    )
    is_same = steps == list(range(1, STEPS + 1)) and largest <= TOLERANCE
    same = "no" if not is_same else "to the bit" if curve == clean else f"within {largest:.0e}"
    return {"case": name, **found, "same_curve": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/fault_drills.csv")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("web", "code"):
            text = [CORPUS / name / "validation.jsonl.zst"]
            settings = TokenizeSettings(vocabulary_size=512)
            tokenize_documents(text, home / "tokens" / name, settings, processes=1, show_progress=False)
        straight = Place(folder=home / "clean", tokens=home / "tokens").drill()
        code, errors = straight.end()
        assert code == 0, errors
        for name in arguments.cases:
            row = judged(name, Place(folder=home / name.split(",")[0], tokens=home / "tokens"), straight.curve())
            print("  ".join(f"{column}={value}" for column, value in row.items()), flush=True)
            if arguments.write:
                _append(row)
    print(f"saved every {EVERY} steps of {STEPS}")


def _append(row: dict[str, object]) -> None:
    start = {"date": date.today().isoformat(), "commit": short_commit(7), "torch": versions()["torch"]}
    append_rows(RESULTS, COLUMNS.split(), [start | row])


if __name__ == "__main__":
    main()
