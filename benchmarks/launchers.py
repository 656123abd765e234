"""One run, four launchers: torchrun, Open MPI, MPICH and Slurm's srun must give the same numbers, bit for bit.

The quickstart's model on two ranks of this machine, for some steps on the corpus that ships with the repository, each
time by the script of launch/ that a user calls. Compared are all numbers of metrics.jsonl but those of time, memory and
checkpoints. srun is a stand-in, which sets the variables of srun(1) and starts the tasks, as there is no Slurm here;
with it a run is also told to save as Slurm tells it before the time limit, is requeued, and goes on.

    python benchmarks/launchers.py --mpich ENVIRONMENT --write     a virtual environment with `pip install mpich`
    python benchmarks/launchers.py --cases torchrun "srun, saved and requeued"
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "launchers.csv"
COLUMNS = ("date", "commit", "torch", "launcher", "version", "ranks", "steps", "loss", "same_numbers", "seconds")
RANKS = 2
SOURCES = ("web", "rewrites", "synthetic", "code", "acquired")
LONGEST_SECONDS = 300.0
NOT_COMPARED = ("seconds", "_per_", "memory", "checkpoint", "tokens/")
"""Parts of the names of numbers that no two runs share, or that are written with a checkpoint only."""
REQUEUED = "srun, saved and requeued"
CASES = ("torchrun", "Open MPI", "MPICH", "srun", REQUEUED)
SLURM_JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "launchers", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": str(RANKS)}
SRUN = """#!/bin/sh
# SLURM_NTASKS tasks on this host, with the variables that srun gives them; SIGUSR1 is passed on to all of them.
while [ "${1#--}" != "$1" ]; do shift; done
export SLURM_STEP_ID=0 SLURM_NODEID=0 SLURM_STEP_NUM_NODES=1 SLURM_STEP_NODELIST="$(uname -n)"
export SLURM_STEP_NUM_TASKS="$SLURM_NTASKS" SLURM_STEP_TASKS_PER_NODE="$SLURM_NTASKS"
tasks=
for rank in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" &
    tasks="$tasks $!"
done
trap 'kill -USR1 $tasks' USR1
highest=0
for task in $tasks; do
    code=0
    wait "$task" || code=$?
    while kill -0 "$task" 2>/dev/null; do code=0; wait "$task" || code=$?; done # a signal interrupts a wait
    [ "$code" -le "$highest" ] || highest=$code
