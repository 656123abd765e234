"""The files that start a job, as texts: one per launcher, with the job's values; what they call is shipped in launch/.

`scripts` beside this file is the folder `launch` of the repository, and is part of an installed package. The written
folder needs nothing else: its `scripts` are the shipped ones, byte for byte, and its environment is the shipped file of
that name. `launch/slurm/pretrain.sbatch` is what `batch_script` gives for the 14B on 512 GPUs (a test compares them).
"""

from __future__ import annotations

import shlex
from pathlib import Path

from megaphi.files import write_text
from megaphi.planning.launch.job import ClusterJob, check_job

SHIPPED = Path(__file__).parent / "scripts"
CALLED = ("supervise.sh", "torchrun.sh", "mpirun.sh", "srun.sh")
"""Shipped scripts that the written ones call."""


def launch_files(job: ClusterJob) -> dict[str, str]:
    """Name within `job.launch_folder` -> text. Raises InputError for a job that could not be started."""
    check_job(job)
    scripts = f"{job.launch_folder}/scripts"
    environment = f"{job.launch_folder}/environment.sh"
    return {
        "torchrun.sh": _torchrun_script(job, scripts=scripts, environment=environment),
        "mpirun.sh": _mpirun_script(job, scripts=scripts, environment=environment),
        "slurm.sbatch": batch_script(
            job, file=f"{job.launch_folder}/slurm.sbatch", scripts=scripts, environment=environment
        ),
        "environment.sh": (SHIPPED / "environment" / f"{job.environment}.sh").read_text(),
        **{f"scripts/{name}": (SHIPPED / name).read_text() for name in CALLED},
    }


def write_launch_files(job: ClusterJob) -> list[Path]:
    """Write them; those of an earlier plan are replaced. Returns the files by which the job can be started."""
    folder = Path(job.launch_folder)
    texts = launch_files(job)
    (folder / "scripts").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
        if name.endswith(".sh"):
            (folder / name).chmod(0o755)
    return [folder / name for name in texts if "/" not in name and name != "environment.sh"]


def batch_script(job: ClusterJob, *, file: str, scripts: str, environment: str, folder: bool = True) -> str:
    """The script for sbatch, which lies at `file`; without `folder` it is given when the job is submitted."""
    options = {
        "job-name": job.name,
        "account": job.account,
        "partition": job.partition,
        "nodes": job.nodes,
        "ntasks-per-node": job.gpus_per_node,
        "gpus-per-node": job.gpus_per_node,
        "cpus-per-task": job.cpus_per_rank,
        "time": job.time_limit,
        "signal": f"B:USR1@{job.stop_seconds}",
        "open-mode": "append",
        "output": "%x_%j.log",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    given = "" if folder else f" folder={shlex.quote(job.folder)}"
    about = f"""\
#SBATCH --requeue
#
# {_of_job(job)}:
#
#   sbatch {shlex.quote(file)}{given}
#
# {job.stop_seconds} seconds before the limit Slurm sends SIGUSR1 to this script (B:), which passes it on: the run
# saves, and the job is requeued to go on. A crash is requeued {job.max_restarts} times at most. The nodes are checked
# first.
set -euo pipefail
"""
    variables = {"ENVIRONMENT": environment, **_supervised(job)}
    if job.container is not None:
        variables |= {"IMAGE": job.container.image, "RUNTIME": job.container.runtime}
        if job.container.mounts:
            variables["MOUNTS"] = ",".join(job.container.mounts)
    words = _words(job) if folder else [job.recipe, *job.fields]
    return "\n".join(["#!/bin/bash", *lines, about]) + _started(f"{scripts}/srun.sh", variables, words)


def _torchrun_script(job: ClusterJob, *, scripts: str, environment: str) -> str:
    shared = "MASTER_ADDR=HOST_OF_NUMBER_0 MEGAPHI_JOB_SECRET=RANDOM_TEXT NODE_RANK=NUMBER " if job.nodes > 1 else ""
    about = f"""\
#!/bin/sh
# {_of_job(job)}, by torchrun{", on every node the same with its own number" if job.nodes > 1 else ""}:
#
#   {shared}{shlex.quote(f"{job.launch_folder}/torchrun.sh")}
set -eu
"""
    variables = {"NODES": str(job.nodes), "GPUS": str(job.gpus_per_node), "ENVIRONMENT": environment}
    return about + _started(f"{scripts}/torchrun.sh", {**variables, **_supervised(job)}, _words(job))


def _mpirun_script(job: ClusterJob, *, scripts: str, environment: str) -> str:
    hosts = "HOSTFILE=FILE_WITH_A_HOST_A_LINE " if job.nodes > 1 else ""
    about = f"""\
#!/bin/sh
# {_of_job(job)}, by mpirun of Open MPI or MPICH:
#
#   {hosts}{shlex.quote(f"{job.launch_folder}/mpirun.sh")}
set -eu
"""
    variables = {"PROCESSES": str(job.ranks), "GPUS": str(job.gpus_per_node), "ENVIRONMENT": environment}
    return about + _started(f"{scripts}/mpirun.sh", {**variables, **_supervised(job)}, _words(job))


def _of_job(job: ClusterJob) -> str:
    """`phi4_14b_pretrain on 8 nodes of 8 GPUs`, for a comment of one line."""
    nodes = f"{job.nodes} nodes" if job.nodes > 1 else "one node"
    return f"{' '.join(job.recipe.split())} on {nodes} of {job.gpus_per_node} GPUs"


def _supervised(job: ClusterJob) -> dict[str, str]:
    return {"CHECK_NODES": "1", "MAX_RESTARTS": str(job.max_restarts)}


def _words(job: ClusterJob) -> list[str]:
    return [job.recipe, *job.fields, f"folder={job.folder}"]


def _started(script: str, variables: dict[str, str], words: list[str]) -> str:
    """Variables, of whose numbers the shell's own win, and the script with the words and those of the command line."""
    exports = [
        f"export {name}=" + (f'"${{{name}:-{value}}}"' if value.isdigit() else shlex.quote(value))
        for name, value in variables.items()
    ]
    return "\n".join([*exports, f'exec {shlex.join([script, *words])} "$@"', ""])
