"""`megaphi evaluate` with scripted models: a judge, generated items, a judging that was ended, a silent model.

Samplers are our own `LocalSampler`, so that journals are the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from megaphi.cli import main
from megaphi.cli.evaluation import evaluation_run
from megaphi.errors import InputError, RunFailed
from megaphi.evaluation.result_files import read_evaluation
from megaphi.evaluation.results import Evaluation
from megaphi.generation.local_sampler import LocalSampler
from tests.pivotal.preference.scripted import ScriptedGenerator, tokenizer

MODEL, JUDGE = "http://127.0.0.1:9/v1=model", "http://127.0.0.1:9/v1=judge"
FACTS = [
    {"problem": f"What is the capital of country {number}?", "answer": f"Town {number}", "metadata": "{}"}
    for number in range(5)
]
Say = Callable[[str, int], str]


class Opened:
    """In the place of `OpenSamplers`."""

    def __init__(self, say: dict[str, Say]) -> None:
        self._say, self._open = say, ExitStack()
        self.asked: list[str] = []

    def open(self, place: Any, *, journal: Any) -> LocalSampler:
        name = place.model

        def say(prompt: str, sample: int) -> str:
            self.asked.append(name)
            return self._say[name](prompt, sample)

        generators = [ScriptedGenerator(say)]
        return self._open.enter_context(
            LocalSampler(generators, tokenizer(), name=name, identity=name, journal=journal)
        )

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, Opened]]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/simpleqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in FACTS))
    assert main(["evaluate", "--write-manifest", str(tmp_path / "data")]) == 0

    def run(*words: str, **say: Say) -> tuple[int, Opened]:
        opened = Opened(say)
        monkeypatch.setattr(evaluation_run, "with_samplers", lambda arguments, places, work: work(opened))
        given = ["evaluate", MODEL, "--manifest", str(tmp_path / "data/manifest.json")]
        try:
            return main([*given, "--output", str(tmp_path / "out"), *words]), opened
        finally:
            opened.close()

    return run


JUDGED = ("--tasks", "simpleqa", "--judge", JUDGE)


def town(prompt: str, _: int) -> str:
    return f"Town {prompt.split('country ')[1][0]}"


def verdict(prompt: str, _: int) -> str:
    return "Nonsense without end, as if it had been told what to say." if "country 3" in prompt else "A"


def result(folder: Path) -> Evaluation:
    return read_evaluation(folder / "out")


def test_a_judge_that_talks_nonsense_costs_one_response_and_is_counted(go: Any, tmp_path: Path) -> None:
    code, opened = go(*JUDGED, "--protocol", "corrected", model=town, judge=verdict)
    assert code == 0
    assert opened.asked.index("judge") == opened.asked.count("model") == 5  # the model answers everything first
    found = result(tmp_path)
    problems = [one.problem for one in found.tasks["simpleqa"].responses]
    assert problems == ["", "", "", "judge failed", ""]
    assert found.judge == JUDGE
    assert "judge failed" in (tmp_path / "out/report.md").read_text()


def test_a_run_that_was_ended_in_the_judging_goes_on_there(go: Any, tmp_path: Path, capsys: Any) -> None:
    def gone(prompt: str, _: int) -> str:
        if "country 4" in prompt:
            raise RunFailed("given up after 6 attempts: TimeoutError")
        return "A"

    code, _ = go(*JUDGED, model=town, judge=gone)
    assert code == 1
    lines = capsys.readouterr().err.splitlines()  # a thread logs the failure too, where pytest has closed its stream
    (said,) = (line for line in lines if line.startswith("megaphi: "))
    assert "answers are kept in" in said
    assert not (tmp_path / "out").exists()
    code, second = go(*JUDGED, model=town, judge=verdict)
    assert code == 0
    assert "model" not in second.asked
    wrote = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    code, third = go(*JUDGED, model=town, judge=verdict)
    assert (code, third.asked) == (0, [])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == wrote


def test_an_empty_answer_is_graded_and_a_model_that_refuses_everything_is_not(
    go: Any, tmp_path: Path, capsys: Any
) -> None:
    def refuses(*_: Any) -> str:
        raise InputError("status 404: there is no such model")

    code, _ = go(*JUDGED, model=refuses, judge=verdict)
    assert code == 2
    assert "answered none of 5 prompts. The first: status 404" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    code, _ = go(*JUDGED, model=lambda *_: "", judge=lambda *_: "C")
    assert code == 0
    assert {one.text for one in result(tmp_path).tasks["simpleqa"].responses} == {""}


def test_generated_items_need_no_file_and_those_that_do_not_fit_are_counted(go: Any, tmp_path: Path) -> None:
    """The scripted model has a context of 16,384 tokens."""
    words = ("--tasks", "recall", "--lengths", "1024,32768", "--limit", "2", "--protocol", "corrected")
    code, _ = go(*words, model=lambda *_: "I do not know")
    assert code == 0
    found = result(tmp_path).tasks["recall"]
    assert [one.group for one in found.responses] == ["1024"] * 2 + ["32768"] * 2
    assert [one.problem == "not answered" for one in found.responses] == [False] * 2 + [True] * 2
    assert found.files == ()
