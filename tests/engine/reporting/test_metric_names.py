"""The schema of metrics.jsonl against the records of real runs of each task, and against docs/monitoring.md.

`python -m tests.engine.reporting.test_metric_names` rewrites the table of docs/monitoring.md.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from megaphi.config import override
from megaphi.engine.reporting.metric_names import METRICS, Metric, check_objective_names, metric_of, problems_of
from megaphi.engine.reporting.step_times import StepTimes
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import ValidationPasses
from megaphi.errors import InputError
from megaphi.stages.preference import PreferenceObjective
from megaphi.stages.pretrain import Pretrain, mixture_of
from tests.conversion.random_models import random_folder
from tests.gloo_world import run_in_world
from tests.stages.killed_runs import killed_run
from tests.stages.packed_runs import SHAPE
from tests.stages.stage_runs import dpo_run, sft_run, stage_here, write_conversations, write_pairs

DOCUMENT = Path(__file__).parents[3] / "docs" / "monitoring.md"
BEFORE, AFTER = "<!-- table of megaphi/engine/reporting/metric_names.py -->\n", "<!-- end of the table -->\n"
OBJECTIVE = """
from megaphi.engine.objective import NextToken

class Named(NextToken):
    names = ("entropy",)

    def forward(self, batch, chunk, device):
        output, loss = super().forward(batch, chunk, device)
        def named(*arguments):
            total, count, report = loss(*arguments)
            sums = report["sums"]
            return total, count, {**report, "sums": sums.new_tensor([*sums.tolist(), 1.0])}
        return output, named
"""


def pretraining(folder: Path) -> RunConfig:
    """One source with validation, six steps in two ranks, a save after every third."""
    from megaphi.parallel.layout import ParallelLayout

    run = killed_run(folder, layout=ParallelLayout(data=2), asynchronous=False, bf16=False)
    (source,) = mixture_of(run).sources
    mixture = replace(mixture_of(run), sources=(replace(source, validation_paths=source.paths),))
    training = replace(run.training, steps=6)
    return replace(
        run, task=Pretrain(mixture=mixture), training=training, validation=ValidationPasses(every=2, samples=4)
    )


def stages(runs: list[RunConfig]) -> list[dict[str, Any]]:
    return [stage_here(run) for run in runs]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A pretraining run of two ranks, and its records."""
    folder = tmp_path_factory.mktemp("pretraining")
    (found, _) = run_in_world(stage_here, pretraining(folder), processes=2)
    assert found["message"] is None
    return folder / "run", found["records"]


