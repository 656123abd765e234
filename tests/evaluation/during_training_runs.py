"""Ranks of the test of evaluation during training, and `megaphi evaluate` on the checkpoints that they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import EvaluationPasses


def stages_here(runs: list[RunConfig]) -> list[dict[str, Any]]:
    """One run after the other on this rank, as `stage_here` gives them."""
    from tests.stages.stage_runs import stage_here

    return [stage_here(run) for run in runs]


def resumed_by_command(folder: str) -> list[dict[str, Any]]:
    """The metrics of a run that `megaphi train` has continued to its end."""
    from megaphi.cli import main
    from megaphi.engine.reporting.metrics import read_metrics

    assert main(["train", f"{folder}/config.json", "training.stop_after=null"]) == 0
    return read_metrics(Path(folder) / "metrics.jsonl")


def evaluated_offline(checkpoint: Path, section: EvaluationPasses, output: Path) -> dict[str, float]:
    """Scores that `megaphi evaluate` finds, by the names that metrics show."""
    from statistics import fmean

    from megaphi.cli import main
    from megaphi.evaluation.result_files import read_evaluation

    files = ["--manifest", str(section.data), "--output", str(output)]
    assert main(["evaluate", str(checkpoint), "--tasks", ",".join(section.tasks), *files]) == 0
    return {
        f"evaluation/{task}/{name}": fmean(one.scores[name] for one in result.responses)
        for task, result in read_evaluation(output).tasks.items()
        for name in result.scores
    }
