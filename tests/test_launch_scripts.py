"""The launch scripts, run with launchers that only write down what they were given: arguments, variables, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.test_house import ROOT

# Writes its arguments and environment down. With a file `stay` it waits: as mpirun or srun, for SIGUSR1, at which it
# ends with 0; as torchrun, for its rank, which ends with 0 at SIGTERM. All end with 1 when they are asked to stop.
LAUNCHER = """#!/bin/sh
[ "$*" != --version ] || { echo "${MPI:-mpirun (Open MPI) 5.0.11}"; exit 0; }
case "$*" in *doctor*) printf "%s\\n" "$@" > "$RECORD/check"; exit "${CHECK_CODE:-0}" ;; esac
printf "%s\\n" "$@" > "$RECORD/words"
env > "$RECORD/environment"
echo started >> "$RECORD/starts"
[ -z "${ERRORS:-}" ] || echo "$ERRORS" > "$TORCHELASTIC_ERROR_FILE"
[ -e "$RECORD/stay" ] || exit "${CODE:-5}"
trap 'exit 1' TERM INT HUP
if [ "$(basename "$0")" != torchrun ]; then
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
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" >> "$RECORD/requeued"\n')
    (tmp_path / "scontrol").chmod(0o755)
    for name in ("torchrun", "mpirun", "srun"):
        (tmp_path / name).write_text(LAUNCHER)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "nvidia-smi").write_text('#!/bin/sh\n[ -z "${GPU_LIST:-}" ] || echo "$GPU_LIST" | tr , "\\n"\n')
    (tmp_path / "nvidia-smi").chmod(0o755)

    def run(script: str, *words: str, **variables: str) -> subprocess.Popen[str]:
        for name in ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "GPUS", "NODES", "MAX_RESTARTS"):
            monkeypatch.delenv(name, raising=False)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(tmp_path), **variables}
        command = [*(["bash"] if script.endswith("sbatch") else []), str(ROOT / "launch" / script), *words]
        return subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

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


HYDRA = "HYDRA build details:\\n    Version: 5.0.2"


