"""metrics.jsonl: each step once, whatever happened; and the picture made of it."""

from __future__ import annotations

import json
import os
import sys

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megaphi.engine.reporting.loss_plot import plot_losses
from megaphi.engine.reporting.metrics import MetricsLog, TensorBoard, read_metrics
from megaphi.errors import InputError
from megaphi.log import logger, progress_bar


def open_metrics(folder, *, after=0):
    return MetricsLog(
        folder, after=after, boards={"tensorboard": lambda: TensorBoard(folder / "tensorboard", after=after)}
    )


def write(folder, steps, *, after, loss=1.0):
    log = open_metrics(folder, after=after)
    for step in steps:
        log.add({"step": step, "loss": loss / step})
    log.close()


def test_a_resumed_run_records_each_step_once(tmp_path):
    write(tmp_path, range(1, 8), after=0)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # the crash
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 8))
    write(tmp_path, range(6, 11), after=5, loss=60.0)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 11))
    assert [record["loss"] for record in records[4:6]] == [0.2, 10.0]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")][4:6] == [(5, pytest.approx(0.2)), (6, 10.0)]


@pytest.mark.parametrize(
    "line",
    [
        *(
            "oops",
            '{"step": true}',
            '{"loss": 1.0}',
            '{"step": 2, "loss": "1"}',
            '{"step": 2, "validation_loss": null}',
        ),
        *('{"step": 2, "validation_loss/web": [1]}', '{"step": 2, "loss": 1%s}' % ("0" * 400)),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: not valid JSON"):
        read_metrics(tmp_path / "metrics.jsonl")
    assert read_metrics(tmp_path / "nothing.jsonl") == []


def test_records_are_on_disk_before_the_next_step(tmp_path):
    log = open_metrics(tmp_path)
    log.add({"step": 1, "loss": 2.5})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 2.5}
    log.close()


def test_the_picture_shows_something(tmp_path):
    records = [{"step": step, "loss": 10 / step} for step in range(1, 50)]
    records[-1]["validation_loss"] = 0.3
    plot_losses(records, tmp_path / "loss.png", title="test", marks={"unigram": 6.4})
    image = Image.open(tmp_path / "loss.png")
    assert image.size == (1_080, 600)
    colors = image.convert("RGB").getcolors(1 << 20)
    assert colors is not None
    assert len(colors) > 50


def test_lines_that_a_full_disk_refuses_wait_in_memory(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logger, "error", lambda *words: said.append(words))
    log = open_metrics(tmp_path)
    log.add({"step": 1, "loss": 3.0})
    disk = log._file
    with open("/dev/full", "ab", buffering=0) as full:
        log._file = full
        log.add({"step": 2, "loss": 2.0})
        log.add({"step": 3, "loss": 1.0})
        with pytest.raises(InputError, match="no space left on the device"):
            log.close()
    assert len([words for words in said if "its lines are kept in memory" in words[0]]) == 1
    log._file = disk
    log.add({"step": 4, "loss": 0.5})
    log.close()
    assert [record["step"] for record in read_metrics(log.path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("broken", ["import", "write"])
def test_a_board_that_does_not_work_costs_the_board(tmp_path, monkeypatch, broken):
    if broken == "import":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = open_metrics(tmp_path)
    if broken == "write":
        monkeypatch.setattr(TensorBoard, "add", lambda *_: 1 / 0)
    log.add({"step": 1, "loss": 3.0})
    log.add({"step": 2, "loss": 2.0})
    log.close()
    assert [record["step"] for record in read_metrics(log.path)] == [1, 2]


def test_nobody_needs_to_watch_a_progress_bar(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w")  # noqa: SIM115 (closing it fails, as it should)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=3, unit="step", label="train") as bar:
        for _ in range(3):
            bar.update()
            bar.refresh()
    with pytest.raises(BrokenPipeError):
        stream.close()
