"""Workers that fill one folder together (tokenise, curate): the rank of this process, and how they wait for each other.

Workers share nothing but a folder. Their launcher numbers them: mpirun, an array of Slurm jobs, srun, or the user
(`--rank`, `--world`). Under MPI they meet at a barrier; everywhere else they see from the folder what the others have
done. The surprising fact: mpi4py is imported only where an MPI launcher has left its variables, as its import alone
makes a process a rank.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.parallel.rendezvous.place import Claim, chosen_claim, integer

MPI_LAUNCHERS = ("Open MPI", "MVAPICH", "jsrun", "Hydra")
POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderWorker:
    """One of `world` processes that share the work: it takes shards rank, rank + world, rank + 2 world, ..."""

    rank: int = 0
    world: int = 1
    launcher: str = "alone"
    processes: int | None = None
    """Processes that it should start; None means one per processor it may use."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise InputError(f"worker {self.rank} of {self.world}: --rank must be at least 0 and below --world")

    @property
    def is_alone(self) -> bool:
        return self.world == 1


def detect_worker(
    environment: Mapping[str, str] = os.environ, *, rank: int | None = None, world: int | None = None
) -> FolderWorker:
    """This process's rank: as given, or from its launcher's variables.

    `srun` or `mpirun` inside an array multiplies: task p of n in array job j is worker j n + p.

    Raises:
        InputError: only one of `rank` and `world` is given, or the variables make no sense.
    """
    if (rank is None) != (world is None):
        raise InputError("--rank and --world belong together: give both or neither")
    if rank is not None and world is not None:
        return FolderWorker(rank=rank, world=world, launcher="--rank")
    rank, world, launchers, processes = 0, 1, [], None
    if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
        rank, world = _array_place(environment)
        launchers.append("Slurm array")
    claim = chosen_claim(environment)
    if claim is not None:
        rank, world = rank * claim.world_size + claim.rank, world * claim.world_size
        launchers.append({"Slurm": "srun"}.get(claim.launcher, "MPI" if claim.launcher in MPI_LAUNCHERS else "RANK"))
        processes = _processes_of(claim, environment)
    return FolderWorker(rank=rank, world=world, launcher=" and ".join(launchers) or "alone", processes=processes)


def _processes_of(claim: Claim, environment: Mapping[str, str]) -> int:
    """Processes of one worker: the processors that srun gave it, or its share of this host's."""
    if claim.launcher == "Slurm":
        return integer(environment, "SLURM_CPUS_PER_TASK") if "SLURM_CPUS_PER_TASK" in environment else 1
    return max(1, len(os.sched_getaffinity(0)) // (claim.local_world_size or 1))


def _array_place(environment: Mapping[str, str]) -> tuple[int, int]:
    """(number, count) of a job in its array; indices may begin anywhere and have a step, but no gaps."""
    count = integer(environment, "SLURM_ARRAY_TASK_COUNT")
    first = integer(environment, "SLURM_ARRAY_TASK_MIN") if "SLURM_ARRAY_TASK_MIN" in environment else 0
    step = integer(environment, "SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in environment else 1
    number, rest = divmod(integer(environment, "SLURM_ARRAY_TASK_ID") - first, max(1, step))
    if rest or not 0 <= number < count:
        raise InputError(
            f"array job {environment['SLURM_ARRAY_TASK_ID']} is not among {count} jobs from {first} on: use a range"
            " without gaps (sbatch --array=0-99), or give --rank and --world"
        )
    return number, count


class Barrier:
    """The barrier of an MPI job; workers that share only a folder have none, and `wait` returns at once."""

    def __init__(self, communicator: Any = None) -> None:
        self._communicator = communicator

    @property
    def exists(self) -> bool:
        return self._communicator is not None

    def wait(self) -> None:
        """Return when every worker is here. It looks twenty times a second; MPI's own barrier keeps a core busy."""
        if self._communicator is not None:
            request = self._communicator.Ibarrier()
            while not request.Test():
                time.sleep(POLL_SECONDS)


@contextmanager
def barrier_of(worker: FolderWorker) -> Iterator[Barrier]:
    """The barrier of all workers; under MPI an error in one ends all, as the others would wait for it for ever."""
    communicator = _mpi_communicator(worker) if worker.launcher.endswith("MPI") and not worker.is_alone else None
    try:
        yield Barrier(communicator)
    except BaseException as error:
        if communicator is not None:
            logger.error("worker %d of %d: %s", worker.rank, worker.world, error)
            communicator.Abort(2 if isinstance(error, InputError) else 1)
        raise


def _mpi_communicator(worker: FolderWorker) -> Any:
    """MPI's communicator of all workers; None, and a warning, if mpi4py is not there or is of another MPI."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        found = str(error)
    else:
        if MPI.COMM_WORLD.size == worker.world:
            return MPI.COMM_WORLD
        found = f"it sees {MPI.COMM_WORLD.size} of {worker.world} ranks: it was built for another MPI"
    if worker.rank == 0:
        logger.warning("without mpi4py (%s) the workers cannot wait for each other: the last to finish joins", found)
    return None
