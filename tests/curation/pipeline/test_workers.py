"""Many workers, killed ones, and other executors: the result is that of one process that nobody disturbed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from megaphi.curation.pipeline.run import curate, local_processes
from megaphi.errors import InputError
from megaphi.parallel.rendezvous.folder_worker import FolderWorker
from tests.curation.pipeline.conftest import RECIPE, result_of
from tests.curation.pipeline.killed_curation import forked, killed_until_finished, straight_seconds
from tests.curation.pipeline.my_steps import DiesOnce, FirstOnly, TooShort, recipe, slow_recipe
from tests.test_house import ROOT

pytestmark = pytest.mark.slow


def alone(tmp_path: Path) -> dict[str, bytes]:
    curate(replace(recipe(), folder=str(tmp_path / "alone")), show_progress=False)
    return result_of(tmp_path / "alone")


def commanded(*words: object, launcher: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """`megaphi curate` as a process of its own, with the recipe of these tests."""
    return subprocess.run(
        [*launcher, sys.executable, "-m", "megaphi", "curate", RECIPE, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def processes_of(folder: Path) -> set[str]:
    """The processes that opened a step of any stage."""
    return {process for path in folder.glob("steps/*/processes") for process in path.read_text().split()}


def test_kills_change_nothing(source, tmp_path):
    seconds = straight_seconds(slow_recipe(), tmp_path / "straight")
    curation = replace(slow_recipe(), folder=str(tmp_path / "killed"))
    killed = killed_until_finished(forked(curation), tmp_path / "killed", most_seconds=seconds / 3, seed=1)
    assert killed.kills >= 3
    assert len(set(killed.moments or [])) >= 2
    assert result_of(tmp_path / "killed") == result_of(tmp_path / "straight")


def test_a_process_that_dies_is_said_and_its_shard_is_done_again(source, tmp_path):
    curation = replace(recipe(), steps=(DiesOnce(id="d120"), TooShort(), FirstOnly()))
    with pytest.raises(InputError, match=r"a process died \(SIGKILL.*finished shards are kept"):
        curate(curation, executor=local_processes(2), show_progress=False)
    finished = len(list((tmp_path / "run").glob("stages/01/0*")))
    again = curate(curation, executor=local_processes(2), show_progress=False)
    assert again.shards_done_here == 2 * again.shards - finished
    (tmp_path / "alone" / "steps" / "dies_once").mkdir(parents=True)
    (tmp_path / "alone" / "steps" / "dies_once" / "died").touch()
    (tmp_path / "alone" / "stages").mkdir()
    curate(replace(curation, folder=str(tmp_path / "alone")), show_progress=False)
    assert result_of(tmp_path / "run") == result_of(tmp_path / "alone")


@pytest.mark.parametrize("world", [2, 5])
def test_workers_at_once(source, tmp_path, world):
    """Threads as workers: flock is a lock of the open file, so it holds between threads as between processes."""
    expected = alone(tmp_path)

    def work(rank: int) -> int:
        worker = FolderWorker(rank=rank, world=world)
        return curate(recipe(), worker=worker, show_progress=False).shards_done_here

    with ThreadPoolExecutor(world) as pool:
        done = list(pool.map(work, range(world)))
    assert result_of(tmp_path / "run") == expected
    assert sum(done) == sum(name.endswith("counts.json") for name in expected)


def test_one_worker_of_many_does_it_all_if_the_others_never_come(source, tmp_path):
    expected = alone(tmp_path)
    assert curate(recipe(), worker=FolderWorker(rank=3, world=7), show_progress=False).finished
    assert result_of(tmp_path / "run") == expected


def test_without_locks_a_worker_does_its_share_and_says_what_is_missing(source, tmp_path, monkeypatch):
    from megaphi import files

    expected = alone(tmp_path)

    def refuse(*_):
        raise OSError(files.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    first, second = (FolderWorker(rank=rank, world=2) for rank in range(2))
    one = curate(recipe(), worker=first, show_progress=False)
    assert 0 < one.missing_shards < one.shards
    for worker in (second, first, second):
        last = curate(recipe(), worker=worker, show_progress=False)
    assert last.finished
    assert result_of(tmp_path / "run") == expected


def test_local_processes_ray_and_mpirun_give_the_same_bytes(source, tmp_path):
    expected = alone(tmp_path)
    mpirun = (
        str(Path(sys.executable).parent / "mpirun"),
        "--allow-run-as-root",
        "--bind-to",
        "none",
        "--oversubscribe",
    )
    for name, words, launcher in (
        ("processes", ("--processes", 2), ()),
        ("mpirun", ("--processes", 1), (*mpirun, "-n", "2")),
        ("ray", ("--processes", 2, "--ray", "local"), ()),
    ):
        ended = commanded(*words, "--output", tmp_path / name, launcher=launcher)
        assert ended.returncode == 0, (name, ended.stderr)
        assert ended.stdout.count("documents: finished in") == 1, name
        assert result_of(tmp_path / name) == expected, name
        assert len(processes_of(tmp_path / name)) <= 2, name
        shutil.rmtree(tmp_path / name)


def test_an_array_job_by_its_environment(source, tmp_path):
    """The second job comes when the first has done everything."""
    expected = alone(tmp_path)
    array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "10"}
    ended = commanded("--processes", 1, SLURM_ARRAY_TASK_ID="11", **array)
    assert ended.returncode == 0, ended.stderr
    assert "documents: finished in" in ended.stdout
    assert result_of(tmp_path / "run") == expected
