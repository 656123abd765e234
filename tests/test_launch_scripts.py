"""The launch scripts, run with launchers that only write down what they were given: arguments, variables, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.test_house import ROOT

# Writes its arguments and environment down. With a file `stay` it waits: as mpirun, for SIGUSR1, at which it ends with
# 0; as torchrun, for its rank, which ends with 0 at SIGTERM. Either ends with 1 when it is asked to stop itself.
LAUNCHER = """#!/bin/sh
printf "%s\\n" "$@" > "$RECORD/words"
env > "$RECORD/environment"
[ -e "$RECORD/stay" ] || exit 5
trap 'exit 1' TERM INT HUP
if [ "$(basename "$0")" = mpirun ]; then
    trap 'echo USR1 >> "$RECORD/signals"; exit 0' USR1
    touch "$RECORD/ready"
    while true; do sleep 0.05; done
fi
sh -c 'trap "echo TERM >> $RECORD/signals; exit 0" TERM; touch "$RECORD/ready"; while true; do sleep 0.05; done' &
wait $!
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a launch script with fake launchers and the given variables; returns its process."""
    for name in ("torchrun", "mpirun", "srun"):
        (tmp_path / name).write_text(LAUNCHER)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "nvidia-smi").write_text('#!/bin/sh\n[ -z "${GPU_LIST:-}" ] || echo "$GPU_LIST" | tr , "\\n"\n')
    (tmp_path / "nvidia-smi").chmod(0o755)

    def run(script: str, *words: str, **variables: str) -> subprocess.Popen[str]:
        for name in ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "GPUS", "NODES"):
            monkeypatch.delenv(name, raising=False)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(tmp_path), **variables}
        command = [*(["bash"] if script.endswith("sbatch") else []), str(ROOT / "launch" / script), *words]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return run


def words_of(tmp_path: Path) -> list[str]:
    return (tmp_path / "words").read_text().splitlines()


def environment_of(tmp_path: Path) -> dict[str, str]:
    lines = (tmp_path / "environment").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def forwarded(tmp_path: Path) -> set[str]:
    words = words_of(tmp_path)
    return {words[index + 1] for index, word in enumerate(words) if word == "-x"}


def test_mpirun_with_a_host_file(tmp_path, start):
    hosts = tmp_path / "hosts"
    hosts.write_text("# two machines\n\nnode7 slots=8\nnode8 slots=8 # the other\n")
    job = start("mpirun.sh", "recipe", "a=1", PROCESSES="3", HOSTFILE=str(hosts), NCCL_DEBUG="INFO", SECRET="x")
    assert job.wait(30) == 5  # the launcher's own code
    words = words_of(tmp_path)
    assert words[:4] == ["-n", "3", "--bind-to", "none"]
    assert words[-6:] == ["python", "-m", "megaphi", "train", "recipe", "a=1"]
    assert "--hostfile" in words
    assert "--oversubscribe" in words  # no GPU here
    assert environment_of(tmp_path)["MASTER_ADDR"] == "node7"
    assert {"PATH", "MASTER_ADDR", "NCCL_DEBUG", "OMP_NUM_THREADS"} <= forwarded(tmp_path)
    assert "SECRET" not in forwarded(tmp_path)
    job = start("mpirun.sh", "recipe", PROCESSES="2", HOSTFILE=str(hosts), MASTER_ADDR="node9", MASTER_PORT="4000")
    assert job.wait(30) == 5
    assert environment_of(tmp_path)["MASTER_ADDR"] == "node9"
    assert "MASTER_PORT" in forwarded(tmp_path)


def test_mpirun_puts_no_more_ranks_on_a_host_than_it_has_gpus(tmp_path, start):
    hosts = tmp_path / "hosts"
    hosts.write_text("node7\nnode8\n")
    job = start("mpirun.sh", "recipe", PROCESSES="8", HOSTFILE=str(hosts), GPU_LIST="a,b,c,d")
    assert job.wait(30) == 5
    words = words_of(tmp_path)
    assert words[words.index("--map-by") + 1] == "ppr:4:node"
    assert "--oversubscribe" not in words
    job = start("mpirun.sh", "recipe", PROCESSES="9", HOSTFILE=str(hosts), GPU_LIST="a,b,c,d")
    assert job.wait(30) == 2
    assert job.stderr is not None
    assert "PROCESSES=9 ranks on 2 host(s) with 4 GPUs each: at most 8" in job.stderr.read()
    hosts.write_text("# nobody\n")
    job = start("mpirun.sh", "recipe", PROCESSES="2", HOSTFILE=str(hosts))
    assert job.wait(30) == 2
    assert job.stderr is not None
    assert "names no host" in job.stderr.read()


def test_torchrun_on_several_machines_wants_to_know_the_first(tmp_path, start):
    job = start("torchrun.sh", "recipe", NODES="2")
    assert job.wait(30) == 2
    assert job.stderr is not None
    assert "NODES=2 needs MASTER_ADDR=<host of NODE_RANK 0>" in job.stderr.read()
    assert start("torchrun.sh", "recipe", NODES="2", NODE_RANK="1", MASTER_ADDR="node7", GPU_LIST="a,b,c").wait(30) == 5
    words = words_of(tmp_path)
    assert words[words.index("--nproc-per-node") + 1] == "3"
    assert words[words.index("--master-addr") + 1] == "node7"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize(("script", "arrives"), [("mpirun.sh", "USR1"), ("torchrun.sh", "TERM")])
def test_a_signal_reaches_the_ranks_as_one_that_saves(tmp_path, start, number, script, arrives):
    (tmp_path / "stay").touch()
    job = start(script, "recipe", PROCESSES="2")
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(number)
    assert job.wait(30) == 0
    assert (tmp_path / "signals").read_text() == f"{arrives}\n"


def test_a_rank_of_the_batch_script_gets_all_its_cores(tmp_path, start):
    assert start("slurm/pretrain.sbatch", "folder=/x", SLURM_CPUS_PER_TASK="12").wait(30) == 5
    assert "--cpus-per-task=12" in words_of(tmp_path)
    assert words_of(tmp_path)[-1] == "folder=/x"
