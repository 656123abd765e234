"""`megaphi evaluate`: real tasks on a small model in two layouts, resumed from a journal, and what is refused first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megaphi.cli import main
from megaphi.evaluation.result_files import read_evaluation
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.conversion.random_models import SHAPES, random_folder
from tests.warm_megaphi import run_megaphi

EXAM = [
    {"question": f"What is {number} plus one?", "choices": [str(number + one) for one in (1, 2, 0, 3)], "answer": 0}
    for number in range(2, 8)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model, data of three tasks and their manifest."""
    folder = tmp_path_factory.mktemp("evaluate")
    random_folder(folder / "model", SHAPES["3 heads per group"], scale=0.4, max_position_embeddings=1_024)
    export_tokenizer(load_tokenizer(352), folder / "model", model_max_length=1_024)
    (folder / "data").mkdir()
    for task in ("exam", "exam_base"):
        (folder / f"data/{task}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in EXAM))
    (folder / "data/gsm8k.csv").write_text('question,answer\n"Two apples, one more?","2+1=3 #### 3"\nFive?,#### 5\n')
    assert main(["evaluate", "--write-manifest", str(folder / "data")]) == 0
    return folder


def words_of(place: Path, output: Path, tasks: str = "exam_base,gsm8k") -> list[Any]:
    given = ["evaluate", place / "model", "--tasks", tasks, "--manifest", place / "data/manifest.json"]
    return [*given, "--output", output, "--max-tokens", 24]


def test_results_do_not_depend_on_the_layout_or_on_where_a_run_was_ended(place: Path, tmp_path: Path) -> None:
    one = run_megaphi(*words_of(place, tmp_path / "one", "exam_base,exam"))
    assert one.returncode == 0, one.stderr
    assert "exam\\_base: acc\\_norm" in one.stdout
    first = read_evaluation(tmp_path / "one")
    assert first.identity["weights"]
    assert [len(result.responses) for result in first.tasks.values()] == [6, 6]
    assert {response.problem for response in first.tasks["exam"].responses} <= {"truncated", "no answer extracted", ""}
    assert "published-form-only" in first.tasks["exam"].quirks

    journal = (tmp_path / "one.journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half.journal.jsonl").write_text("".join(journal[: len(journal) // 2]))
    half = run_megaphi(*words_of(place, tmp_path / "half", "exam_base,exam"))
    assert half.returncode == 0, half.stderr
    assert len((tmp_path / "half.journal.jsonl").read_text().splitlines()) == len(journal)
    marks = [
        {"set": "exam", "item": one.item, "status": "clean" if number else "contaminated"}
        for number, one in enumerate(first.tasks["exam"].responses)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    replayed = ["--journal", tmp_path / "half.journal.jsonl", "--contamination", tmp_path / "items.jsonl"]
    replayed += ["--judge", place / "data"]  # no model: nothing asks it, so nothing opens it
    again = run_megaphi(*words_of(place, tmp_path / "again", "exam_base,exam"), *replayed)
    assert again.returncode == 0, again.stderr
    assert "is not used: no task named here asks a judge" in again.stdout + again.stderr
    assert read_evaluation(tmp_path / "again").judge == ""
    report = (tmp_path / "again" / "report.md").read_text()
    assert "| exam | contaminated | 1 | " in report
    assert "| exam | clean | 5 | " in report
    assert "Not scanned: exam\\_base." in report

    two = run_megaphi(*words_of(place, tmp_path / "two", "exam_base,exam"), "--tensor", 2)
    assert two.returncode == 0, two.stderr
    for task in ("exam_base", "exam"):
        assert (tmp_path / f"again/{task}.jsonl").read_bytes() == (tmp_path / f"half/{task}.jsonl").read_bytes()
        outcomes = [
            [(one.item, one.text, one.scores, one.problem) for one in read_evaluation(folder).tasks[task].responses]
            for folder in (tmp_path / "one", tmp_path / "half", tmp_path / "two")
        ]
        assert outcomes[0] == outcomes[1]
        if task == "exam_base":  # sampled answers of two layouts part where two logits tie
            assert outcomes[0] == outcomes[2]


def test_a_dry_run_opens_no_model(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "nowhere", "--tasks", "exam_base,gsm8k", "--manifest", str(place / "data/manifest.json")]
    assert main([*words, "--dry-run", "--limit", "1"]) == 0
    said = capsys.readouterr().out
    assert "exam_base: 1 items" in said
    assert "gsm8k: 1 items" in said


def test_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--list-tasks"]) == 0
    said = capsys.readouterr().out
    assert "mmlu: " in said
    assert "switch first-answer (grading): on, " in said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--tasks", "exam_bas"), "there is no task 'exam_bas'"),
        (("--tasks", "exam,exam"), "a task is named twice"),
        (("--tasks", "mmlu"), "has no files for task mmlu"),
        (("--switch", "first-anser=on"), "--switch first-anser: no task named has it. Did you mean"),
        (("--switch", "first-answer"), "write NAME=on or NAME=off"),
        (("--tasks", "simpleqa"), "is graded by a judge under these switches: name one with --judge"),
        (("--max-tokens", "0"), "--max-tokens 0: must be at least 1"),
        (("--limit", "0"), "--limit 0: must be at least 1"),
        (("--lengths", "8k"), "--lengths 8k: write numbers of tokens"),
        (("--manifest", "nowhere.json"), "nowhere.json"),
        (("--output", "."), "--output . exists already"),
        (("--wording", "{wording}"), "--wording: task exam has no template 'questoin'. Did you mean 'question'?"),
    ],
)
def test_bad_input(
    place: Path, tmp_path: Path, changed: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wording.json").write_text('{"exam": {"questoin": "x"}}')
    name, value = changed
    words = [str(word) for word in words_of(place, tmp_path / "output", "exam")]
    assert main([*words, name, value.format(wording=tmp_path / "wording.json")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "output").exists()


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate"]) == 2
    assert "MODEL is missing" in capsys.readouterr().err
