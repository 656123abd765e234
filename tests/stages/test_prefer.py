"""Preference optimisation as a user runs it: a reference computed once, a first loss of ln 2, pairs that are learnt."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megaphi.engine.run_config import RunConfig
from megaphi.stages.prefer import Prefer
from tests.conversion.random_models import random_folder
from tests.gloo_world import run_in_world
from tests.stages.packed_runs import SHAPE
from tests.stages.stage_runs import dpo_run, in_layout, stage_here, with_sections, write_pairs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefer") / "model"
    random_folder(folder, SHAPE, scale=0.1)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "pairs.jsonl", 120, seed=1)
    write_pairs(folder / "pairs_held_out.jsonl", 30, seed=2)
    write_pairs(folder / "others.held_out.jsonl", 13, seed=3)
    return folder


def go(run: RunConfig, processes: int = 1) -> dict[str, Any]:
    return run_in_world(stage_here, run, processes=processes)[0]


def computed(found: dict[str, Any]) -> tuple[int, int]:
    """(pairs computed, pairs looked up) of the reference."""
    (line,) = [line for line in found["log"] if line.endswith("looked up")]
    return int(line.split()[2]), int(line.split()[5])


LAYOUTS = {
    "1": {},
    "TP2+SP": {"tensor": 2, "sequence_parallel": True},
    "PP2xVPP2": {"pipeline": 2, "virtual_pipeline": 2},
    "TP2xPP2": {"tensor": 2, "pipeline": 2},
    "DP2": {"data": 2},
}


def test_every_layout_starts_at_ln_2_and_learns_the_same(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    curves = {}
    for name, ways in LAYOUTS.items():
        # Interleaved schedules take micro-batches in pairs.
        run = in_layout(dpo_run(tmp_path / name, data, checkpoint, steps=12, every=4), **ways)
        assert isinstance(run.task, Prefer)
        held_out = (*run.task.validation_paths, str(data / "others.held_out.jsonl"))
        run = replace(run, task=replace(run.task, validation_paths=held_out))
        processes = math.prod(value for key, value in ways.items() if key in ("tensor", "pipeline", "data"))
        found = go(run, processes=processes)
        assert found["message"] is None
        assert computed(found) == (163, 0)
        curves[name] = found["records"]
    first, *others = curves.values()
    assert first[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first[0]["margin"] == pytest.approx(0, abs=1e-6)
    assert first[-1]["validation_accuracy/pairs_held_out"] > 0.8
    assert first[-1]["validation_loss"] < math.log(2) - 0.001
    for name in ("loss", "accuracy", "margin"):
        each = [first[-1][f"validation_{name}/{source}"] for source in ("pairs_held_out", "others")]
        assert len(set(each)) == 2
        assert 30 * each[0] + 13 * each[1] == pytest.approx(43 * first[-1][f"validation_{name}"])
    for records in others:
        for left, right in zip(first, records, strict=True):
            assert left["loss"] == pytest.approx(right["loss"], abs=2e-6)
            names, others_names = ({key for key in one if not key.startswith("seconds/")} for one in (left, right))
            assert names == others_names  # which phases there are depends on the layout
            for key in {"margin", "accepted_log_probability", *(key for key in left if key.startswith("validation_"))}:
                assert left.get(key, 0.0) == pytest.approx(right.get(key, 0.0), rel=1e-4, abs=1e-5), key


def test_the_reference_is_computed_once(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Looked up after a restart and under another layout; a part that is lost is computed again, and nothing else."""
    reference = tmp_path / "reference"
    run = dpo_run(tmp_path / "first", data, checkpoint, reference=reference, steps=6)
    assert computed(go(replace(run, training=replace(run.training, stop_after=2)))) == (150, 0)
    resumed = go(run)
    assert resumed["message"] is None
    assert computed(resumed) == (0, 150)
    assert [record["step"] for record in resumed["records"]] == list(range(1, 7))
    other = in_layout(dpo_run(tmp_path / "other", data, checkpoint, reference=reference, steps=4), tensor=2)
    assert computed(go(other, processes=2)) == (0, 150)
    (folder,) = reference.iterdir()
    (part,) = folder.glob("part_*.json")
    known = json.loads(part.read_text())
    part.write_text(json.dumps(dict(list(known.items())[:100])))
    again = go(dpo_run(tmp_path / "again", data, checkpoint, reference=reference, steps=4))
    assert again["message"] is None
    missing, found = computed(again)
    assert 50 <= missing < 90
    assert missing + found == 150
    repaired = {
        name: values for path in folder.glob("part_*.json") for name, values in json.loads(path.read_text()).items()
    }
    assert repaired.keys() == known.keys()
    for name, values in known.items():
        assert repaired[name] == pytest.approx(values, abs=1e-5)


