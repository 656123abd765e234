"""`megaphi watch`: a run that goes on, one that is over, one that died, a copy, several, and hostile files."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megaphi.cli import main
from megaphi.cli.monitoring.watch import FORMER_SCREEN, OTHER_SCREEN
from megaphi.engine import run_lock
from megaphi.engine.reporting.events import Events
from megaphi.engine.reporting.step_times import StepTimes
from megaphi.foreign.visible_text import is_one_line
from megaphi.monitoring.comparison import losses_at_tokens
from megaphi.monitoring.frame import frame
from megaphi.monitoring.observed_run import ObservedRun
from megaphi.monitoring.progress import progress_of
from megaphi.monitoring.quantities import duration, quantity
from tests.monitoring.run_folders import append, record, write_run

HOSTILE = "a\x1b[2Jb\rc\nmegaphi: done\u202e\x9b0m"

HOLD = """
import pathlib, sys, time
from megaphi.engine import run_lock
run_lock.take(pathlib.Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(99)
"""


def shown(run: Path, **options: int) -> str:
    return "\n".join(frame(ObservedRun(run), width=options.get("width", 120)))


def test_a_run_that_goes_on_tells_how_far_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", map(record, range(1, 121)))
    append(run, [record(121, **{"validation_loss": 3.25, "validation_loss/web": 4.5, "mfu": 0.412})])
    for rank in range(3):
        with StepTimes(run, rank=rank, place=f"data {rank}") as times:
            for step in range(1, 50):
                times.add(step, {"forward_backward": 0.9 if rank == 2 else 0.4})
    lock = run_lock.take(run)
    try:
        text = shown(run)
    finally:
        lock.release()
    for words in (
        "quickstart_pretrain",
        f"running: process {os.getpid()} on ",
        "step 121 of 240",
        "50 %   496K tokens",
        "59 s left, 0.5 s a step with everything",
        "loss 0.7273 (mean of 20: 0.",
        "validation 3.2500 at step 121",
        "validation: web 4.5000",
        "8,192 tokens/s (4,096 per device)   MFU 41.2%",
        "memory 1 GiB host",
        "phases     forward_backward 80.0%, data 20.0%",
        "ranks      3; slow: rank 2 on ",
        "checkpoint none yet",
        "step 0  started: quickstart_pretrain started",
    ):
        assert words in text, words


def test_states_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", map(record, range(1, 11)))
    now = (run / "metrics.jsonl").stat().st_mtime

    def state(later: float = 1.0) -> tuple[str, str]:
        progress = progress_of(ObservedRun(run), now=now + later)
        return progress.state, progress.text

    assert state() == ("stopped", "stopped before its last step")
    Events(run).add("stopped", step=10, text="no space left", failed=True)
    assert state() == ("failed", "failed: no space left")
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert state()[0] == "running"
    assert state(59.0)[0] == "running"
    assert state(70.0)[0] == "silent"
    assert "is alive" in state(70.0)[1]
    child.kill()
    child.wait()
    assert state()[0] == "lost"
    holder = {**json.loads((run / ".lock").read_text()), "host": "elsewhere", "boot": "another"}
    (run / ".lock").write_text(json.dumps(holder))
    assert state()[0] == "running"
    assert "cannot be seen from here" in state()[1]
    assert state(70.0)[0] == "silent"
    (run / ".lock").unlink()
    append(run, [record(240)])
    (run / "events.jsonl").unlink()
    assert state() == ("finished", "finished")


def test_looking_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", [record(1)])
    run_lock.take(run).release()
    (run / ".lock").write_text(json.dumps({"pid": 1, "host": "h"}))
    monkeypatch.setattr(run_lock.fcntl, "flock", lambda *_: pytest.fail("a lock was taken"))
    assert ObservedRun(run).holder is not None


def test_hostile_files_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", map(record, range(1, 5)), recipe=HOSTILE)
    append(run, [record(5, **{f"validation_loss/{HOSTILE}": 1.0, f"tokens/{HOSTILE}": 5, "tokens/b": 6})])
    append(run, [record(6, loss=float("nan"), tokens=1e308, host_memory_bytes=1e308, **{f"seconds/{HOSTILE}": 1e300})])
    Events(run).add("saved", step=5, text=HOSTILE)
    (run / ".lock").write_text(json.dumps({"pid": HOSTILE, "host": HOSTILE, "since": HOSTILE, "boot": 5}))
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "latest").write_text("../../etc")
    with StepTimes(run, rank=1, place=HOSTILE) as times:
        times.add(1, {"data": 1e300})
    (run / "steps" / "rank_00000.jsonl").write_text(json.dumps({"host": HOSTILE}) + '\n{"step": 1, "data": 2}\n')
    assert all(is_one_line(line) and len(line) <= 90 for line in frame(ObservedRun(run), width=90))
    assert main(["watch", str(run), str(write_run(tmp_path / "other", [record(1)])), "--once"]) == 0
    assert main(["watch", str(run), "--once"]) == 0
    out = capsys.readouterr().out
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", out)
    assert not any(line.startswith("megaphi: done") for line in out.splitlines())
    assert "\\x1b[2J" in out


def test_two_runs_are_compared_at_the_same_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a" / "run", (record(step, loss=10.0 - step / 100) for step in range(1, 201)))
    halves = (record(step, loss=11.0 - step / 200, tokens=2_048 * step) for step in range(1, 201))
    write_run(tmp_path / "b" / "run", halves, seed=5)
    assert main(["watch", str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"), "--once"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if re.match(r" +\d", line)]
    assert len(rows) == 10
    for number, row in enumerate(rows, start=1):
        first, last = 20 * (number - 1) + 1, 20 * number
        mine = 10.0 - (first + last) / 2 / 100
        assert float(row[1]) == pytest.approx(mine, abs=5.1e-5)
        if number > 5:
            assert row[2] == "-"
        else:
            theirs = 11.0 - (2 * first - 1 + 2 * last) / 2 / 200
            assert float(row[2]) == pytest.approx(theirs, abs=5.1e-5)
            assert float(row[3]) == pytest.approx(theirs - mine, abs=1.1e-4)
    assert "b/run differs from a/run in 1 fields:\n  seed: 1234 -> 5" in out
    history = ObservedRun(tmp_path / "a" / "run").history
    assert losses_at_tokens(history, [4_096.0, 1e9]) == [pytest.approx(9.99), None]
    left_out = record(201, skipped=1)
    del left_out["loss"]
    append(tmp_path / "a" / "run", [left_out, record(202, loss=5.0)])
    history.update()
    assert losses_at_tokens(history, [200 * 4_096.0, 201 * 4_096.0, 202 * 4_096.0])[1:] == [None, 5.0]
    assert "loss 5.0000" in shown(tmp_path / "a" / "run")


def test_a_terminal_is_refreshed_until_it_is_interrupted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", map(record, range(1, 4)))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "megaphi", "watch", str(run), "--every", "0.1"])
    seen = read_until(terminal, "step 3 of 240")
    append(run, [record(77)])
    seen += read_until(terminal, "step 77 of 240")
    os.kill(pid, signal.SIGINT)
    seen += read_until(terminal, FORMER_SCREEN)
    assert seen.index(OTHER_SCREEN) < seen.index("step 3 of 240")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def read_until(terminal: int, words: str) -> str:
    seen, ends = b"", time.monotonic() + 60
    while words.encode() not in seen:
        assert time.monotonic() < ends, seen
        seen += os.read(terminal, 1 << 16)
    return seen.decode(errors="replace")


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([str(tmp_path)], [str(tmp_path / "nothing")]):
        assert main(["watch", *words, "--once"]) == 2
        assert "is no run folder" in capsys.readouterr().err
    run = write_run(tmp_path / "run", [])
    assert main(["watch", str(run), "--once"]) == 0
    assert "no step has been taken yet" in capsys.readouterr().out
    assert main(["watch", str(run), "--every", "0"]) == 2


def test_numbers_as_a_person_reads_them() -> None:
    assert [duration(one) for one in (4.4, 185, 25_920, 1_047_600)] == ["4 s", "3:05 min", "7:12:00 h", "12 d 3 h"]
    assert [quantity(one) for one in (0, 999, 983_040, 9.8e12)] == ["0", "999", "983K", "9.8T"]
    assert quantity(3 << 29, binary=True) == "1.5 GiB"
