"""A half-installed Transformer Engine or Apex is reported; it ends no program that imports Megatron."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from megaphi.parallel.optional_packages import ABSENT, problem_with
from tests.test_house import ROOT

EMPTY = 'raise RuntimeError("Found empty meta package installed.\\nReinstall it.")\n'
OTHER_PROJECT = "import nothing_of_this_name\n"  # what PyPI's package `apex` is: somebody else's


def run_beside(folder, *words):
    """`python -m megaphi WORDS` where the packages in `folder` are installed."""
    return subprocess.run(
        [sys.executable, "-m", "megaphi", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=False,
    )


@pytest.fixture
def broken(tmp_path):
    for package, source in (("transformer_engine", EMPTY), ("apex", OTHER_PROJECT)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(source)
    return tmp_path


def test_what_is_absent_is_called_absent():
    assert problem_with("no_package_of_this_name") == ABSENT
    assert problem_with("json") is None


def test_doctor_names_what_is_broken_and_megatron_is_not_bothered(broken):
    done = run_beside(broken, "doctor", "quickstart_pretrain")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "transformer-engine is installed but broken (RuntimeError: Found empty meta package installed.)" in done.stdout
    )
    assert "apex               is installed but broken (ModuleNotFoundError: No module named" in done.stdout
    assert "this machine can train" in done.stdout


def test_a_run_that_asks_for_it_is_refused_with_the_reason(broken, tmp_path):
    fields = ("model.kernels=transformer_engine", "layout.tensor=1", f"folder={tmp_path}/run")
    done = run_beside(broken, "train", "quickstart_pretrain", *fields)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Transformer Engine is installed but broken (RuntimeError: Found empty" in done.stderr
    assert "use model.kernels=fused" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
