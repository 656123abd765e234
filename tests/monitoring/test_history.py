"""The columns of a metrics.jsonl that grows, is cut off, starts over, or is no metrics.jsonl."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.engine.reporting.metrics import MetricsLog, read_metrics
from megaphi.errors import InputError
from megaphi.monitoring import history as module
from megaphi.monitoring.history import History
from tests.monitoring.run_folders import append, record

RECORDS = st.lists(st.dictionaries(st.sampled_from(["loss", "mfu", "é"]), st.floats(allow_nan=False)), max_size=12)


@given(records=RECORDS, cuts=st.lists(st.integers(0, 2_000), max_size=6))
def test_a_file_read_while_it_grows_has_the_columns_of_the_whole(
    records: list[dict[str, float]], cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("growing") / "metrics.jsonl"
    lines = [json.dumps({"step": step, **one}) + "\n" for step, one in enumerate(records, start=1)]
    content = "".join(lines).encode()
    history = History(path)
    for cut in sorted(cuts):
        with open(path, "ab") as file:
            file.write(content[file.tell() : cut])
        history.update()
    with open(path, "ab") as file:
        file.write(content[file.tell() :])
    history.update()
    expected = read_metrics(path)
    for name in ("step", "loss", "mfu", "é"):
        found = list(zip(history[name].steps, history[name].values, strict=True))
        assert found == [(one["step"], one[name]) for one in expected if math.isfinite(one.get(name, math.nan))]
    assert history.damaged == 0
    assert history.step == len(records)


def test_a_resumed_run_takes_its_steps_again(tmp_path: Path) -> None:
    append(tmp_path, map(record, range(1, 8)))
    history = History(tmp_path / "metrics.jsonl")
    history.update()
    log = MetricsLog(tmp_path, after=4, boards={})
    log.add({"step": 5, "loss": 77.0})
    log.close()
    history.update()
    assert list(history["loss"].steps) == [1, 2, 3, 4, 5]
    assert history["loss"].values[-1] == 77.0
    assert list(history["tokens"].steps) == [1, 2, 3, 4]
    append(tmp_path, [{"step": 3, "loss": 1.0}])
    history.update()
    assert (list(history["loss"].steps), list(history["tokens"].steps)) == ([1, 2, 3], [1, 2])


def test_what_is_no_record_is_counted(tmp_path: Path) -> None:
    lines = ["oops", "[1]", '{"step": -1}', '{"step": true}', f'{{"step": {10**30}}}', '{"loss": 1}', "[" * 5_000]
    good = '{"step": 1, "loss": NaN, "text": "\\u001b[2J", "list": [1], "mfu": 0.5, "huge": 1%s}' % ("0" * 400)
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, good, '{"step": 2, "lo']))
    history = History(tmp_path / "metrics.jsonl")
    history.update()
    assert history.damaged == len(lines)
    assert history.names() == ["step", "mfu"]
    assert history["mfu"].last(5) == [0.5]


def test_a_file_without_lines_and_one_that_is_no_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_LINE_BYTES", 1_000)
    (tmp_path / "metrics.jsonl").write_bytes(b"x" * 2_000)
    with pytest.raises(InputError, match=r"a line of more than 1,000 bytes"):
        History(tmp_path / "metrics.jsonl").update()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError):
        History(tmp_path / "pipe").update()
    missing = History(tmp_path / "nothing")
    missing.update()
    assert (missing.step, missing.written_at) == (0, None)


def test_many_names_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NAMES", 10)
    append(tmp_path, [{"step": 1, **{f"name{number}": 1.0 for number in range(100)}}])
    history = History(tmp_path / "metrics.jsonl")
    history.update()
    assert len(history.names()) == 10
