"""`megaphi train` with an evaluation that cannot be: refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaphi.cli import main


@pytest.mark.parametrize("how", [("layout.tensor=1",), ("--processes", "2"), ("--dry-run",)])
def test_a_task_that_is_none_is_refused_before_the_run(
    how: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = ("evaluation.every=5", "evaluation.tasks=exam_bose", "evaluation.data=pool.json")
    assert main(["train", "quickstart_pretrain", f"folder={tmp_path / 'run'}", *fields, *how]) == 2
    assert "there is no task 'exam_bose'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
