"""Messages on the terminal and in a rank's file: in small processes, since it is about file descriptors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_house import ROOT


def printed(program: str, *words: str) -> str:
    """Standard error of a program that has `megaphi.log` imported."""
    begin = "import os, sys; from pathlib import Path; from megaphi.log import *; path = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", begin + program, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stderr


def test_a_line_says_when_and_where(tmp_path: Path) -> None:
    first = printed("set_up_logging(rank=0, world_size=4); logger.info('hello'); logger.debug('hidden')", str(tmp_path))
    assert re.fullmatch(r"\d\d:\d\d:\d\d hello\n", first)
    other = printed("set_up_logging(rank=3, world_size=4); logger.warning('oh'); logger.info('hidden')", str(tmp_path))
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[rank 3 on [^\].]+\] oh\n", other)


def test_a_rank_keeps_everything_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "run" / "logs" / "rank_00003.log"
    program = "keep_rank_log(path, rank=3, take_native_output=True); set_up_logging(rank=3, world_size=4)\n"
    program += "logger.debug('a detail'); logger.info('a fact'); os.write(2, b'frame #0: c10d\\n')\n"
    program += "print('Traceback', file=sys.stderr)\n"
    program += "try: 1 / 0\nexcept ZeroDivisionError: logger.debug('a failure', exc_info=True)"
    for _ in range(2):
        assert printed(program, str(path)) == "Traceback\n"
    text = path.read_text()
    assert text.count("frame #0: c10d\n") == 2
    assert text.count("ZeroDivisionError: division by zero") == 2
    dated = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \S+ rank 3 process \d+ "
    assert len(re.findall(dated + "(DEBUG a detail|INFO a fact|DEBUG a failure)\n", text)) == 6


def test_a_long_log_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "rank_00000.log"
    path.write_bytes(b"x" * ((16 << 20) + 1))
    printed("keep_rank_log(path, rank=0, take_native_output=False); logger.info('new')", str(path))
    assert path.read_text().endswith("new\n")
    assert path.stat().st_size < 1_000
    assert (tmp_path / "rank_00000.log.old").stat().st_size == (16 << 20) + 1


def test_a_log_has_its_bound_while_the_run_goes_on(tmp_path: Path) -> None:
    """And what libraries write to file descriptor 2, and a crash's last words, follow into the new file."""
    program = "import megaphi.log; megaphi.log.LONGEST_LOG_BYTES = 20_000\n"
    program += "keep_rank_log(path, rank=0, take_native_output=True); before = megaphi.log.rank_log\n"
    program += "for number in range(2_000):\n    logger.debug('step %d', number)\n"
    program += "    os.write(2, b'native %d\\n' % number)\n"
    program += "assert megaphi.log.rank_log == before; os.write(before, b'last words\\n'); logger.info('the end')\n"
    program += "print('shown', file=sys.stderr)"
    assert printed(program, str(tmp_path / "logs" / "rank_00000.log")) == "shown\n"
    new, old = tmp_path / "logs" / "rank_00000.log", tmp_path / "logs" / "rank_00000.log.old"
    assert {path.name for path in new.parent.iterdir()} == {new.name, old.name}
    assert max(path.stat().st_size for path in (new, old)) < 20_100
    kept = old.read_text() + new.read_text()
    assert kept.endswith("the end\n")
    assert kept.splitlines()[-2] == "last words"
    numbers = [int(line.split()[-1]) for line in kept.splitlines() if "native" in line]
    assert numbers == list(range(numbers[0], 2_000))
    assert len(numbers) > 200


@pytest.mark.parametrize("full", [True, False], ids=["a full disk", "no folder"])
def test_what_the_disk_does_not_take_ends_nothing(tmp_path: Path, full: bool) -> None:
    path = tmp_path / "file" / "rank_00000.log"
    if full:
        path.parent.mkdir()
        path.symlink_to("/dev/full")
    else:
        path.parent.write_text("a file is in the way")
    program = "set_up_logging(); keep_rank_log(path, rank=0, take_native_output=False)\n"
    errors = printed(program + "logger.info('one'); logger.info('two'); print('went on', file=sys.stderr)", str(path))
    assert len(re.findall(r"cannot be written|no log is kept in", errors)) == 1
    assert "Traceback" not in errors
    assert re.search(r"one\n(.*\n)*.*two\nwent on\n$", errors)


def test_the_terminal_still_gets_the_messages_once_there_is_a_log(tmp_path: Path) -> None:
    """The order of a real run: lines are printed while ranks meet, and the log is there once the run folder is."""
    path = tmp_path / "rank_00000.log"
    program = "set_up_logging(rank=0, world_size=2); logger.info('before')\n"
    program += "keep_rank_log(path, rank=0, take_native_output=True); logger.info('after'); logger.debug('detail')"
    shown = printed(program, str(path))
    assert re.fullmatch(r"\S+ before\n\S+ after\n", shown)
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["after", "detail"]


def test_a_process_killed_at_its_progress_bar_keeps_no_other_from_its_own(tmp_path: Path) -> None:
    """tqdm's own lock is shared by forked processes: it would stay locked."""
    program = (
        "import signal, time; from tqdm import tqdm; progress_bar(total=1, unit='it').close(); child = os.fork()\n"
    )
    program += "if child == 0: tqdm.get_lock().acquire(); os.kill(os.getpid(), signal.SIGKILL)\n"
    program += "os.waitpid(child, 0); child = os.fork()\n"
    program += "if child == 0: progress_bar(total=1, unit='it').close(); os._exit(0)\n"
    program += "limit = time.monotonic() + 20\n"
    program += (
        "while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < limit: time.sleep(0.02)\n"
    )
    program += "if ended == (0, 0): os.kill(child, signal.SIGKILL)\n"
    program += "print('ended' if ended != (0, 0) else 'hangs', file=sys.stderr)"
    assert printed(program, str(tmp_path)).splitlines()[-1] == "ended"
