"""KTO, as a fork adds it in one file (`examples/kto.py`): unpaired answers, and a statistic of the whole batch."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import examples.kto
from examples.kto import Kto, read_answers
from megaphi.cli import main
from megaphi.config import override, to_plain
from megaphi.engine.run_config import RunConfig, check
from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from megaphi.recipes import load_recipe
from tests.conversion.random_models import attentive_folder, in_transformers
from tests.gloo_world import run_in_world
from tests.stages.kto_runs import OBJECTIVE, a_kto_step, judged_answers
from tests.stages.packed_runs import LAYOUTS, SHAPE, difference, gradients, processes_of
from tests.stages.stage_runs import base, stage_here
from tests.stages.test_packed_training import side_log_probabilities, their_gradients


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attentive_folder(tmp_path_factory.mktemp("kto") / "model", SHAPE)


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> Any:
    return in_transformers(checkpoint)


def plain_kto(model: Any, chosen: slice) -> tuple[Tensor, float]:
    """(loss, z0) by the paper's equations 7 and 8, two passes for each answer, nothing packed."""
    answers, reference_N2 = judged_answers()
    ratios_N2 = torch.stack(
        [
            torch.stack(
                [
                    side_log_probabilities(model, answer.prompt, side) - reference
                    for side, reference in zip((answer.chosen, answer.rejected), references, strict=True)
                ]
            )
            for answer, references in zip(answers[chosen], reference_N2[chosen], strict=True)
        ]
    )
    z0 = max(0.0, ratios_N2[:, 1].mean().item())
    losses = []
    for answer, ratio in zip(answers[chosen], ratios_N2[:, 0], strict=True):
        if answer.liked:
            losses.append(OBJECTIVE.liked_weight * (1 - torch.sigmoid(OBJECTIVE.beta * (ratio - z0))))
        else:
            losses.append(OBJECTIVE.disliked_weight * (1 - torch.sigmoid(OBJECTIVE.beta * (z0 - ratio))))
    return torch.stack(losses).mean(), z0


