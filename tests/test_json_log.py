"""A log of JSON lines: cut anywhere, written by threads, on a full disk, by two processes."""

from __future__ import annotations

import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.errors import InputError
from megaphi.json_log import JsonLog

RECORDS = [{"number": number, "text": "ä\n" * number} for number in range(5)]


def read(path: Path) -> list[Any]:
    found: list[Any] = []
    JsonLog(path, found.append, what="a record").close()
    return found


@given(kept=st.integers(0, 400))
def test_a_file_cut_anywhere_holds_its_whole_lines_and_can_be_continued(
    kept: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = JsonLog(path, pytest.fail, what="a record")
    log.add_all(RECORDS)
    log.close()
    content = path.read_bytes()[:kept]
    path.write_bytes(content)
    whole = RECORDS[: content.count(b"\n")]
    assert read(path) == whole
    log = JsonLog(path, lambda _: None, what="a record")
    log.add("more")
    log.close()
    assert read(path) == [*whole, "more"]


def test_a_damaged_line_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"a":1}\n{"a":\n{"a":2}\n{"a"')
    with pytest.raises(InputError, match="log: line 2 is not a record: mend it, or remove the file"):
        read(path)
    assert path.read_bytes().endswith(b'{"a"')
    with pytest.raises(InputError, match="line 1 is not a record"):
        JsonLog(path, lambda record: record["b"], what="a record")


def test_lines_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log", pytest.fail, what="a record")
    threads = [
        threading.Thread(target=lambda n=n: [log.add([n, number, "x" * 3_000]) for number in range(50)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = read(tmp_path / "log")
    assert sorted(record[:2] for record in found) == [[n, number] for n in range(8) for number in range(50)]


def test_a_write_that_fails_half_way_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonLog(path, pytest.fail, what="a record")
    log.add("first")
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
        with pytest.raises(InputError, match="the file is larger than this process may write"):
            log.add("x" * 2_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b'"first"\n'
    log.add("second")
    log.close()
    assert read(path) == ["first", "second"]


def test_a_file_is_one_process_at_a_time_where_that_is_asked_for(tmp_path: Path) -> None:
    one = JsonLog(tmp_path / "log", pytest.fail, what="a record", exclusive=True)
    with pytest.raises(InputError, match=r"another process is writing .*log now"):
        JsonLog(tmp_path / "log", pytest.fail, what="a record", exclusive=True)
    one.add(1)
    one.close()
    assert read(tmp_path / "log") == [1]
