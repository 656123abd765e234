"""SIGKILL at twenty random moments, and the same command again: the dataset is that of a run left alone, byte for byte.

Each attempt is forked and leads a process group of two workers, which is killed as a whole. Small shards and windows
make it spend its time in planning, tokenising, joining and renaming alike; the moments are drawn evenly over the time
that one whole run takes. After each kill no process of the group may be left, and nothing may be half there.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.tokenize import join as join_shards
from megaphi.data.tokenize import plan as tokenize_plan
from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.errors import InputError
from megaphi.parallel.rendezvous.folder_worker import FolderWorker

pytestmark = pytest.mark.slow
KILLS = 20


@pytest.fixture
def texts():
    draw = random.Random(0)
    return ["".join(draw.choices("ab cd\n", k=draw.randrange(200))) for _ in range(600)]


@pytest.fixture(autouse=True)
def many_shards_and_windows(monkeypatch):
    """Forked processes inherit it."""
    monkeypatch.setattr(tokenize_plan, "SMALLEST_SHARD", 1_500)
    monkeypatch.setattr(join_shards, "WINDOW_DOCUMENTS", 2)


def run(source: Path, output: Path, rank: int | None = None) -> None:
    """One attempt, in this process."""
    tokenize_documents(
        [source],
        output,
        TokenizeSettings(vocabulary_size=512),
        processes=1,
        worker=None if rank is None else FolderWorker(rank=rank, world=2),
        show_progress=False,
    )


def lead_group(source: Path, output: Path) -> None:
    """Two workers as one process group, as a Slurm job would be killed."""
    os.setpgid(0, 0)
    other = os.fork()
    try:
        run(source, output, rank=1 if other else 0)
    except InputError as error:
        print(error)
        os._exit(2)
    if other:
        _, status = os.waitpid(other, 0)
        os._exit(os.waitstatus_to_exitcode(status))
    os._exit(0)


def start(source: Path, output: Path) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=lead_group, args=(source, output))
    process.start()
    return process


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def running_in(group: int) -> list[int]:
    """Processes of a group that have not ended; one that nobody has waited for yet has."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_twenty_kills(tmp_path, source):
    began = time.monotonic()
    whole = start(source, tmp_path / "alone" / "d")
    whole.join()
    usual_seconds = time.monotonic() - began
    assert whole.exitcode == 0
    expected = files_of(tmp_path / "alone")
    draw = random.Random()
    stages = {"nothing": 0, "shards": 0, "joining": 0, "whole": 0}
    for kill in range(KILLS):
        folder = tmp_path / f"killed{kill}"
        process = start(source, folder / "d")
        process.join(timeout=usual_seconds * (kill + draw.random()) / KILLS)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()  # before it led its group, or after its end
        process.join()
        deadline = time.monotonic() + 20
        while running_in(process.pid):
            assert time.monotonic() < deadline, "a process outlived the kill"
            time.sleep(0.005)
        stages[stage_of(folder)] += 1
        again = start(source, folder / "d")
        again.join()
        assert again.exitcode == 0, kill
        assert files_of(folder) == expected, kill
        assert not (folder / "d.parts").exists(), kill
    print(f"a whole run takes {usual_seconds:.2f} s; killed at: {stages}")


def stage_of(folder: Path) -> str:
    """Stage that a killed run had reached; what is in place must be readable."""
    if (folder / "d.idx").exists():
        assert len(IndexedDataset(folder / "d")) > 0
        return "whole"
    if not (folder / "d.parts").exists():
        return "nothing"
    return "joining" if list((folder / "d.parts").glob(".d.bin.*")) else "shards"


@pytest.mark.parametrize("ending", [".bin", ".idx", ".json"])
def test_a_shard_that_a_power_cut_truncated_is_made_again(tmp_path, source, ending):
    run(source, tmp_path / "alone" / "d")
    folder = tmp_path / "damaged"
    run(source, folder / "d", rank=0)  # half of the shards, not joined
    shards = sorted((folder / "d.parts").glob(f"*{ending}"))
    assert len(shards) > 10
    for number, path in enumerate(shards[:5]):
        os.truncate(path, path.stat().st_size * number // 5)
    run(source, folder / "d", rank=1)
    assert files_of(folder) == files_of(tmp_path / "alone")
    assert not (folder / "d.parts").exists()


def test_a_killed_joiner_is_replaced(tmp_path, source, monkeypatch):
    """It dies holding the lock, between two renames: the kernel drops the lock, the next one joins again."""
    run(source, tmp_path / "alone" / "d")
    folder = tmp_path / "joined"
    run(source, folder / "d", rank=0)
    really = os.replace

    def die_at_the_index(old, new):
        if str(new).endswith("/d.idx"):
            os.kill(os.getpid(), signal.SIGKILL)
        really(old, new)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "replace", die_at_the_index)
        run(source, folder / "d", rank=1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (folder / "d.bin").exists()
    assert not (folder / "d.idx").exists()
    run(source, folder / "d", rank=0)
    assert files_of(folder) == files_of(tmp_path / "alone")