done
exit "$highest"
"""
SCONTROL = '#!/bin/sh\necho "$@" >> "$REQUEUED"\n'


@dataclass(frozen=True, kw_only=True, slots=True)
class Launcher:
    """A script of launch/, and what it finds on PATH and in its environment."""

    name: str
    script: str
    programs: Path
    """Folder that is first on PATH."""
    asks_version: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    def version(self) -> str:
        if not self.asks_version:
            return "a stand-in"
        done = subprocess.run([self.programs / self.asks_version[0], *self.asks_version[1:]], capture_output=True)
        lines = [" ".join(line.split()) for line in done.stdout.decode().splitlines()]
        return next((line for line in lines if any(letter.isdigit() for letter in line)), "unknown")

    def start(self, *words: str, folder: Path, data: Path, steps: int) -> subprocess.Popen[bytes]:
        """Start the run; its output goes to a file beside the run folder."""
        places = os.pathsep.join([str(self.programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        outer = ("SLURM_", "OMPI_", "PMI", "MASTER_", "RANK", "WORLD_SIZE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        own = {"PATH": places, "OMP_NUM_THREADS": "1", "GPUS": "0", "REQUEUED": f"{folder}_requeued"}
        train = [
            "quickstart_pretrain",
            f"folder={folder}",
            f"training.steps={steps}",
            "validation.every=0",
            "optimizer.warmup_steps=2",
        ]
        with open(f"{folder}.log", "ab") as log:
            return subprocess.Popen(
                [ROOT / "launch" / self.script, *train, "validation.samples=8", *words],
                env={**inherited, **own, **self.variables},
                cwd=data,
                stdout=log,
                stderr=log,
            )


def launchers(programs: Path, *, mpich: Path | None) -> list[Launcher]:
    """All launchers that are here; what is not installed beside this Python is written into `programs`."""
    here, mpi = Path(sys.executable).parent, {"PROCESSES": str(RANKS)}
    asks = ("python", "-c", "import torch; print(torch.__version__)")
    found = [Launcher(name="torchrun", script="torchrun.sh", programs=here, asks_version=asks)]
    asks = ("mpirun", "--version")
    if (here / "mpirun").exists():
        found.append(Launcher(name="Open MPI", script="mpirun.sh", programs=here, asks_version=asks, variables=mpi))
    if mpich is not None:  # only its mpirun: the environment has a Python of its own
        write_programs(programs / "mpich", mpirun=f'#!/bin/sh\nexec "{mpich.absolute()}/bin/mpirun" "$@"\n')
        place = programs / "mpich"
        found.append(Launcher(name="MPICH", script="mpirun.sh", programs=place, asks_version=asks, variables=mpi))
    write_programs(programs / "slurm", srun=SRUN, scontrol=SCONTROL)
    slurm = programs / "slurm"
    return [*found, Launcher(name="srun", script="srun.sh", programs=slurm, asks_version=(), variables=SLURM_JOB)]


def write_programs(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def make_data(folder: Path) -> Path:
    """The five sources where the quickstart's recipe looks for them, from the corpus's held-out texts."""
    from megaphi.data.tokenize.pipeline import tokenize_documents
    from megaphi.data.tokenize.settings import TokenizeSettings

    place = folder / "runs" / "quickstart" / "data"
    for name in SOURCES:
        text = ROOT / "examples" / "corpus" / name / "validation.jsonl.zst"
        for written in (name, f"{name}_validation"):
            settings = TokenizeSettings(vocabulary_size=4_096)
            tokenize_documents([text], place / written, settings, processes=1, show_progress=False)
    return folder


def finish(job: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for a run. Raises RuntimeError with what it said if it fails."""
    try:
        code = job.wait(LONGEST_SECONDS)
    finally:
        job.kill()
    if code:
        raise RuntimeError(f"{folder.name} ended with {code}:\n{Path(f'{folder}.log').read_text()}")


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, without the numbers that are not compared."""
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in record.items() if not any(part in name for part in NOT_COMPARED)}
        for record in records
    ]


def requeued_run(slurm: Launcher, folder: Path, *, data: Path, steps: int) -> None:
    """A run that Slurm tells to save half-way, by a signal to the batch script, and starts again."""
    job = slurm.start(folder=folder, data=data, steps=steps)
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + LONGEST_SECONDS
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < steps // 2:
        if job.poll() is not None or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    finish(job, folder)
    requeued = Path(f"{folder}_requeued").read_text()
    if requeued != "requeue 7\n":
        raise RuntimeError(f"the job was not requeued once, but: {requeued!r}")
    if len(numbers(folder)) >= steps:
        raise RuntimeError("the run was over before the signal came: give it more steps")
    finish(slurm.start(folder=folder, data=data, steps=steps), folder)


def measured(folder: Path, cases: Sequence[str], *, mpich: Path | None, steps: int) -> Iterator[dict[str, Any]]:
    """A row for every case, of those that can be tried here; all are compared with the first."""
    data, first = make_data(folder), None
    found = launchers(folder / "programs", mpich=mpich)
    tried = {launcher.name: launcher for launcher in found} | {REQUEUED: found[-1]}
    for case, launcher in ((case, tried[case]) for case in cases if case in tried):
        place, began = folder / case.replace(" ", "_"), time.monotonic()
        if case == launcher.name:
            finish(launcher.start(folder=place, data=data, steps=steps), place)
        else:
            requeued_run(launcher, place, data=data, steps=steps)
        seconds, now = time.monotonic() - began, numbers(place)
        first = first or now
        yield {
            "launcher": case,
            "version": launcher.version(),
            "ranks": RANKS,
            "steps": steps,
            "loss": now[-1]["loss"],
            "same_numbers": now == first,
            "seconds": f"{seconds:.1f}",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mpich", type=Path, metavar="ENVIRONMENT", help="a virtual environment with MPICH")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="replace these cases in benchmarks/results/launchers.csv")
    arguments = parser.parse_args()
    from megaphi.checkpoint.versions import short_commit, versions

    about = {"date": date.today().isoformat(), "commit": short_commit(7), "torch": versions()["torch"]}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for row in measured(Path(temporary), arguments.cases, mpich=arguments.mpich, steps=arguments.steps):
            rows.append({**about, **row})
            print(json.dumps(rows[-1]), flush=True)
            if arguments.write:
                write(rows[-1])
    if not all(row["same_numbers"] for row in rows):
        sys.exit("the launchers do not give the same numbers")


def write(row: dict[str, Any]) -> None:
    """Put a row in the place of that of the same launcher, in the order of the cases."""
    kept: dict[str, dict[str, Any]] = {}
    if RESULTS.exists():
        with open(RESULTS, newline="") as file:
            kept = {row["launcher"]: row for row in csv.DictReader(file)}
    kept[row["launcher"]] = row
    with open(RESULTS, "w", newline="") as file:
        writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept[case] for case in CASES if case in kept)


if __name__ == "__main__":
    main()
