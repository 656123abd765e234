"""The stages train on what the verbs write, as it is: fine-tuning, pairs of five tokens, judged pairs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megaphi.data.batch import BatchShape
from megaphi.engine.run_config import RunConfig
from megaphi.pivotal.preference.hallucination_report import write_hallucination
from megaphi.pivotal.preference.judge_report import write_judged
from megaphi.stages.finetune import Finetune
from megaphi.stages.prefer import Prefer
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.conversion.random_models import random_folder
from tests.gloo_world import run_in_world
from tests.pivotal.preference.test_hallucination import SETTINGS, made
from tests.pivotal.preference.test_judge_and_best import by_quality, run
from tests.stages.packed_runs import SHAPE
from tests.stages.stage_runs import base, stage_here


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    write_hallucination(folder, made(), SETTINGS, load_tokenizer(SHAPE.vocabulary))
    write_judged(folder / "judged", *run(by_quality))
    random_folder(folder / "model", SHAPE, scale=0.1)
    return folder


def trained(data: Path, task: Finetune | Prefer, folder: Path) -> dict[str, Any]:
    batch = BatchShape(sequence_length=192, global_batch=2, micro_batch=1)
    made: RunConfig = replace(base(folder, data / "model", steps=3), batch=batch)
    made = replace(made, task=task, tokenizer=replace(made.tokenizer, path="phi4"))
    return run_in_world(stage_here, made, processes=1)[0]


def test_fine_tuning_takes_the_records(data: Path, tmp_path: Path) -> None:
    found = trained(data, Finetune(paths=(str(data / "sft.jsonl"),), validation_paths=()), tmp_path)
    assert found["message"] is None
    assert any(line.startswith("conversations: 9 units in ") for line in found["log"])
    assert len(found["records"]) == 3


@pytest.mark.parametrize(("name", "pairs"), [("dpo.jsonl", 6), ("judged/pairs.jsonl", 5)])
def test_preferences_take_the_pairs(name: str, pairs: int, data: Path, tmp_path: Path) -> None:
    found = trained(data, Prefer(paths=(str(data / name),), validation_paths=()), tmp_path)
    assert found["message"] is None
    assert any(f"reference: {pairs} computed" in line or f" {pairs} pairs" in line for line in found["log"]), found[
        "log"
    ]
    assert found["records"][0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert found["records"][-1]["loss"] != found["records"][0]["loss"]
