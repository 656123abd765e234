"""The rank of this process, read from the variables of its launcher: torchrun, an MPI, srun, or our own.

Several launchers may have set theirs (mpirun in a Slurm job, torchrun in a step of srun, an interactive shell of
srun's). `detect` lists their claims. torchrun's comes first; a world of one yields to a larger one; of the rest the
innermost counts, in the order of `_LAUNCHERS`. What one launcher leaves open is taken from another with the same world;
what none of them sets (local ranks under a bare RANK and WORLD_SIZE) stays None, and the ranks find it out among
themselves (world.py). The surprising fact: `sbatch --ntasks-per-node` sets SLURM_NTASKS_PER_NODE, `srun -N 2 -n 8` does
not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass

from megaphi.errors import InputError

TORCH_AGENT = "TORCHELASTIC_RUN_ID"
"""Set by torchrun for its workers; RANK and WORLD_SIZE alone may come from anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Variables:
    """Names of one launcher's variables; of several names for one value the first that is set counts."""

    name: str
    rank: tuple[str, ...]
    size: tuple[str, ...]
    local_rank: tuple[str, ...]
    local_size: tuple[str, ...]
    needs: str | None = None
    """A variable without which the others are ignored."""


_LAUNCHERS = (
    _Variables(
        name="torchrun",
        rank=("RANK",),
        size=("WORLD_SIZE",),
        local_rank=("LOCAL_RANK",),
        local_size=("LOCAL_WORLD_SIZE",),
        needs=TORCH_AGENT,
    ),
    _Variables(
        name="Open MPI",
        rank=("OMPI_COMM_WORLD_RANK",),
        size=("OMPI_COMM_WORLD_SIZE",),
        local_rank=("OMPI_COMM_WORLD_LOCAL_RANK",),
        local_size=("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    _Variables(
        name="MVAPICH",
        rank=("MV2_COMM_WORLD_RANK",),
        size=("MV2_COMM_WORLD_SIZE",),
        local_rank=("MV2_COMM_WORLD_LOCAL_RANK",),
        local_size=("MV2_COMM_WORLD_LOCAL_SIZE",),
    ),
    _Variables(
        name="jsrun",
        rank=("JSM_NAMESPACE_RANK",),
        size=("JSM_NAMESPACE_SIZE",),
        local_rank=("JSM_NAMESPACE_LOCAL_RANK",),
        local_size=("JSM_NAMESPACE_LOCAL_SIZE",),
    ),
    _Variables(  # MPICH and Intel MPI; srun --mpi=pmi2 sets the first two as well
        name="Hydra",
        rank=("PMI_RANK",),
        size=("PMI_SIZE",),
        local_rank=("MPI_LOCALRANKID", "PALS_LOCAL_RANKID"),
        local_size=("MPI_LOCALNRANKS", "PALS_LOCAL_SIZE"),
    ),
    _Variables(  # a shell in an allocation has the job's numbers; only srun gives a step to its processes
        name="Slurm",
        rank=("SLURM_PROCID",),
        size=("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"),
        local_rank=("SLURM_LOCALID",),
        local_size=(),  # a list over the nodes, see _tasks_here
        needs="SLURM_STEP_ID",
    ),
    _Variables(  # written by hand, by a pod's operator, or by our own launcher
        name="RANK and WORLD_SIZE",
        rank=("RANK",),
        size=("WORLD_SIZE",),
        local_rank=("LOCAL_RANK",),
        local_size=("LOCAL_WORLD_SIZE",),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """This process among the processes of a job."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int | None
    """Number among the ranks of this host; None if no variable gives it."""
    local_world_size: int | None
    address: str
    port: int | None
    """Port that rank 0 listens on; None in a job of one process, which needs none."""


ALONE = Place(launcher="single", rank=0, world_size=1, local_rank=0, local_world_size=1, address="127.0.0.1", port=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One launcher's variables."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int | None
    local_world_size: int | None

    def __str__(self) -> str:
        return f"{self.launcher} says rank {self.rank} of {self.world_size}"


def detect(environment: Mapping[str, str] = os.environ) -> Place:
    """The place of this process; rank 0 of 1 if no launcher started it as one of several.

    Raises:
        InputError: the variables contradict each other, or do not tell where rank 0 is.
    """
    claim = chosen_claim(environment)
    if claim is None or (claim.world_size == 1 and claim.launcher != "torchrun"):
        return ALONE
    return Place(
        launcher=claim.launcher,
        rank=claim.rank,
        world_size=claim.world_size,
        local_rank=claim.local_rank,
        local_world_size=claim.local_world_size,
        address=_address(environment, claim),
        port=_port(environment),
    )


def chosen_claim(environment: Mapping[str, str]) -> Claim | None:
    """The claim that counts, completed from others with the same world; None if there is none."""
    claims = list(_claims(environment))
    if not claims:
        return None
    chosen = claims[0]
    if chosen.launcher != "torchrun":
        chosen = next((claim for claim in claims if claim.world_size > 1), chosen)
        _refuse_contradiction(chosen, claims)
    same = [claim for claim in claims if (claim.rank, claim.world_size) == (chosen.rank, chosen.world_size)]
    # srun --mpi=pmi2 sets Hydra's variables beside its own: the ranks are those of its step.
    by_srun = any(claim.launcher == "Slurm" for claim in same)
    return _checked(
        Claim(
            launcher="Slurm" if by_srun and chosen.launcher == "Hydra" else chosen.launcher,
            rank=chosen.rank,
            world_size=chosen.world_size,
            local_rank=_first(claim.local_rank for claim in same),
            local_world_size=_first(claim.local_world_size for claim in same),
        )
    )


def _claims(environment: Mapping[str, str]) -> Iterator[Claim]:
    for variables in _LAUNCHERS:
        if not _is_present(variables, environment):
            continue
        rank, size = _number(environment, variables.rank), _number(environment, variables.size)
        if rank is None and variables.name == "RANK and WORLD_SIZE" and (size or 0) > 1:
            raise InputError(f"WORLD_SIZE={size} is set but not RANK: set both for every process, or neither")
        if rank is not None and size is None and variables.name == "RANK and WORLD_SIZE":
            raise InputError(f"RANK={rank} is set but not WORLD_SIZE: set both for every process, or neither")
        if rank is None or size is None:
            continue
        local_size = _number(environment, variables.local_size)
        if variables.name == "Slurm":
            local_size = _tasks_here(environment)
        local_rank = _number(environment, variables.local_rank)
        yield Claim(
            launcher=variables.name, rank=rank, world_size=size, local_rank=local_rank, local_world_size=local_size
        )


def _is_present(variables: _Variables, environment: Mapping[str, str]) -> bool:
    """Slurm numbers the steps of batch scripts and interactive shells from 2^32 - 16 up: no ranks, but a shell."""
    if variables.needs is None:
        return True
    value = environment.get(variables.needs)
    if variables.name != "Slurm":
        return value is not None
    return value is not None and value.isdigit() and int(value) < (1 << 32) - 16


def _first(values: Iterator[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)


def _refuse_contradiction(chosen: Claim, claims: list[Claim]) -> None:
    """Refuse a bare RANK and WORLD_SIZE (of several ranks) that are not those of the launcher."""
    bare = claims[-1]
    if bare.launcher != "RANK and WORLD_SIZE" or bare.world_size == 1:
        return
    if (bare.rank, bare.world_size) != (chosen.rank, chosen.world_size):
        raise InputError(
            f"{chosen}, but RANK={bare.rank} and WORLD_SIZE={bare.world_size} are set too: unset RANK and WORLD_SIZE, "
            "or start the ranks with torchrun"
        )


def _checked(claim: Claim) -> Claim:
    if claim.world_size < 1 or not 0 <= claim.rank < claim.world_size:
        raise InputError(f"{claim}: a rank must be at least 0 and below the number of ranks")
    local, size = claim.local_rank, claim.local_world_size
    if local is not None and (local < 0 or (size is not None and local >= size)):
        raise InputError(f"{claim}, and local rank {local} of {size}: a local rank must be below the ranks of its host")
    if size is not None and not 1 <= size <= claim.world_size:
        raise InputError(f"{claim}, and {size} ranks on this host: there cannot be more than in the whole job")
    return claim


def _number(environment: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    name = next((name for name in names if environment.get(name, "").strip()), None)
    return None if name is None else integer(environment, name)


def integer(environment: Mapping[str, str], name: str) -> int:
    """An environment variable as a whole number, or an `InputError` that names it."""
    try:
        return int(environment[name])
    except ValueError:
        raise InputError(f"environment variable {name}={environment[name]!r} is not a whole number") from None


def tasks_per_node(text: str) -> list[int]:
    """Slurm's list of tasks, node by node: `4(x2)` is [4, 4], `5,3` is [5, 3], `2(x3),1` is [2, 2, 2, 1]."""
    tasks: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,6})\))?", part.strip())
        if match is None:
            raise InputError(f"Slurm's list of tasks per node is {text!r}: {part!r} is not like 4 or 4(x2)")
        tasks += [int(match[1])] * int(match[2] or 1)
    return tasks


