"""`megaphi pivotal search` against a real server of the small model: results, resuming, and every wrong input."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from megaphi.cli import main
from megaphi.errors import RunFailed
from megaphi.grading.question import Question
from megaphi.grading.verdict import Verdict, right, wrong
from tests.generation.server.served import served, tokenizer
from tests.pivotal.small_generator import SmallGenerator
from tests.pivotal.small_world import is_right

QUESTIONS = 2
FEW = ["--most-rollouts", "24", "--confirm", "12", "--max-tokens", "6", "--lowest-rate", "0.1", "--highest-rate", "0.9"]


class EvenGrader:
    """In the place of the real one: an answer is right if the sum of its tokens is even."""

    def __init__(self, **_: Any) -> None:
        self.fails_after: int | None = None

    def __enter__(self) -> EvenGrader:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def grade(self, items: Sequence[tuple[Question, str]]) -> list[Verdict]:
        return [right("even") if is_right(tokenizer().encode(text)) else wrong("odd") for _, text in items]


class FailingGrader(EvenGrader):
    """An oracle that throws."""

    def grade(self, items: Sequence[tuple[Question, str]]) -> list[Verdict]:
        raise RunFailed("the sandbox does not hold")


@pytest.fixture(autouse=True)
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megaphi.grading.grader.Grader", EvenGrader)


@pytest.fixture
def server() -> Iterator[str]:
    with served(SmallGenerator()) as (url, _):  # pyright: ignore[reportArgumentType]
        yield f"{url}/v1=tiny"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return written(tmp_path / "questions.jsonl", *range(QUESTIONS))


def written(path: Path, *numbers: int) -> Path:
    lines = [{"id": f"q{number}", "prompt": f"question {number}", "math_answer": "2"} for number in numbers]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def search(questions: Path, sampler: str, output: Path, *words: str) -> int:
    return main(["pivotal", "search", str(questions), "--sampler", sampler, "--output", str(output), *FEW, *words])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_search_writes_all_its_files_and_the_same_again_without_paying(
    questions: Path, server: str, tmp_path: Path
) -> None:
    assert search(questions, server, tmp_path / "out") == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {
        "rollouts.jsonl",
        "pivotal_tokens.jsonl",
        "pairs.jsonl",
        "values.jsonl",
        "events.jsonl",
        "questions.jsonl",
        "undecided.jsonl",
        "report.md",
        "page.html",
    }
    assert [one["question"] for one in lines(tmp_path / "out" / "questions.jsonl")] == ["q0", "q1"]
    assert search(questions, server, tmp_path / "out") == 0
    again = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert again.keys() == files.keys()
    assert all(again[name] == files[name] for name in files if name != "report.md")
    assert "| rollouts generated | 0 |" in again["report.md"].decode()


def test_another_gap_goes_on_from_the_same_store_and_other_rules_are_refused(
    questions: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(questions, server, tmp_path / "out") == 0
    first = len(lines(tmp_path / "out" / "rollouts.jsonl"))
    assert search(questions, server, tmp_path / "out", "--gap", "0.1", "--answers", "2") == 0
    report = (tmp_path / "out" / "report.md").read_text()
    stored = next(int(line.split("|")[2]) for line in report.splitlines() if "rollouts from the store" in line)
    assert stored > 0
    assert len(lines(tmp_path / "out" / "rollouts.jsonl")) > first
    assert search(questions, server, tmp_path / "out", "--seed", "9") == 2
    assert "are of another search (rules: " in capsys.readouterr().err


def test_a_server_without_usable_probabilities_is_bisected_and_that_is_said(
    questions: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(questions, server, tmp_path / "out", "--temperature", "0.8", "--rollouts", "20") == 0
    said = capsys.readouterr().err
    assert "so this search bisects: a server tells probabilities at temperature 1 only" in said
    assert "probabilit" in (tmp_path / "out" / "report.md").read_text()  # the method's own note


def test_success_rates_alone(questions: Path, server: str, tmp_path: Path) -> None:
    assert search(questions, server, tmp_path / "out", "--answers", "0", "--first-rollouts", "5") == 0
    assert [sum(one["first"].values()) for one in lines(tmp_path / "out" / "questions.jsonl")] == [5] * QUESTIONS
    assert (tmp_path / "out" / "pairs.jsonl").read_bytes() == b""


def test_a_dry_run_says_what_is_asked_at_most_and_asks_nothing(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(questions, "http://127.0.0.1:9/v1=gone", tmp_path / "out", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "2 questions (2 MathAnswer)" in said
    assert "32 rollouts" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature", "0"], "--temperature 0: every rollout from one prefix would be the same"),
        (["--top-p", "0"], "top_p=0.0: must be above 0"),
        (["--gap", "1.5"], "gap=1.5: must lie between 0 and 1"),
        (["--level", "0"], "--level 0.0: must lie between 0 and 1"),
        (["--margin", "1"], "--margin 1.0: must lie between 0 and 1"),
        (["--answers", "20"], "answers=20: must lie between 0 and first_rollouts (16)"),
        (["--lowest-rate", "0.9", "--highest-rate", "0.5"], "highest_rate=0.5: must be at least lowest_rate"),
        (["--in-flight", "0"], "--in-flight 0: must be at least 1"),
        (["--most-rollouts", "0"], "most_rollouts=0: must be at least 1"),
        (["--doubt", "0.7"], "doubt=0.7: must be above 0 and below 0.5"),
        (["--method", "bisection"], "--most-rollouts is for backward: --method bisection does not use it"),
        (["--max-tokens", "0"], "max_tokens=0: must be at least 1"),
    ],
)
def test_a_wrong_option_is_one_error_before_anything_is_asked(
    words: list[str], message: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(questions, "http://127.0.0.1:9/v1=gone", tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "prompt": "x"}\n', "line 1: "),
        (
            '{"id": "a", "prompt": "x", "math_answer": "1"}\n{"id": "a", "prompt": "y", "math_answer": "1"}\n',
            "line 2: ",
        ),
        ("", "questions.jsonl"),
    ],
)
def test_questions_that_cannot_be_searched_are_named(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(content)
    assert search(path, "http://127.0.0.1:9/v1=gone", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_oracle_that_throws_ends_the_search_and_nothing_paid_is_lost(
    questions: Path,
    server: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("megaphi.grading.grader.Grader", FailingGrader)
    assert search(questions, server, tmp_path / "out") == 1
    assert "the sandbox does not hold" in capsys.readouterr().err
    paid = sum("tokens" in line for line in lines(tmp_path / "out" / "rollouts.jsonl"))
    assert paid >= 1
    monkeypatch.setattr("megaphi.grading.grader.Grader", EvenGrader)
    assert search(questions, server, tmp_path / "out") == 0
    report = (tmp_path / "out" / "report.md").read_text()
    stored = next(int(line.split("|")[2]) for line in report.splitlines() if "rollouts from the store" in line)
    assert stored >= paid


def test_a_full_disk_is_one_error_and_the_search_goes_on_when_there_is_room(
    questions: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, limits[1]))
        assert search(questions, server, tmp_path / "out") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "rollouts.jsonl: the file is larger than this process may write" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rollouts.jsonl"]
    assert lines(tmp_path / "out" / "rollouts.jsonl")
    assert search(questions, server, tmp_path / "out") == 0


def test_programs_without_isolation_are_refused_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no bwrap
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "a", "prompt": "x", "tests": "assert f(1) == 2", "entry_point": "f"}\n')
    assert search(path, "http://127.0.0.1:9/v1=gone", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "no isolation for programs of strangers: bwrap is not installed" in said
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_gone_is_one_error(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megaphi.generation.client.endpoint._pause", lambda *_: None)
    assert search(questions, "http://127.0.0.1:9/v1=gone", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9/v1/completions" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