def test_mpirun_of_mpich_gets_its_own_options(tmp_path, start):
    """The names of the variables are on its command line, which everybody on the machine can read; no value is."""
    hosts = tmp_path / "hosts"
    hosts.write_text("# two machines\nnode7 slots=8\nnode8:8 # the other\n")
    job = start("mpirun.sh", "recipe", MPI=HYDRA, PROCESSES="8", HOSTFILE=str(hosts), GPU_LIST="a,b,c,d", SECRET="x")
    assert job.wait(30) == 5
    words = words_of(tmp_path)
    assert words[:4] == ["-n", "8", "-bind-to", "none"]
    assert words[words.index("-hosts") + 1] == "node7:8,node8:8"
    assert words[words.index("-ppn") + 1] == "4"
    names = words[words.index("-genvlist") + 1].split(",")
    assert {"PATH", "MASTER_ADDR", "MEGAPHI_JOB_SECRET", "OMP_NUM_THREADS"} <= set(names)
    assert "SECRET" not in names
    assert words[-5:] == ["python", "-m", "megaphi", "train", "recipe"]
    assert environment_of(tmp_path)["MEGAPHI_JOB_SECRET"] not in " ".join(words)
    assert start("mpirun.sh", "recipe", MPI=HYDRA, PROCESSES="2").wait(30) == 5
    assert not {"-hosts", "-ppn", "-x"} & set(words_of(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize(("script", "arrives"), [("mpirun.sh", "USR1"), ("torchrun.sh", "TERM")])
def test_a_signal_reaches_the_ranks_as_one_that_saves(tmp_path, start, number, script, arrives):
    job = start_and_signal(tmp_path, start, script, number, PROCESSES="2", MAX_RESTARTS="3")
    assert job.wait(30) == 0
    assert (tmp_path / "signals").read_text() == f"{arrives}\n"
    assert starts(tmp_path) == 1


def start_and_signal(tmp_path: Path, start, script: str, number: int, **variables: str) -> subprocess.Popen[str]:
    (tmp_path / "stay").touch()
    job = start(script, "recipe", **variables)
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(number)
    return job


def starts(tmp_path: Path) -> int:
    """Number of times that the ranks were started since the last call."""
    record = tmp_path / "starts"
    found = record.read_text().count("started") if record.exists() else 0
    record.unlink(missing_ok=True)
    return found


@pytest.mark.parametrize("script", ["mpirun.sh", "torchrun.sh"])
def test_a_crashed_job_starts_again_until_its_limit(tmp_path, start, script):
    job = start(script, "recipe", PROCESSES="2", MAX_RESTARTS="2", CODE="75")
    assert job.wait(30) == 75
    assert "ended with code 75: restart 2 of 2, from the last checkpoint" in job.stderr.read()
    assert starts(tmp_path) == 3
    for code in (0, 2, 130):
        assert start(script, "recipe", PROCESSES="2", MAX_RESTARTS="2", CODE=str(code)).wait(30) == code
        assert starts(tmp_path) == 1
    assert start(script, "recipe", PROCESSES="2", CODE="75").wait(30) == 75  # nobody asked for restarts
    assert starts(tmp_path) == 1


def test_bad_input_under_torchrun_ends_with_2_and_is_not_tried_again(tmp_path, start):
    """torchrun itself ends with 1; it copies what its rank has left, with the exit code of that."""
    told = {"message": {"message": 'no "errorCode": 3', "errorCode": 2, "extraInfo": {"timestamp": "1"}}}
    job = start("torchrun.sh", "recipe", MAX_RESTARTS="2", CODE="1", ERRORS=json.dumps(told), TMPDIR=str(tmp_path))
    assert job.wait(30) == 2
    assert starts(tmp_path) == 1
    assert not list(tmp_path.glob("tmp.*"))
    told["message"] |= {"errorCode": 1, "message": 'not "errorCode": 2, but 1'}
    assert start("torchrun.sh", "recipe", MAX_RESTARTS="2", CODE="1", ERRORS=json.dumps(told)).wait(30) == 1
    assert starts(tmp_path) == 3


@pytest.mark.parametrize(
    ("script", "here"),
    [("mpirun.sh", ["-n", "1"]), ("srun.sh", ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1"])],
)
def test_a_node_that_is_not_fit_starts_nothing(tmp_path, start, script, here):
    job = start(script, "recipe", "folder=/runs/x", CHECK_NODES="1", CHECK_CODE="1", PROCESSES="2", **SLURM)
    assert job.wait(30) == 1
    assert "a node is not fit for the job" in job.stderr.read()
    check = (tmp_path / "check").read_text().splitlines()
    assert set(here) <= set(check)
    assert check[-2:] == ["--folder", "/runs/x"]
    assert starts(tmp_path) == 0
    assert start(script, "recipe", CHECK_NODES="1", PROCESSES="2", **SLURM).wait(30) == 5
    assert starts(tmp_path) == 1


SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "phi4", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}


def test_a_rank_of_slurm_gets_all_its_cores(tmp_path, start):
    assert start("srun.sh", "recipe", "folder=/x", SLURM_CPUS_PER_TASK="12", **SLURM).wait(30) == 5
    assert words_of(tmp_path)[:2] == ["--cpus-per-task=12", "--kill-on-bad-exit=1"]
    assert words_of(tmp_path)[2:] == ["python", "-m", "megaphi", "train", "recipe", "folder=/x"]


def test_a_job_of_slurm_goes_on_after_its_time_limit_and_after_crashes(tmp_path, start):
    assert start_and_signal(tmp_path, start, "srun.sh", signal.SIGUSR1, **SLURM).wait(30) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    (tmp_path / "stay").unlink()
    for _ in range(4):
        assert start("srun.sh", "recipe", MAX_RESTARTS="2", CODE="75", **SLURM).wait(30) == 75
    assert (tmp_path / "requeued").read_text().splitlines() == ["requeue 7"] * 3
    assert len((tmp_path / "phi4_7.restarts").read_text().splitlines()) == 2
    assert environment_of(tmp_path)["MEGAPHI_RESTART"] == "2"
    (tmp_path / "phi4_7.restarts").unlink()
    assert start("srun.sh", "recipe", MAX_RESTARTS="2", CODE="2", **SLURM).wait(30) == 2  # bad input
    (tmp_path / "ready").unlink()
    assert start_and_signal(tmp_path, start, "srun.sh", signal.SIGTERM, MAX_RESTARTS="2", **SLURM).wait(30) == 0
    assert (tmp_path / "requeued").read_text().splitlines() == ["requeue 7"] * 3  # scancel ends it


def test_containers(tmp_path, start):
    environment = ROOT / "launch" / "environment" / "ethernet.sh"
    words = {"IMAGE": "nvcr.io#nvidia/pytorch:26.01-py3", "MOUNTS": "/shared,/data", "ENVIRONMENT": str(environment)}
    assert start("srun.sh", "recipe", **words, **SLURM).wait(30) == 5
    assert words_of(tmp_path)[1:5] == [
        "--container-image=nvcr.io#nvidia/pytorch:26.01-py3",
        "--container-mounts=/shared:/shared,/data:/data",
        f"--container-workdir={tmp_path}",
        "--container-env=OMP_NUM_THREADS,NCCL_DEBUG,OMP_NUM_THREADS,NCCL_SOCKET_NTHREADS,NCCL_NSOCKS_PERTHREAD",
    ]
    assert start("srun.sh", "recipe", RUNTIME="apptainer", **words, **SLURM).wait(30) == 5
    inside = ["apptainer", "exec", "--nv", "--bind", "/shared,/data", "--pwd", str(tmp_path), words["IMAGE"]]
    assert words_of(tmp_path)[1:] == [*inside, "python", "-m", "megaphi", "train", "recipe"]
    assert start("srun.sh", "recipe", RUNTIME="docker", **words, **SLURM).wait(30) == 2


def test_the_batch_script_sets_what_the_ranks_need(tmp_path, start):
    """It is submitted in the repository, where its paths begin."""
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    assert start("slurm/pretrain.sbatch", "folder=/x", CODE="0", **SLURM).wait(30) == 0
    assert words_of(tmp_path)[-2:] == ["phi4_14b_pretrain", "folder=/x"]
    assert environment_of(tmp_path)["NCCL_DEBUG"] == "WARN"
    assert (tmp_path / "check").exists()
