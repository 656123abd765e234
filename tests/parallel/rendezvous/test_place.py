"""Finding one's place under every launcher, alone and inside each other, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from megaphi.errors import InputError
from megaphi.parallel.rendezvous.place import (
    Place,
    choose_gpu,
    detect,
    export,
    first_node,
    tasks_per_node,
    without_launchers,
)
from tests.gloo_world import run_in_new_world
from tests.parallel.rendezvous import place_runs

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "MASTER_ADDR": "node7",
    "PMIX_NAMESPACE": "prterun-node7-20431@1",
}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "3", "MPI_LOCALNRANKS": "4"}
SLURM = {  # srun -N 2 -n 16
    "SLURM_PROCID": "11",
    "SLURM_NTASKS": "16",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NODELIST": "gpu[017-018]",
}
SHELL = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "9"}
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_JOB_ID": "9", "SLURM_JOB_NODELIST": "gpu[1-2],cpu3"}
BARE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.7"}
TORCHRUN = {**BARE, "MASTER_PORT": "29999", "TORCHELASTIC_RUN_ID": "none"}
FAR = {name: value for name, value in OPEN_MPI.items() if name != "MASTER_ADDR"}
OURS = ("RANK and WORLD_SIZE", 1, 2, 1, 2, "10.0.0.7", 29_500)
ALONE = ("single", 0, 1, 0, 1, "127.0.0.1", None)


def numbers(prefix: str, rank: int, size: int, local_rank: int, local_size: int) -> dict[str, str]:
    names = {"RANK": rank, "SIZE": size, "LOCAL_RANK": local_rank, "LOCAL_SIZE": local_size}
    return {f"{prefix}_{name}": str(value) for name, value in names.items()}


def changed(environment: dict[str, str], **changes: str | None) -> dict[str, str]:
    """The environment with some variables set, or taken out."""
    merged = {**environment, **changes}
    return {name: value for name, value in merged.items() if value is not None}


CASES = {
    "nobody": ({}, ALONE),
    "torchrun": (TORCHRUN, ("torchrun", 1, 2, 1, 2, "10.0.0.7", 29_999)),
    "Open MPI": (OPEN_MPI, ("Open MPI", 5, 8, 1, 4, "node7", 20_000 + 7_204_311 % 12_000)),
    "Hydra": (HYDRA, ("Hydra", 3, 4, 3, 4, "127.0.0.1", 29_500)),
    "our own": (BARE, OURS),
    "srun": (SLURM, ("Slurm", 11, 16, 3, 8, "gpu017", 20_000 + 123_456 % 12_000)),
    "a second step of the job": (
        changed(SLURM, SLURM_STEP_ID="2"),
        ("Slurm", 11, 16, 3, 8, "gpu017", 20_000 + 123_458 % 12_000),
    ),
    "srun, uneven": (
        changed(SLURM, SLURM_STEP_TASKS_PER_NODE="10,6"),
        ("Slurm", 11, 16, 3, 6, "gpu017", 20_000 + 123_456 % 12_000),
    ),
    "srun, uneven, no node number": (
        changed(SLURM, SLURM_STEP_TASKS_PER_NODE="10,6", SLURM_NODEID=None),
        ("Slurm", 11, 16, 3, None, "gpu017", 20_000 + 123_456 % 12_000),
    ),
    "srun, as sbatch was asked": (
        changed(SLURM, SLURM_STEP_TASKS_PER_NODE=None, SLURM_NTASKS_PER_NODE="8"),
        ("Slurm", 11, 16, 3, 8, "gpu017", 20_000 + 123_456 % 12_000),
    ),
    "a small step of a large job": (
        changed(SLURM, SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="2", SLURM_NTASKS_PER_NODE="8", SLURM_LOCALID="0")
        | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
        ("Slurm", 2, 4, 0, 2, "gpu017", 20_000 + 123_456 % 12_000),
    ),
    "srun on one node": (
        changed(SLURM, SLURM_STEP_TASKS_PER_NODE="16", SLURM_STEP_NUM_NODES="1", SLURM_STEP_NODELIST="gpu017"),
        ("Slurm", 11, 16, 3, 16, "127.0.0.1", 20_000 + 123_456 % 12_000),
    ),
    "a shell that srun gave": (SHELL, ALONE),
    "a shell that salloc gave": (changed(BATCH, SLURM_STEP_ID="4294967290"), ALONE),
    "a batch script": (BATCH, ALONE),
    "torchrun in srun": ({**SLURM, **TORCHRUN}, ("torchrun", 1, 2, 1, 2, "10.0.0.7", 29_999)),
    "torchrun of one in srun": (
        {**SLURM, **changed(TORCHRUN, RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")},
        ("torchrun", 0, 1, 0, 1, "10.0.0.7", 29_999),
    ),
    "our own in a shell that srun gave": ({**SHELL, **BARE}, (*OURS[:-1], 20_009)),
    "mpirun in a shell that srun gave": (
        {**SHELL, **OPEN_MPI},
        ("Open MPI", 5, 8, 1, 4, "node7", 20_009),
    ),
    "mpirun in a batch job": ({**BATCH, **FAR}, ("Open MPI", 5, 8, 1, 4, "gpu1", 20_009)),
    "mpirun whose daemons have a step of the other nodes": (
        {**BATCH, **FAR, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "gpu2"},
        ("Open MPI", 5, 8, 1, 4, "gpu1", 20_009),
    ),
    "srun --mpi=pmi2": (
        {**SLURM, "PMI_RANK": "11", "PMI_SIZE": "16"},
        ("Slurm", 11, 16, 3, 8, "gpu017", 20_000 + 123_456 % 12_000),
    ),
    "left over from an export in the shell": (
        {**OPEN_MPI, "RANK": "0", "WORLD_SIZE": "1"},
        ("Open MPI", 5, 8, 1, 4, "node7", 20_000 + 7_204_311 % 12_000),
    ),
    "a pod of an operator": (
        {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"},
        ("RANK and WORLD_SIZE", 3, 4, None, None, "job-master-0", 23_456),
    ),
    "MVAPICH": (
        numbers("MV2_COMM_WORLD", 3, 4, 3, 4),
        ("MVAPICH", 3, 4, 3, 4, "127.0.0.1", 29_500),
    ),
    "jsrun": (
        numbers("JSM_NAMESPACE", 5, 8, 1, 2) | {"LSB_MCPU_HOSTS": "batch1 1 host07 42 host08 42", "LSB_JOBID": "77"},
        ("jsrun", 5, 8, 1, 2, "host07", 20_077),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_place_under_every_launcher(name):
    environment, expected = CASES[name]
    place = detect(environment)
    found = (place.launcher, place.rank, place.world_size, place.local_rank, place.local_world_size)
    assert (*found, place.address, place.port) == expected
    exported: dict[str, str] = {}
    export(place, exported)
    again = detect(exported)
    assert (again.rank, again.world_size, again.local_rank, again.local_world_size) == expected[1:5]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (FAR, "run on several hosts, but MASTER_ADDR is not set: export MASTER_ADDR"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "may run on several hosts, but MASTER_ADDR is not set"),
        (changed(OPEN_MPI, MASTER_ADDR="127.0.0.1"), "MASTER_ADDR=127.0.0.1 means every host itself"),
        (changed(SLURM, MASTER_ADDR="localhost"), "MASTER_ADDR=localhost means every host itself"),
        (changed(OPEN_MPI, MASTER_ADDR="a" * 300), "MASTER_ADDR='aaa.*' is no name of a host"),
        (changed(TORCHRUN, RANK="first"), "RANK='first' is not a whole number"),
        ({"RANK": "3"}, "RANK=3 is set but not WORLD_SIZE"),
        ({"WORLD_SIZE": "3"}, "WORLD_SIZE=3 is set but not RANK"),
        ({**OPEN_MPI, **BARE}, "Open MPI says rank 5 of 8, but RANK=1 and WORLD_SIZE=2 are set too"),
        ({**SLURM, "RANK": "0", "WORLD_SIZE": "16"}, "Slurm says rank 11 of 16, but RANK=0 and WORLD_SIZE=16"),
        (changed(BARE, RANK="2"), "rank 2 of 2: a rank must be at least 0 and below"),
        (changed(BARE, LOCAL_RANK="2"), "local rank 2 of 2: a local rank must be below"),
        (changed(BARE, LOCAL_WORLD_SIZE="3"), "3 ranks on this host: there cannot be more"),
        (changed(SLURM, SLURM_STEP_TASKS_PER_NODE="8(x2"), "'8\\(x2' is not like 4 or 4\\(x2\\)"),
        (changed(TORCHRUN, MASTER_PORT="99999"), "MASTER_PORT=99999: a port is a number from 1 to 65535"),
    ],
)
def test_what_contradicts_itself_or_says_too_little_is_refused(environment, message):
    with pytest.raises(InputError, match=message):
        detect(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu017", "gpu017"),
        ("a1,b2", "a1"),
        ("gpu[003-010,020]", "gpu003"),
        ("gpu[7]", "gpu7"),
        ("login1,gpu[003-010]", "login1"),
        ("rack[1-2]-node", "rack1-node"),
        ("gpu[01-02],cpu[3,5]", "gpu01"),
        ("r[1-2]n[01-04]", "r1n01"),
        ("r[3,5]n[02,04-07]-ib,x9", "r3n02-ib"),
    ],
)
def test_first_node_of_a_slurm_list(nodes, first):
    assert first_node(nodes) == first


@given(some.lists(some.tuples(some.integers(0, 300), some.integers(1, 20)), min_size=1, max_size=6))
def test_tasks_per_node_read_what_slurm_writes(runs):
    text = ",".join(f"{tasks}(x{nodes})" if nodes > 1 else str(tasks) for tasks, nodes in runs)
    assert tasks_per_node(text) == [tasks for tasks, nodes in runs for _ in range(nodes)]


def test_ranks_that_we_start_see_no_outer_launcher():
    for environment, _ in CASES.values():
        assert detect(without_launchers(environment)).launcher == "single"


def test_ranks_ask_each_other_where_no_variable_says_who_shares_a_host():
    assert run_in_new_world(place_runs.without_local_ranks, processes=3) == [(0, 3), (1, 3), (2, 3)]


def place_at(local_rank: int | None) -> Place:
    return Place(launcher="x", rank=5, world_size=8, local_rank=local_rank, local_world_size=4, address="a", port=1)


def test_a_rank_takes_its_own_gpu():
    assert choose_gpu(place_at(3), visible=4) == 3
    assert choose_gpu(place_at(3), visible=1) == 0  # CUDA_VISIBLE_DEVICES shows it one of its own
    with pytest.raises(InputError, match="rank 5 has local rank 3 but sees 2 GPUs: start at most 2 ranks on a host"):
        choose_gpu(place_at(3), visible=2)


def test_ranks_that_would_share_a_gpu_do_not_start() -> None:
    """Slurm showed both the same one; then one of two ranks sees too few, and says it to the other as well."""
    for said in run_in_new_world(place_runs.with_gpus, ("GPU-a", "GPU-a"), 1, processes=2):
        assert "ranks of this job have the same GPU:\n  GPU GPU-a: ranks 0-1 (" in said
    few = run_in_new_world(place_runs.with_gpus, ("GPU-a", "GPU-b", "GPU-c"), 2, processes=3)
    for said in few:
        assert "rank 2 has local rank 2 but sees 2 GPUs: start at most 2 ranks on a host" in said
    assert run_in_new_world(place_runs.with_gpus, ("GPU-a", "GPU-b"), 2, processes=2) == ["started"] * 2
