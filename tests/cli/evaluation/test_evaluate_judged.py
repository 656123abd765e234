"""`megaphi evaluate` with scripted models: a judge, generated items, a judging that was ended, silence, programs.

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
from megaphi.evaluation.tasks import find_task
from megaphi.generation.local_sampler import LocalSampler
from megaphi.grading.code_sandbox import isolation
from tests.pivotal.preference.scripted import ScriptedGenerator, tokenizer

MODEL, JUDGE = "http://127.0.0.1:9/v1=model", "http://127.0.0.1:9/v1=judge"
RIGHT, CLEAR = ({"name": name, "points": 4, "earns": f"4: {name}. 0: not."} for name in ("right", "clear"))
ARENA = {"question_id": "a", "prompt": "Hello", "baseline": "Hi"}
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


PROGRAMS = {
    "humaneval": {"task_id": "H/0", "prompt": "def one():\n", "test": "assert one() == 1", "entry_point": "one"},
    "mbpp": {"task_id": 1, "text": "One.", "code": "def one():\n    return 1", "test_list": ["assert one() == 1"]},
}


@pytest.fixture
def programs(tmp_path: Path) -> list[str]:
    """The command that evaluates a server's model on both kinds of programs."""
    for name, record in PROGRAMS.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    assert main(["evaluate", "--write-manifest", str(tmp_path)]) == 0
    return ["evaluate", MODEL, "--manifest", str(tmp_path / "manifest.json"), "--output", str(tmp_path / "out")]


@pytest.mark.parametrize("task", PROGRAMS)
def test_the_isolation_of_programs_is_told_before_anything_is_asked(
    task: str, programs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(evaluation_run, "_evaluate", lambda *_: 0)
    monkeypatch.setattr(isolation.shutil, "which", lambda _: None)
    assert main([*programs, "--tasks", task, "--unsafe"]) == 0
    assert "isolation of the model's programs: none" in capsys.readouterr().err


@pytest.mark.parametrize("task", PROGRAMS)
def test_programs_that_nothing_isolates_are_refused_before_a_model_is_opened(
    task: str, programs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(evaluation_run, "with_samplers", lambda *_: pytest.fail("a model was opened"))
    monkeypatch.setattr(isolation.shutil, "which", lambda _: None)
    assert main([*programs, "--tasks", task]) == 2
    assert "no isolation for programs of strangers: bwrap is not installed" in capsys.readouterr().err


def add_data(folder: Path, **records: Any) -> None:
    """Add a file with one record for each task to the manifest of `go`."""
    for task, record in records.items():
        (folder / f"data/{task}.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "data/manifest.json").unlink()
    assert main(["evaluate", "--write-manifest", str(folder / "data")]) == 0


def test_a_dry_run_counts_the_requests_to_the_judge(go: Any, tmp_path: Path, capsys: Any) -> None:
    """SimpleQA has three switches of grading, each graded once more; the games of one answer are two, or four."""
    add_data(tmp_path, math={"problem": "1 + 1?", "answer": "2"}, arena_hard=ARENA)
    tasks = ("--tasks", "simpleqa,math,arena_hard")
    code, _ = go(*tasks, "--judge", JUDGE, "--protocol", "corrected", "--dry-run")
    assert code == 0
    said = capsys.readouterr().out
    judge = f"{JUDGE} judges"
    assert f"{judge} simpleqa: at most 5 requests to grade, and at most 15 for the ledger of quirks" in said
    assert f"{judge} math: at most 0 requests to grade, and at most 10 for the ledger of quirks" in said
    assert f"{judge} arena_hard: at most 4 requests to grade, and at most 8 for the ledger of quirks" in said
    assert "is not used" not in said


def test_a_dry_run_says_that_a_judge_is_not_used(go: Any, capsys: Any) -> None:
    code, _ = go("--tasks", "recall", "--lengths", "1024", "--limit", "1", "--judge", JUDGE, "--dry-run")
    assert code == 0
    assert f"--judge {JUDGE} is not used: no task named here asks a judge" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "record", "asked", "ledger"),
    [
        # The four requests about an answer, and four in another wording; the other switch asks what was asked before.
        ("arena_hard", ARENA, 8, 2),
        ("guided", {"question": "Why?", "reference": "So.", "guide": [RIGHT, CLEAR]}, 6, 0),
    ],
)
def test_no_task_asks_its_judge_more_often_than_it_says(
    go: Any, tmp_path: Path, task: str, record: dict[str, Any], asked: int, ledger: int
) -> None:
    """A judge that never gives a verdict is asked most."""
    add_data(tmp_path, **{task: record})
    words = ("--tasks", task, "--judge", JUDGE, "--protocol", "corrected")
    code, opened = go(*words, model=lambda *_: "Hello", judge=lambda *_: "Well.")
    assert code == 0
    assert opened.asked.count("judge") == asked
    each = find_task(task).judge_requests(frozenset())
    assert each <= asked <= each * (1 + ledger)