def test_one_bit_of_one_weight_is_another_reference(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    go(dpo_run(tmp_path / "first", data, checkpoint, reference=reference, steps=3))
    changed = tmp_path / "model"
    changed.mkdir()
    for path in checkpoint.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    tensors = load_file(changed / "model.safetensors")
    bits = tensors["model.layers.2.mlp.down_proj.weight"].view(torch.int32)
    bits[7, 11] ^= 1
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    assert computed(go(dpo_run(tmp_path / "second", data, changed, reference=reference, steps=3))) == (150, 0)
    assert len(list(reference.iterdir())) == 2


def test_a_wrong_reference_stops_the_run(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Numbers that are not those of the starting weights: the first loss gives them away, and nothing is saved."""
    reference = tmp_path / "reference"
    go(dpo_run(tmp_path / "first", data, checkpoint, reference=reference, steps=3))
    (path,) = reference.glob("*/part_*.json")
    known = json.loads(path.read_text())
    path.write_text(json.dumps({name: [chosen + 0.5, rejected] for name, (chosen, rejected) in known.items()}))
    found = go(dpo_run(tmp_path / "second", data, checkpoint, reference=reference, steps=3))
    assert "the first preference loss is " in found["message"]
    assert "not 0.693147" in found["message"]
    assert not list((tmp_path / "second" / "checkpoints").iterdir())
    path.write_text('{"abc": [1.0]}')
    assert (
        "has no two log-probabilities"
        in go(dpo_run(tmp_path / "third", data, checkpoint, reference=reference, steps=3))["message"]
    )


@pytest.mark.parametrize(("rules", "first"), [({"loss": "ipo", "beta": 0.5}, 1.0), ({"sft_weight": 0.5}, None)])
def test_other_losses(rules: dict[str, Any], first: float | None, data: Path, checkpoint: Path, tmp_path: Path) -> None:
    run = dpo_run(tmp_path / "run", data, checkpoint, steps=4)
    assert isinstance(run.task, Prefer)
    found = go(replace(run, task=replace(run.task, **rules)))
    assert found["message"] is None
    record = found["records"][0]
    assert record["preference_loss"] == pytest.approx(first or math.log(2), abs=1e-5)
    extra = record["loss"] - record["preference_loss"]
    assert (extra > 1) == (first is None)  # the cross-entropy of the chosen side


def loads_of(run: RunConfig) -> int:
    """Number of times that a rank loads initial weights into the model."""
    import megaphi.engine.start.resume as start

    loaded: list[str] = []
    load = start.load_weights

    def counted(model: Any, reader: Any) -> None:
        loaded.append(str(reader.folder))
        load(model, reader)

    start.load_weights = counted
    try:
        assert stage_here(run)["message"] is None
    finally:
        start.load_weights = load
    return len(loaded)


def test_initial_weights_are_loaded_once(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """For the reference, and the training begins with them; a run that goes on needs them for the reference's name."""
    run = dpo_run(tmp_path / "run", data, checkpoint, steps=3)
    assert run_in_world(loads_of, with_sections(run, stop_after=2), processes=1) == [1]
    assert run_in_world(loads_of, run, processes=1) == [1]
