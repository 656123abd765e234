"""The example of docs/grading.md runs, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import runpy
from pathlib import Path

import pytest

from tests.test_documentation import blocks
from tests.test_house import ROOT

PAGE = ROOT / "docs/grading.md"


def test_the_example_prints_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,), (questions,), (printed,) = (blocks(PAGE, language) for language in ("python", "json", "text"))
    (tmp_path / "grade.py").write_text(program)
    (tmp_path / "questions.jsonl").write_text(questions)
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path("grade.py")
    assert said.getvalue() == printed
    assert (tmp_path / "disputes.jsonl").read_text().count("\n") == 1
