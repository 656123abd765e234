"""Fine-tuning as a user runs it: files in, epochs, held-out loss, a stop in the middle of an epoch, other data."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megaphi.engine.run_config import RunConfig, check
from megaphi.errors import InputError
from megaphi.stages.finetune import Finetune
from megaphi.stages.prefer import Prefer
from tests.engine.layout_runs import contents
from tests.gloo_world import run_in_world
from tests.stages.stage_runs import dpo_run, in_layout, sft_run, stage_here, write_conversations


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conversations")
    write_conversations(folder / "train.jsonl", 60, seed=1)
    write_conversations(folder / "held_out.jsonl", 11, seed=2)
    return folder


def go(run: RunConfig, processes: int = 1) -> dict[str, Any]:
    return run_in_world(stage_here, run, processes=processes)[0]


def test_epochs_become_steps_and_the_loss_falls(data: Path, tmp_path: Path) -> None:
    found = go(sft_run(tmp_path / "run", data, epochs=2.5, every=8))
    assert found["message"] is None
    (rows,) = [line for line in found["log"] if line.startswith("conversations: 60 units in ")]
    per_epoch = int(rows.split(" in ")[1].split(" rows")[0])
    records = found["records"]
    assert len(records) == math.ceil(2.5 * per_epoch / 4)
    held_out = [record["validation_loss"] for record in records if "validation_loss" in record]
    assert held_out[-1] < held_out[0] < math.log(363) + 0.5
    assert records[-1]["tokens"] == len(records) * 4 * 48


def test_a_run_that_is_stopped_within_an_epoch_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole = sft_run(tmp_path / "whole", data, steps=9)
    halves = sft_run(tmp_path / "halves", data, steps=9)
    assert go(whole)["message"] is None
    for stop in (4, None):
        assert go(replace(halves, training=replace(halves.training, stop_after=stop)))["message"] is None
    folders = [Path(run.folder) / "checkpoints" / "step_00000009" for run in (whole, halves)]
    assert contents(folders[0]) == contents(folders[1])


def test_every_layout_has_the_same_losses(data: Path, tmp_path: Path) -> None:
    """Held-out files that do not fill the micro-batches of two replicas, too; each has the loss that it has alone."""
    write_conversations(tmp_path / "other.jsonl", 4, seed=3)
    talk = [{"role": "user", "content": "sun"}, {"role": "assistant", "content": "sea " * 60}]
    (tmp_path / "long.jsonl").write_text(json.dumps({"messages": talk}) + "\n")

    def run(name: str, *held_out: Path) -> RunConfig:
        made = sft_run(tmp_path / name, data, steps=6, every=3)
        assert isinstance(made.task, Finetune)
        return replace(made, task=replace(made.task, validation_paths=tuple(map(str, held_out))))

    files = (data / "held_out.jsonl", tmp_path / "other.jsonl", tmp_path / "long.jsonl")
    found = go(run("one", *files))
    assert any("no held-out rows of long:" in line for line in found["log"])
    one, alone = found["records"], go(run("alone", files[0]))["records"]
    losses = ["validation_loss", "validation_loss/held_out", "validation_loss/other"]
    assert [name for name in one[-1] if name.startswith("validation_")] == losses
    for left, right in zip(one, alone, strict=True):
        assert left["loss"] == right["loss"]
        assert left.get(losses[1]) == right.get("validation_loss") == right.get(losses[1])
    for name, ways in {
        "cut": {"tensor": 2, "sequence_parallel": True, "data": 2},
        "interleaved": {"pipeline": 2, "virtual_pipeline": 2},
    }.items():
        cut = in_layout(run(name, *files), **ways)
        other = go(cut, processes=4 if name == "cut" else 2)["records"]
        for left, right in zip(one, other, strict=True):
            for key in ("loss", *losses):
                assert left.get(key, 0.0) == pytest.approx(right.get(key, 0.0), rel=2e-6)


def test_other_conversations_do_not_continue_a_run(data: Path, tmp_path: Path) -> None:
    run = sft_run(tmp_path / "run", data, steps=6)
    assert go(replace(run, training=replace(run.training, stop_after=2)))["message"] is None
    write_conversations(tmp_path / "train.jsonl", 60, seed=5)
    write_conversations(tmp_path / "held_out.jsonl", 5, seed=5)
    other = sft_run(tmp_path / "run", tmp_path, steps=6)
    assert "was trained on other conversations" in go(other)["message"]
    assert go(replace(other, start=replace(other.start, accept_changed_data=True)))["message"] is None


def test_another_batch_or_more_epochs_do_not_skip_rows_or_raise_the_rate_in_silence(data: Path, tmp_path: Path) -> None:
    run = sft_run(tmp_path / "run", data, epochs=1.5)
    steps = len(go(run)["records"])
    more = go(replace(run, training=replace(run.training, epochs=3.0)))["message"]
    assert "the learning rate would jump from 0.0001 to 0.000" in more
    assert f"training.steps from {steps} to" in more
    halves = sft_run(tmp_path / "halves", data, steps=9)
    assert go(replace(halves, training=replace(halves.training, stop_after=4)))["message"] is None
    wider = replace(halves, batch=replace(halves.batch, global_batch=8))
    assert "had taken 16 rows after 4 steps, which are not of batch.global_batch=8" in go(wider)["message"]
    accepted = replace(
        wider, start=replace(wider.start, accept_changed_data=True), training=replace(wider.training, stop_after=6)
    )
    assert go(accepted)["message"] is None
    last = go(wider)  # the second time nothing has changed any more
    assert last["message"] is None
    assert last["records"][-1]["tokens"] == (4 * 4 + 5 * 8) * 48


def test_conversations_that_do_not_fit_are_counted_or_refused(data: Path, tmp_path: Path) -> None:
    lines = (data / "train.jsonl").read_text() + '{"prompt": "sun", "response": "' + "the sea " * 60 + '"}\n'
    (tmp_path / "train.jsonl").write_text(lines)
    write_conversations(tmp_path / "held_out.jsonl", 5, seed=5)
    run = sft_run(tmp_path / "run", tmp_path, steps=4)
    found = go(run)
    assert any("1 left out: longer than the sequence length of 48 tokens" in line for line in found["log"])
    assert isinstance(run.task, Finetune)
    strict = replace(run, task=replace(run.task, too_long="error"))
    assert "train.jsonl:61: " in go(strict)["message"]
    (tmp_path / "train.jsonl").write_text(lines + '{"prompt": "sun", "response": ""}\n')
    assert "train.jsonl:62: " in go(run)["message"]


def test_fields_that_do_not_go_together(data: Path, tmp_path: Path) -> None:
    run = sft_run(tmp_path / "run", data, steps=4)
    pairs = dpo_run(tmp_path / "run", data, tmp_path, steps=4)
    assert isinstance(pairs.task, Prefer)
    wrong = {
        "give one of them": replace(run, training=replace(run.training, steps=0)),
        "set one of them to 0": replace(run, training=replace(run.training, epochs=1.0)),
        "sequence_length=48 cannot be cut into two chunks": in_layout(run, context=5),
        "packed rows need model.kernels=fused": replace(run, model=replace(run.model, kernels="reference")),
        "for mixtures: conversations and pairs": replace(
            run, start=replace(run.start, continue_sources=True, initial_checkpoint="x")
        ),
        "task.beta=0.0: must be above 0": replace(pairs, task=replace(pairs.task, beta=0.0)),
        "needs task.loss=sigmoid": replace(pairs, task=replace(pairs.task, loss="ipo", label_smoothing=0.1)),
    }
    for message, changed in wrong.items():
        with pytest.raises(InputError, match=message):
            check(changed, world_size=changed.layout.model_ranks)
