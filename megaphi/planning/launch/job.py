"""A job to be started on a cluster: a recipe with its fields, on so many nodes, for so long, bare or in a container.

Plain values and their checks. Every text that becomes an option of Slurm is refused if it could be two of them; texts
that a shell reads are quoted where they are written (`launch_files.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from megaphi.config import FilePath, Range, check_values
from megaphi.engine.time_limit import limit_seconds
from megaphi.errors import InputError

Environment = Literal["h100", "ethernet"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerImage:
    """The container image that Slurm runs the ranks in."""

    image: str
    """As enroot takes it (`nvcr.io#nvidia/pytorch:26.01-py3`, or a .sqsh file); for apptainer a .sif file."""
    runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """pyxis: srun's --container-image, by enroot. apptainer: `apptainer exec` in every rank."""
    mounts: tuple[FilePath, ...] = ()
    """Folders of the host that the ranks see, under the same path; empty: the one where the job is submitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterJob:
    """A training job, and the folder of the files that start it."""

    recipe: str
    """A recipe's name, file.py:function, or a run's config.json."""
    fields: tuple[str, ...] = ()
    """field=value, as on the command line of `megaphi train`, without `folder`."""
    folder: FilePath
    """The run folder, which all nodes share."""
    launch_folder: FilePath
    """Folder of the files, under the same path on every node."""
    nodes: Annotated[int, Range(minimum=1)]
    gpus_per_node: Annotated[int, Range(minimum=1)] = 8
    cpus_per_rank: Annotated[int, Range(minimum=1)] = 12
    time_limit: str = "24:00:00"
    """Slurm's limit, hours:minutes:seconds or days-hours:minutes:seconds; the job goes on in the next one."""
    stop_seconds: Annotated[int, Range(minimum=1, maximum=65_535)] = 300
    """Seconds before the limit at which the run is told to save."""
    max_restarts: Annotated[int, Range(minimum=0)] = 3
    """Number of times that the job is started again after crashes."""
    environment: Environment = "h100"
    """The file of launch/environment that the ranks read."""
    container: ContainerImage | None = None
    name: str = "phi4"
    account: str | None = None
    partition: str | None = None

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus_per_node


def check_job(job: ClusterJob) -> ClusterJob:
    """The job itself. Raises InputError where it could not be written, or not be started."""
    check_values(job, where="job")
    for field in ("name", "account", "partition"):
        value = getattr(job, field)
        if value is not None and not re.fullmatch(r"[\w.,@:+-]+", value):
            raise InputError(f"job.{field}={value!r}: Slurm takes letters, digits and . , @ : + - _ without spaces")
    if job.stop_seconds >= limit_seconds(job.time_limit, field="job.time_limit"):
        raise InputError(
            f"job.stop_seconds={job.stop_seconds}: the run would be told to save before it starts, with "
            f"job.time_limit={job.time_limit}"
        )
    for field in job.fields:
        if field.startswith("folder="):
            raise InputError(f"job.fields has {field!r}: give the run folder as job.folder")
    return job
