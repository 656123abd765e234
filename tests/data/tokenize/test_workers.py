"""Workers of one job: who they are, that each does its share once, that exactly one joins, under MPI too."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megaphi import files
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.tokenize import pipeline as subject
from megaphi.data.tokenize import plan as tokenize_plan
from megaphi.data.tokenize.pipeline import plan_tokenizing, tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.errors import InputError
from megaphi.parallel.rendezvous.folder_worker import FolderWorker, detect_worker
from tests.test_house import ROOT

SETTINGS = TokenizeSettings(vocabulary_size=1_024)
QUIET = {"show_progress": False, "processes": 1}
ARRAY = {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "5"}
STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}


@pytest.fixture
def texts():
    draw = random.Random(0)
    return ["".join(draw.choices("ab cd\n", k=draw.randrange(100))) for _ in range(300)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(tokenize_plan, "SMALLEST_SHARD", 1_500)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1, "alone")),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, (2, 3, "MPI")),
        ({"PMI_RANK": "0", "PMI_SIZE": "7"}, (0, 7, "MPI")),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "20"}, (2, 4, "Slurm array")),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, (0, 1, "alone")),  # a batch script, not started by srun
        (STEP, (1, 2, "srun")),
        ({**ARRAY, **STEP, "SLURM_ARRAY_TASK_ID": "25"}, (7, 8, "Slurm array and srun")),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "25", "PMI_RANK": "1", "PMI_SIZE": "2"}, (7, 8, "Slurm array and MPI")),
        ({**STEP, "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, (2, 3, "MPI")),  # mpirun in a step
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, "RANK")),
    ],
)
def test_who_started_this_process(environment, place):
    worker = detect_worker(environment)
    assert (worker.rank, worker.world, worker.launcher) == place
    given = detect_worker(environment, rank=4, world=5)
    assert (given.rank, given.world, given.launcher) == (4, 5, "--rank")


def test_a_rank_gets_its_share_of_the_processors():
    processors = len(os.sched_getaffinity(0))
    place = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "9"}
    assert detect_worker({**place, "OMPI_COMM_WORLD_LOCAL_SIZE": str(processors)}).processes == 1
    assert detect_worker({**STEP, "SLURM_CPUS_PER_TASK": "12"}).processes == 12
    assert detect_worker(STEP).processes == 1
    assert detect_worker({**ARRAY, "SLURM_ARRAY_TASK_ID": "10"}).processes is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "11"}, "without gaps"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "30"}, "without gaps"),
        ({"PMI_RANK": "x", "PMI_SIZE": "7"}, "PMI_RANK='x' is not a whole number"),
        ({"PMI_RANK": "7", "PMI_SIZE": "7"}, "Hydra says rank 7 of 7"),
        ({"RANK": "1"}, "RANK=1 is set but not WORLD_SIZE"),
    ],
)
def test_variables_that_make_no_sense(environment, message):
    with pytest.raises(InputError, match=message):
        detect_worker(environment)


def test_rank_and_world_belong_together():
    with pytest.raises(InputError, match="give both or neither"):
        detect_worker({}, rank=1)


def test_mpi4py_is_not_imported_where_no_launcher_asks_for_it():
    program = "import sys; from megaphi.cli import main; main(sys.argv[1:]); sys.exit('mpi4py' in sys.modules)"
    words = ["tokenize", "README.md", "--output", "nowhere", "--dry-run", "--vocabulary", "1024"]
    subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("world", [2, 5, 100])
def test_members_one_after_the_other(tmp_path, source, world):
    """The last one joins; more workers than shards is no error; the bytes are those of a process alone."""
    tokenize_documents([source], tmp_path / "alone" / "d", SETTINGS, **QUIET)
    shards = len(plan_tokenizing([source], tmp_path / "x", SETTINGS).distinct_shards)
    done = 0
    for rank in range(world):
        summary = tokenize_documents(
            [source], tmp_path / "together" / "d", SETTINGS, worker=FolderWorker(rank=rank, world=world), **QUIET
        )
        done += len(range(rank, shards, world))
        assert summary.missing_shards == shards - done
        assert summary.joined == (done == shards)
    assert files_of(tmp_path / "together") == files_of(tmp_path / "alone")
    assert not (tmp_path / "together" / "d.parts").exists()


def test_each_shard_is_tokenised_once(tmp_path, source, monkeypatch):
    from megaphi.data.tokenize import shards as tokenize_shards

    made = []
    really = tokenize_shards.tokenize_shard
    monkeypatch.setattr(
        tokenize_shards, "tokenize_shard", lambda *given: made.append(given[0].prefix) or really(*given)
    )
    for rank in (2, 0, 2, 1):
        tokenize_documents([source], tmp_path / "d", SETTINGS, worker=FolderWorker(rank=rank, world=3), **QUIET)
    assert len(made) == len(set(made)) == len(plan_tokenizing([source], tmp_path / "d", SETTINGS).shards)


def test_members_at_once_and_exactly_one_joins(tmp_path, source, monkeypatch):
    """Threads as workers: flock is a lock of the open file, so it holds between threads as between processes."""
    tokenize_documents([source], tmp_path / "alone" / "d", SETTINGS, **QUIET)
    joins = []
    really = subject.join_shards
    monkeypatch.setattr(subject, "join_shards", lambda *given, **named: joins.append(1) or really(*given, **named))
    for attempt in range(5):
        output = tmp_path / f"together{attempt}" / "d"
        joins.clear()

        def work(rank, output=output):
            return tokenize_documents([source], output, SETTINGS, worker=FolderWorker(rank=rank, world=4), **QUIET)

        with ThreadPoolExecutor(4) as pool:
            summaries = list(pool.map(work, range(4)))
        assert any(summary.joined for summary in summaries)
        assert len(joins) == 1
        assert files_of(output.parent) == files_of(tmp_path / "alone")


def test_without_locks_two_may_join_and_the_result_is_right(tmp_path, source, monkeypatch):
    """On a file system that has none, every worker that sees all shards joins; the bytes are the same."""
    tokenize_documents([source], tmp_path / "alone" / "d", SETTINGS, **QUIET)

    def refuse(*_):
        raise OSError(files.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    for attempt in range(5):
        output = tmp_path / f"together{attempt}" / "d"

        def work(rank, output=output):
            return tokenize_documents([source], output, SETTINGS, worker=FolderWorker(rank=rank % 2, world=2), **QUIET)

        with ThreadPoolExecutor(4) as pool:  # every worker twice
            assert any(summary.joined for summary in pool.map(work, range(4)))
        assert files_of(output.parent) == files_of(tmp_path / "alone")
        tokenize_documents([source], output, SETTINGS, **QUIET)
        assert not output.with_suffix(".parts").exists()


def test_a_lone_run_and_members_do_not_mix(tmp_path, source):
    plan = plan_tokenizing([source], tmp_path / "d", SETTINGS)
    with subject._hold_parts(plan, alone=True), pytest.raises(InputError, match="another process is writing"):
        tokenize_documents([source], tmp_path / "d", SETTINGS, worker=FolderWorker(rank=0, world=2), **QUIET)
    with subject._hold_parts(plan, alone=False):
        with pytest.raises(InputError, match="another process is writing"):
            tokenize_documents([source], tmp_path / "d", SETTINGS, **QUIET)
        assert not tokenize_documents(
            [source], tmp_path / "d", SETTINGS, worker=FolderWorker(rank=0, world=2), **QUIET
        ).joined


def test_an_array_job_by_its_environment(tmp_path, source):
    command = [sys.executable, "-m", "megaphi", "tokenize", str(source), "--vocabulary", "1024", "--processes", "1"]
    for job in ("11", "10"):
        environment = {**os.environ, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "10"}
        environment["SLURM_ARRAY_TASK_ID"] = job
        ended = subprocess.run(
            [*command, "--output", str(tmp_path / "d")],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        expected = {"11": "worker 1 of 2 (Slurm array) has done its share; 1 shards of others", "10": "written in"}
        assert expected[job] in ended.stdout
    assert len(IndexedDataset(tmp_path / "d")) > 0


def mpirun(*words, processes=2):
    launcher = Path(sys.executable).parent / "mpirun"
    command = [str(launcher), "--allow-run-as-root", "--bind-to", "none", "--oversubscribe", "-n", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, sys.executable, "-m", "megaphi", "tokenize", *map(str, words)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def several_files(tmp_path):
    """Shards cannot be made small in another process, so each file is one: it is compressed and large enough."""
    import gzip

    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        lines = b"".join(b'{"text": "%s"}\n' % os.urandom(600).hex().encode() for _ in range(1_800))
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines))
    return folder


def test_ranks_of_mpirun(tmp_path, several_files):
    ended = mpirun(several_files, "--vocabulary", "1024", "--output", tmp_path / "mpi" / "d")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("written in") == 1
    tokenize_documents([several_files], tmp_path / "alone" / "d", SETTINGS, **QUIET)
    assert files_of(tmp_path / "mpi") == files_of(tmp_path / "alone")
    (several_files / "bad.jsonl").write_text("{}\n")
    ended = mpirun(several_files, "--vocabulary", "1024", "--output", tmp_path / "bad" / "d")
    assert ended.returncode != 0
    assert "bad.jsonl:1: no 'text' field" in ended.stderr
    assert not (tmp_path / "bad" / "d.idx").exists()