def test_pretraining_writes_what_the_schema_says(pretrained: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, records = pretrained
    assert [problems_of(record) for record in records] == [[]] * 6
    saved = [record for record in records if "tokens/text" in record]
    assert [record["step"] for record in saved] == [3, 6]
    assert all(record["tokens/text"] == record["tokens"] == 32 * record["samples"] for record in saved)
    assert [record["step"] for record in records if "validation_loss/text" in record] == [2, 4, 6]
    assert "mfu" not in records[-1]
    for record in records:
        assert record["tokens_per_second_per_device"] == pytest.approx(record["tokens_per_second"] / 2, rel=1e-3)
        assert record["host_memory_bytes"] > 100_000_000
    in_steps = [json.loads(line) for line in (folder / "steps" / "rank_00000.jsonl").read_text().splitlines()[1:]]
    for phase in ("data", "forward_backward", "optimizer", "exchange", "validation"):
        sums = [sum(line.get(name, 0.0) for line in lines) for name, lines in _both(phase, records, in_steps)]
        assert sums[0] == pytest.approx(sums[1], abs=1e-4), phase
    assert "seconds/save" in records[3]
    assert "seconds/save" not in records[2]


def _both(phase: str, records: list[Any], in_steps: list[Any]) -> list[tuple[str, list[Any]]]:
    return [(f"seconds/{phase}", records), (phase, in_steps)]


def test_post_training_and_an_objective_of_ones_own_do_too(tmp_path: Path) -> None:
    random_folder(tmp_path / "model", SHAPE, scale=0.1)
    (tmp_path / "own.py").write_text(OBJECTIVE)
    for name, count in (("train", 24), ("held_out", 5)):
        write_conversations(tmp_path / f"{name}.jsonl", count, seed=count)
    for name, count in (("pairs", 24), ("pairs_held_out", 6)):
        write_pairs(tmp_path / f"{name}.jsonl", count, seed=count)
    tuned = sft_run(tmp_path / "sft", tmp_path, steps=3)
    own = override(replace(tuned, folder=str(tmp_path / "own")), [f"task.objective={tmp_path / 'own.py'}:Named"])
    preferred = dpo_run(tmp_path / "dpo", tmp_path, tmp_path / "model", steps=3)
    results = run_in_world(partial(stages, [tuned, own, preferred]), processes=1)[0]
    for found, names in zip(results, ((), ("entropy",), PreferenceObjective().names), strict=True):
        assert found["message"] is None
        for record in found["records"]:
            assert problems_of(record, objective=names) == []
            assert {*names} <= record.keys()


def test_what_the_schema_does_not_have_is_found() -> None:
    record = {metric.name: 1 for metric in METRICS if metric.when == "every step" and "/" not in metric.name}
    assert problems_of(record) == []
    assert problems_of({**record, "validation_loss/a b/c": 1.0, "tokens/loss": 5, "seconds/save": 0.5}) == []
    assert problems_of({**record, "speed": 1.0}) == ["speed is not in the schema"]
    assert problems_of({**record, "speed": 1.0, "validation_speed/web": 1.0}, objective=["speed"]) == []
    assert problems_of({**record, "tokens": 1.5, "loss": "1", "seconds": True}) == [
        "loss is '1'",
        "tokens is 1.5",
        "seconds is True",
    ]
    del record["loss"]
    assert problems_of(record) == ["loss is missing"]


@pytest.mark.parametrize(
    "name", ["loss", "seconds", "mfu", "validation_x", "tokens/web", "a/b", "evaluation_seconds", ""]
)
def test_an_objective_cannot_take_a_name_of_the_schema(name: str) -> None:
    with pytest.raises(InputError, match="the objective reports a mean"):
        check_objective_names(["margin", name])
    check_objective_names(["margin", "z0", "reward.chosen"])


def test_a_name_is_one_metric() -> None:
    for metric in METRICS:
        assert metric_of(metric.name) is metric


def test_phases_of_records_and_of_steps_add_up_to_the_same(tmp_path: Path) -> None:
    with StepTimes(tmp_path, rank=0, place="") as times:
        first = times.since_last_record({"data": 1.0, "optimizer": 2.0})
        times.add(1, {"save": 4.0, "optimizer": 0.5})
        second = times.since_last_record({"data": 8.0})
        times.add(2, {})
    assert first == {"seconds/data": 1.0, "seconds/optimizer": 2.0}
    assert second == {"seconds/save": 4.0, "seconds/optimizer": 0.5, "seconds/data": 8.0}
    lines = (tmp_path / "steps" / "rank_00000.jsonl").read_text().splitlines()[1:]
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "data": 1.0, "optimizer": 2.5, "save": 4.0},
        {"step": 2, "data": 8.0},
    ]


def table() -> str:
    """The rows of docs/monitoring.md."""

    def row(metric: Metric) -> str:
        return f"| `{metric.name}` | {metric.unit} | {metric.meaning} | {metric.when} |\n"

    return "| name | unit | meaning | when |\n|---|---|---|---|\n" + "".join(map(row, METRICS))


def test_the_document_has_the_table() -> None:
    assert DOCUMENT.read_text().partition(BEFORE)[2].partition(AFTER)[0] == table()


if __name__ == "__main__":
    before, _, rest = DOCUMENT.read_text().partition(BEFORE)
    DOCUMENT.write_text(before + BEFORE + table() + AFTER + rest.partition(AFTER)[2])
