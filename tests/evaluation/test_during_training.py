"""Evaluation during training: the scores of the checkpoint of that step, and a run that is the same without it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from megaphi.checkpoint.format import CheckpointReader
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.reporting.metric_names import problems_of
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import NumericPrecision, RunConfig, check
from megaphi.engine.run_sections import EvaluationPasses, TrainingLength
from megaphi.errors import InputError
from megaphi.evaluation.data_files import make_manifest
from megaphi.evaluation.during_training import plan_of
from megaphi.evaluation.tasks import all_tasks
from megaphi.evaluation.tasks.multiple_choice.likelihood import LikelihoodTask
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.pretrain import Pretrain
from tests.engine.layout_runs import TINY, tiny_run
from tests.evaluation.during_training_runs import evaluated_offline, resumed_by_command, stages_here
from tests.gloo_world import run_in_world
from tests.stages.test_mixture_changes import VOCABULARY, write_tokens

WORDS = "sun moon river sea east west stone tree".split()
TASKS = ("exam_base", "exam_base_letters")
ITEMS = 14
CURVES = ("step", "loss", "gradient_norm", "tokens")
LAYOUT = ParallelLayout(pipeline=2, virtual_pipeline=2, context=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Six updates, with a checkpoint after the third and the last; the last question does not fit its sequences."""
    folder = tmp_path_factory.mktemp("during_training")
    write_tokens(folder / "tokens", 3_000)
    draw = Random(3)
    records = [
        {"question": " ".join(draw.choices(WORDS, k=5)), "choices": draw.sample(WORDS, 4), "answer": draw.randrange(4)}
        for _ in range(ITEMS)
    ]
    records[-1]["question"] = " ".join(draw.choices(WORDS, k=60))
    benchmarks = folder / "benchmarks"
    benchmarks.mkdir()
    for task in TASKS:
        (benchmarks / f"{task}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    manifest = make_manifest(benchmarks, TASKS)
    return tiny_run(
        training=TrainingLength(steps=6),
        optimizer=Optimizer(learning_rate=0.1, warmup_steps=1),
        task=Pretrain(mixture=Mixture(sources=(Source(name="text", weight=1.0, paths=(str(folder / "tokens"),)),))),
        model=replace(TINY, vocabulary=VOCABULARY, initial_std=0.1),
        batch=BatchShape(sequence_length=128, global_batch=4, micro_batch=1),
        saving=Saving(every=3, keep_last=0),
        evaluation=EvaluationPasses(every=2, tasks=TASKS, data=str(manifest)),
    )


def changed(run: RunConfig, folder: Path, **fields: Any) -> RunConfig:
    return replace(run, folder=str(folder), **fields)


def test_a_run_is_the_same_to_the_bit_with_evaluation(run: RunConfig, tmp_path: Path) -> None:
    """Whole runs in one layout; `tests/engine/training/test_text_scores.py` has the others."""
    there = replace(
        run,
        layout=LAYOUT,
        precision=NumericPrecision(parameters="bfloat16"),
        evaluation=replace(run.evaluation, every=2),
    )
    runs = [
        changed(there, tmp_path / "evaluated"),
        changed(there, tmp_path / "plain", evaluation=EvaluationPasses()),
    ]
    evaluated, plain = run_in_world(stages_here, runs, processes=4)[0]
    assert evaluated["message"] is plain["message"] is None
    for one, other in zip(evaluated["records"], plain["records"], strict=True):
        assert {name: one[name] for name in CURVES} == {name: other[name] for name in CURVES}
        assert problems_of(one) == []
        assert ("evaluation/exam_base/acc" in one) == (one["step"] % 2 == 0)
        assert not any(name.startswith("evaluation") for name in other)
    for step in (3, 6):
        first, second = (
            CheckpointReader(tmp_path / name / "checkpoints" / f"step_{step:08d}") for name in ("evaluated", "plain")
        )
        assert sorted(first.tensors) == sorted(second.tensors)
        for key in first.tensors:
            assert torch.equal(first.whole(key), second.whole(key)), key


def test_scores_are_those_of_the_checkpoint_and_go_on_after_a_stop(run: RunConfig, tmp_path: Path) -> None:
    stopped = changed(run, tmp_path / "stopped", training=TrainingLength(steps=6, stop_after=3))
    whole, first = run_in_world(stages_here, [changed(run, tmp_path / "whole"), stopped], processes=1)[0]
    (second,) = run_in_world(resumed_by_command, stopped.folder, processes=1)
    assert [record["step"] for record in whole["records"] if "evaluation_seconds" in record] == [2, 4, 6]
    scores = [[value for name, value in record.items() if "/acc" in name] for record in whole["records"]]
    assert scores[1] != scores[5]
    assert first["records"] == second[:3]
    for one, other in zip(whole["records"], second, strict=True):
        assert _told(one) == _told(other)
    assert sum("1 of 14 items cannot be scored, and count as wrong" in line for line in whole["log"]) == 2

    folder = tmp_path / "whole" / "checkpoints"
    checkpoint, output = folder / "step_00000006", tmp_path / "offline"
    (offline,) = run_in_world(evaluated_offline, checkpoint, run.evaluation, output, processes=1)
    assert offline == {name: value for name, value in whole["records"][-1].items() if name.startswith("evaluation/")}
    assert len(offline) == 3


def _told(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a step's record that another run repeats."""
    return {name: value for name, value in record.items() if name in CURVES or name.startswith("evaluation/")}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": ()}, r"evaluation.every=2 needs evaluation.tasks"),
        ({"data": None}, r"evaluation.every=2 needs evaluation.data"),
        ({"tasks": ("exam_base", "exam_base")}, r"names exam_base twice"),
        ({"tasks": ("exam_bose",)}, r"there is no task 'exam_bose'.*exam_base"),
        ({"tasks": ("mmlu",)}, r"answers to mmlu are written.*arc_challenge_base.*megaphi evaluate"),
        ({"tasks": ("arc_challenge_base",)}, r"manifest.json has no files for task arc_challenge_base"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_run(run: RunConfig, fields: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(check(replace(run, evaluation=replace(run.evaluation, **fields)), world_size=1).evaluation)


def test_every_task_whose_answers_are_written_is_refused_by_its_name(run: RunConfig) -> None:
    """Generated, judged and run programs alike, also behind a task that can be scored."""
    written = [name for name, one in all_tasks().items() if not isinstance(one, LikelihoodTask)]
    assert {"gsm8k_base", "humaneval", "recall_small_base", "simpleqa", "guided", "ifeval"} <= set(written)
    for name in written:
        section = replace(run.evaluation, tasks=("exam_base", name))
        with pytest.raises(InputError, match=f"^evaluation.tasks: answers to {name} are written, and during training"):
            plan_of(section)


def test_a_wrong_file_is_refused_before_the_run(run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "exam_base.jsonl").write_text('{"question": "which?", "choices": ["a", "b"]}\n')
    section = EvaluationPasses(every=1, tasks=("exam_base",), data=str(make_manifest(tmp_path, TASKS)))
    with pytest.raises(InputError, match=r"exam_base.jsonl.*no column 'answer"):
        plan_of(section)