def _step_tasks(environment: Mapping[str, str]) -> list[int]:
    """Tasks on every node of this step; empty if Slurm does not give them."""
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        if environment.get(name):
            return tasks_per_node(environment[name])
    return []


def _tasks_here(environment: Mapping[str, str]) -> int | None:
    """Number of tasks of this step on this node."""
    size = _number(environment, ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"))
    tasks = _step_tasks(environment)
    if sum(tasks) == size:
        node = _number(environment, ("SLURM_NODEID",))
        if len(set(tasks)) == 1:
            return tasks[0]
        return tasks[node] if node is not None and 0 <= node < len(tasks) else None
    if _number(environment, ("SLURM_STEP_NUM_NODES", "SLURM_NNODES")) == 1:
        return size
    # What was asked of sbatch; a step of fewer tasks need not have so many here.
    asked = environment.get("SLURM_NTASKS_PER_NODE", "").split("(")[0]
    return int(asked) if asked.isdigit() and size is not None and int(asked) <= size else None


def _port(environment: Mapping[str, str]) -> int:
    """MASTER_PORT, or a port that all ranks derive from the job's id, below the range of outgoing connections."""
    port = _number(environment, ("MASTER_PORT",))
    if port is not None:
        if not 0 < port < 65_536:
            raise InputError(f"MASTER_PORT={port}: a port is a number from 1 to 65535")
        return port
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "PMIX_NAMESPACE"):
        digits = "".join(filter(str.isdigit, environment.get(name, "")))
        if digits:
            step = "".join(filter(str.isdigit, environment.get("SLURM_STEP_ID", ""))) if name == "SLURM_JOB_ID" else ""
            return 20_000 + (int(digits[-9:]) + int(step[-9:] or 0)) % 12_000
    return 29_500