@pytest.fixture(scope="module")
def expected(theirs: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of all answers as one batch, whose z0 is far from that of a part of it."""
    loss, z0 = plain_kto(theirs, slice(None))
    assert z0 > 1
    assert abs(plain_kto(theirs, slice(4))[1] - z0) > 0.1
    return loss.item(), their_gradients(theirs, loss)


@pytest.mark.parametrize("name", ["1", "TP2+SP", "PP2", "DP2", "CP2"])
def test_a_step_is_what_plain_pytorch_computes(
    name: str, checkpoint: Path, expected: tuple[float, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    layout = LAYOUTS[name]
    found = run_in_world(a_kto_step, str(tmp_path), str(checkpoint), layout, processes=processes_of(layout))
    loss, slopes = expected
    assert found == [pytest.approx(loss, rel=1e-5)] * len(found)
    assert difference(gradients(tmp_path), slopes) < 1e-5


def kto_run(folder: Path, data: Path, checkpoint: Path, **fields: Any) -> RunConfig:
    task = Kto(paths=(str(data / "judged.jsonl"),), validation_paths=(str(data / "held_out.jsonl"),), beta=0.5)
    run = replace(base(folder, checkpoint, steps=6, **fields), task=task)
    return replace(run, optimizer=replace(run.optimizer, learning_rate=5e-3))


def write_judged(path: Path, count: int, *, seed: int) -> None:
    """Token ids of short answers, of which those of low numbers are liked."""
    draw = Random(seed)
    lines = []
    for _ in range(count):
        liked = draw.random() < 0.6
        first = 0 if liked else 20
        record = {"prompt": draw.choices(range(300), k=draw.randint(2, 9)), "label": liked}
        lines.append(json.dumps({**record, "completion": draw.choices(range(first, first + 9), k=draw.randint(1, 5))}))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    write_judged(folder / "judged.jsonl", 90, seed=1)
    write_judged(folder / "held_out.jsonl", 11, seed=2)
    return folder


def go(run: RunConfig, processes: int = 1) -> list[dict[str, Any]]:
    found = run_in_world(stage_here, run, processes=processes)[0]
    assert found["message"] is None
    return found["records"]


def measured(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    names = ("loss", "z0", "reward", "gradient_norm", "validation_loss", "validation_z0")
    return [{name: record[name] for name in names if name in record} for record in records]


def test_a_run_learns_stops_and_goes_on_exactly(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    whole = go(kto_run(tmp_path / "whole", data, checkpoint))
    assert whole[0]["loss"] == pytest.approx(0.5, abs=1e-6)  # the model is its reference still
    assert whole[0]["z0"] == 0 != whole[-1]["z0"]
    assert whole[-1]["validation_loss"] < 0.495
    go(kto_run(tmp_path / "parts", data, checkpoint, stop_after=3))
    resumed = go(kto_run(tmp_path / "parts", data, checkpoint))
    assert measured(resumed) == measured(whole)
    replicas = go(replace(kto_run(tmp_path / "replicas", data, checkpoint), layout=ParallelLayout(data=2)), 2)
    for left, right in zip(measured(replicas), measured(whole), strict=True):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-5)


def test_the_task_is_found_again_by_the_file_that_the_configuration_names(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    run = kto_run(tmp_path / "run", data, checkpoint)
    plain = json.loads(json.dumps(to_plain(run)))
    kind = plain["task"]["kind"]
    assert re.fullmatch(r"/.*/examples/kto\.py:Kto@[0-9a-f]{16}", kind)
    own = tmp_path / "mine.py"
    shutil.copy(examples.kto.__file__, own)
    name = f"{own}:Kto@{kind.rpartition('@')[2]}"
    (tmp_path / "config.json").write_text(json.dumps({**plain, "task": {**plain["task"], "kind": name}}))
    again = override(load_recipe(str(tmp_path / "config.json")), ["task.beta=0.25"])
    assert to_plain(again)["task"] == {**plain["task"], "kind": name, "beta": 0.25}
    check(again, world_size=1)
    own.write_text(own.read_text() + "# changed\n")
    with pytest.raises(InputError, match=r"mine\.py is not the file that this run was trained with"):
        load_recipe(str(tmp_path / "config.json"))
    with pytest.raises(InputError, match=r"The task of this run is .*mine\.py:Kto@.*; 'mixture' is for Pretrain\."):
        override(again, ["task.mixture.order=keyed"])


def test_answers_are_read_with_mismatched_ones_that_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows of 48: of a mismatched answer the beginning that fits; what is too long by itself is counted."""
    records = [([1] * 40, [2] * 7, True), ([3] * 5, [4] * 9, False), ([3] * 5, [5], True), ([6] * 40, [7] * 9, True)]
    lines = [json.dumps({"prompt": p, "completion": c, "label": liked}) for p, c, liked in records]
    (tmp_path / "judged.jsonl").write_text("\n".join(lines) + "\n")
    with caplog.at_level("INFO", logger="megaphi"):
        answers, kept_of = read_answers([str(tmp_path / "judged.jsonl")], None, base(tmp_path, None))
    assert list(kept_of.values()) == [3]
    assert "1 left out: longer than the sequence length of 48 tokens" in caplog.text
    found = [(answer.rejected.tolist(), answer.liked) for answer in answers]
    assert found == [([4], True), ([2] * 7, False), ([2] * 7, True)]
    assert replace(answers[0], liked=False).content_hash != answers[0].content_hash
    (tmp_path / "judged.jsonl").write_text(lines[1] + "\n" + lines[2] + "\n")
    with pytest.raises(InputError, match="all answers are to one prompt"):
        read_answers([str(tmp_path / "judged.jsonl")], None, base(tmp_path, None))


def test_a_recipe_in_the_same_file_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"{examples.kto.__file__}:quickstart_kto", "--dry-run", "task.liked_weight=1.5"]) == 0
    assert "task.liked_weight                    1.5" in capsys.readouterr().out
