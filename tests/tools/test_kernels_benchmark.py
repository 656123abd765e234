"""benchmarks/kernels.py: what fails costs itself, and every row is written as soon as it is measured."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import kernels
from benchmarks.operators import Problem, Setting, build

QUICK = ["--quick", "--device", "cpu", "--write"]


def test_a_peer_or_an_operator_that_fails_is_named_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(operator: str, setting: Setting) -> Problem:
        if operator == "rotary":
            raise torch.OutOfMemoryError("no room")
        problem = build(operator, setting)
        if operator == "swiglu":
            eager = problem.contenders["eager"]
            problem.contenders["eager"] = dataclasses.replace(eager, call=lambda x: eager.call(x) * 2)
        return problem

    monkeypatch.setattr(kernels, "build", broken)
    results = tmp_path / "kernels.csv"
    with pytest.raises(SystemExit) as ended:
        kernels.main([*QUICK, "--results", str(results), "--operators", "rotary", "swiglu", "rms_norm"])
    first, second = str(ended.value.code).splitlines()
    assert first == "rotary, TP 1, float32, megaphi: OutOfMemoryError: no room"
    assert second.startswith("swiglu, TP 1, float32, eager: ArithmeticError: result 0 differs by 1 of its norm")
    with results.open(newline="") as file:
        rows = [(row["operator"], row["pass"], row["eager_ratio"] != "") for row in csv.DictReader(file)]
    passes = ("forward", "forward+backward")
    assert rows == [("swiglu", one, False) for one in passes] + [("rms_norm", one, True) for one in passes]