def _address(environment: Mapping[str, str], claim: Claim) -> str:
    """Address of rank 0: MASTER_ADDR, this host if all ranks are here, or the first of the nodes that Slurm lists."""
    given = environment.get("MASTER_ADDR", "").strip()
    if given:
        try:
            given.encode("idna")
        except UnicodeError as error:
            raise InputError(f"MASTER_ADDR={given[:80]!r} is no name of a host: {error}") from None
        if claim.local_world_size not in (None, claim.world_size) and is_loopback(given):
            raise InputError(
                f"MASTER_ADDR={given} means every host itself, but the {claim.world_size} ranks that {claim.launcher} "
                "started run on several: export MASTER_ADDR=<host of rank 0>"
            )
        return given
    if claim.local_world_size == claim.world_size:
        return "127.0.0.1"
    # mpirun in a Slurm job starts its daemons in a step of the other nodes: only srun's own ranks belong to their step.
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST") if claim.launcher == "Slurm" else ("SLURM_JOB_NODELIST",)
    for name in (*names, "SLURM_NODELIST"):
        if environment.get(name):
            return first_node(environment[name])
    hosts = _lsf_hosts(environment)
    if hosts:
        return hosts[0]
    where = "may run on several hosts" if claim.local_world_size is None else "run on several hosts"
    raise InputError(
        f"the {claim.world_size} ranks that {claim.launcher} started {where}, but MASTER_ADDR is not set: export "
        "MASTER_ADDR=<host of rank 0>, 127.0.0.1 if there is one host only "
        "(Open MPI: mpirun -x MASTER_ADDR ...; Hydra: mpirun -genv MASTER_ADDR ...)"
    )


def is_loopback(address: str) -> bool:
    """Return whether an address or name means the host itself."""
    return address in ("localhost", "::1") or address.startswith("127.")


def _lsf_hosts(environment: Mapping[str, str]) -> list[str]:
    """Compute hosts of an LSF job; the first entry of a jsrun job is the batch host, which runs no ranks."""
    hosts = environment.get("LSB_MCPU_HOSTS", "").split()[::2]
    return hosts[1:] if "JSM_NAMESPACE_RANK" in environment and len(hosts) > 1 else hosts


def first_node(nodes: str) -> str:
    """First host of a Slurm node list: `gpu[003-010,020]` is gpu003, `r[1-2]n[01-04]` is r1n01, `a1,b2` is a1."""
    first = re.split(r",(?![^\[]*\])", nodes.strip())[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def export(place: Place, environment: MutableMapping[str, str] = os.environ) -> None:
    """Write a place into the environment under torch's names; unknown values are left out."""
    environment.update(RANK=str(place.rank), WORLD_SIZE=str(place.world_size), MASTER_ADDR=place.address)
    known = {"LOCAL_RANK": place.local_rank, "LOCAL_WORLD_SIZE": place.local_world_size, "MASTER_PORT": place.port}
    environment.update({name: str(value) for name, value in known.items() if value is not None})


def without_launchers(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for ranks that we start, without an outer launcher's claims about this process."""
    names = {
        name
        for variables in _LAUNCHERS
        for group in (variables.rank, variables.size, variables.local_rank, variables.local_size)
        for name in group
    }
    # SLURM_STEP_ID alone makes the others count; the job's own variables (nodes, time) stay for other readers.
    names |= {"SLURM_STEP_ID", "MASTER_ADDR", "MASTER_PORT"}
    return {
        name: value for name, value in environment.items() if name not in names and not name.startswith("TORCHELASTIC_")
    }


def choose_gpu(place: Place, *, visible: int) -> int:
    """The number of this rank's GPU among those that it sees.

    A launcher that gives each rank one GPU of its own (`srun --gpus-per-task=1`) shows it as number 0.
    """
    if visible == 1:
        return 0
    if place.local_rank is None or place.local_rank >= visible:
        raise InputError(
            f"rank {place.rank} has local rank {place.local_rank} but sees {visible} GPUs: start at most {visible} "
            "ranks on a host, or show each rank a GPU of its own through CUDA_VISIBLE_DEVICES"
        )
    return place.local_rank
