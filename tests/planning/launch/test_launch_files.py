"""The files that start a job: what the shipped ones are, that any value reaches the program whole, what is refused."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.errors import InputError
from megaphi.planning.launch.job import ClusterJob, ContainerImage, check_job
from megaphi.planning.launch.launch_files import batch_script, launch_files, write_launch_files
from tests.test_house import ROOT

JOB = ClusterJob(recipe="phi4_14b_pretrain", folder="/shared/runs/phi4", launch_folder="/shared/launch", nodes=64)


def test_the_shipped_batch_script_is_the_written_one():
    written = batch_script(
        JOB,
        file="launch/slurm/pretrain.sbatch",
        scripts="launch",
        environment="launch/environment/h100.sh",
        folder=False,
    )
    assert (ROOT / "launch" / "slurm" / "pretrain.sbatch").read_text() == written


def test_scripts_that_are_called_are_the_shipped_ones():
    texts = launch_files(JOB)
    for name in ("supervise.sh", "torchrun.sh", "mpirun.sh", "srun.sh"):
        assert texts[f"scripts/{name}"] == (ROOT / "launch" / name).read_text()
    for name in ("h100", "ethernet"):
        shipped = (ROOT / "launch" / "environment" / f"{name}.sh").read_text()
        assert launch_files(replace(JOB, environment=name))["environment.sh"] == shipped


CALLED = """#!/bin/sh
printf '%s\\0' "$NODES" "$PROCESSES" "$GPUS" "$ENVIRONMENT" "$MAX_RESTARTS" "$IMAGE" "$MOUNTS" "$@" > "$RECORD"
"""
SHELL_TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=12)


@settings(max_examples=12, deadline=None)
@given(field=SHELL_TEXT, image=SHELL_TEXT)
def test_any_text_reaches_the_script_as_it_is(tmp_path_factory, field, image):
    """Blanks, quotes, `$(...)` and line ends in fields, folders and images are data, in every file."""
    folder = tmp_path_factory.mktemp("it's $(a) folder")
    fields = (f"wandb.name={field}",)
    job = ClusterJob(
        recipe="my recipes.py:mine",
        fields=fields,
        folder=f"{folder}/run; true",
        launch_folder=str(folder / "launch"),
        nodes=3,
        gpus_per_node=4,
        container=ContainerImage(image=image, mounts=(f"{folder}",)),
    )
    starts = write_launch_files(job)
    for name in ("torchrun.sh", "mpirun.sh", "srun.sh"):
        (folder / "launch" / "scripts" / name).write_text(CALLED)
    environment = f"{folder}/launch/environment.sh"
    words = ["my recipes.py:mine", *fields, f"folder={folder}/run; true", "last=word"]
    expected = {
        "torchrun.sh": ["3", "", "4", environment, "3", "", "", *words],
        "mpirun.sh": ["", "12", "4", environment, "3", "", "", *words],
        "slurm.sbatch": ["", "", "", environment, "3", image, f"{folder}", *words],
    }
    assert [start.name for start in starts] == list(expected)
    for start in starts:
        record = folder / "record"
        clean = {name: value for name, value in os.environ.items() if name not in ("NODES", "GPUS", "IMAGE", "MOUNTS")}
        subprocess.run(["bash", start, "last=word"], env={**clean, "RECORD": str(record)}, check=True)
        assert record.read_bytes().decode().split("\0")[:-1] == expected[start.name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "two words"}, "job.name='two words': Slurm takes letters"),
        ({"partition": "a\n#SBATCH --nodes=1"}, "job.partition="),
        ({"account": ""}, "job.account=''"),
        ({"time_limit": "tomorrow"}, "job.time_limit=tomorrow: write it as hours:minutes:seconds"),
        ({"time_limit": "00:05:00"}, "job.stop_seconds=300: the run would be told to save before it starts"),
        ({"nodes": 0}, "job.nodes=0: must be at least 1"),
        ({"environment": "h1000"}, "job.environment"),
        ({"fields": ("folder=/elsewhere",)}, "give the run folder as job.folder"),
        ({"container": ContainerImage(image="x", runtime="docker")}, "job.container.runtime"),  # pyright: ignore
    ],
)
def test_a_job_that_could_not_start_is_refused(changes, message):
    with pytest.raises(InputError) as refused:
        check_job(replace(JOB, **changes))
    assert message in str(refused.value)


def test_files_of_a_refused_job_are_not_written(tmp_path):
    with pytest.raises(InputError):
        write_launch_files(replace(JOB, launch_folder=str(tmp_path / "launch"), nodes=0))
    assert not list(tmp_path.iterdir())


def test_every_setting_of_an_environment_has_its_reason_and_source():
    """And none is set over the user's own value."""
    for file in (ROOT / "launch" / "environment").glob("*.sh"):
        for block in file.read_text().split("\n\n")[1:]:
            comments = [line for line in block.splitlines() if line.startswith("# ")]
            exports = [line for line in block.splitlines() if line.startswith("export ")]
            if exports:
                assert any("docs." in line for line in comments), block
            for line in exports:
                name = line.removeprefix("export ").partition("=")[0]
                assert line.startswith(f'export {name}="${{{name}:-'), line
