"""Resampled traces in the shape of math-rollouts: what each sentence changed, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megaphi.errors import InputError
from megaphi.pivotal.interchange.math_rollouts import read_resampled
from megaphi.pivotal.methods.findings import Counts

SENTENCES = ["First, x = 2. ", "So 2x = 4. ", "The answer is 4."]


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))


def problem(folder: Path, outcomes: list[list[bool | None]], *, is_labelled: bool = False) -> Path:
    write(folder, "problem.json", {"problem": "What is 2x?", "level": "Level 1", "gt_answer": "4"})
    write(folder, "base_solution.json", {"prompt": "…", "solution": "…", "answer": "4", "is_correct": True})
    if is_labelled:
        labelled = [{"chunk": text, "chunk_idx": n, "function_tags": ["x"]} for n, text in enumerate(SENTENCES)]
        write(folder, "chunks_labeled.json", labelled)
    else:
        write(folder, "chunks.json", {"solution_text": "…", "chunks": SENTENCES})
    for number, found in enumerate(outcomes):
        rollouts = [{"chunk_removed": SENTENCES[number], "rollout": "…", "is_correct": one} for one in found]
        write(folder, f"chunk_{number}/solutions.json", [*rollouts, {"error": "timeout"}])
    return folder


@pytest.mark.parametrize("is_labelled", [False, True])
def test_a_sentences_effect_is_the_difference_between_the_rollouts_on_both_its_sides(
    is_labelled: bool, tmp_path: Path
) -> None:
    outcomes = [[True] * 20 + [False] * 30, [True] * 45 + [False] * 5, [True] * 40 + [None] * 10]
    problem(tmp_path / "problem_12", outcomes, is_labelled=is_labelled)
    problem(tmp_path / "problem_3", [[True], [], [False]], is_labelled=is_labelled)
    third, twelfth = read_resampled(tmp_path)
    assert (third.problem, twelfth.problem) == ("problem_3", "problem_12")
    assert twelfth.question == "What is 2x?"
    assert twelfth.prefix(2) == SENTENCES[0] + SENTENCES[1]
    first, second, last = twelfth.sentences
    assert first.before == Counts(20, 30)
    assert first.after == second.before == Counts(45, 5)
    assert first.effect is not None
    assert first.effect.estimate == pytest.approx(0.5)
    # Newcombe's interval (1998, method 10) from Wilson's of both shares, 0.7864 to 0.9565 and 0.2761 to 0.5382.
    assert first.effect.low == pytest.approx(0.5 - ((0.9 - 0.7864) ** 2 + (0.5382 - 0.4) ** 2) ** 0.5, abs=2e-4)
    assert first.effect.high == pytest.approx(0.5 + ((0.9565 - 0.9) ** 2 + (0.4 - 0.2761) ** 2) ** 0.5, abs=2e-4)
    assert second.after == Counts(40, 0, 10)
    assert last.after == Counts(1, 0)
    assert last.effect is not None
    assert last.effect.estimate == pytest.approx(1 - 0.9)  # ten of fifty are unknown: the middle of 0.8 and 1
    assert third.sentences[0].effect is None
    assert third.sentences[1].effect is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("base_solution.json", {"is_correct": "yes"}, r"base_solution\.json: is_correct='yes': expected true or false"),
        ("base_solution.json", [1], r"is not an object"),
        ("chunks.json", {"chunks": ["a", 3]}, r"chunks\.json: chunks: expected a list of texts"),
        ("chunk_1/solutions.json", {"a": 1}, r"chunk_1/solutions\.json: expected a list of rollouts"),
        ("chunk_1/solutions.json", [{"is_correct": 3}], r"rollout 0: is_correct=3: expected true, false or null"),
        ("chunk_1/solutions.json", ["text"], r"rollout 0: is_correct=0: expected true, false or null"),
    ],
)
def test_a_damaged_file_is_one_error_with_file_and_field(name: str, value: Any, message: str, tmp_path: Path) -> None:
    folder = problem(tmp_path / "problem_1", [[True], [True], [True]])
    write(folder, name, value)
    with pytest.raises(InputError, match=message):
        read_resampled(tmp_path)


def test_a_folder_without_problems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        read_resampled(tmp_path / "none")
    with pytest.raises(InputError, match="expected problem_<number> folders"):
        read_resampled(tmp_path)
