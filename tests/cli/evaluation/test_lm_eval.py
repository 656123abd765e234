"""`megaphi lm-eval`: a task of one's own on a checkpoint in two layouts, and what is refused before anything runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from megaphi.cli import main
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.conversion.random_models import SHAPES, random_folder
from tests.warm_megaphi import run_megaphi

TASK = """
task: letters_here
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: ["A", "B"]
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model and a task."""
    folder = tmp_path_factory.mktemp("lm_eval")
    random_folder(folder / "model", SHAPES["3 heads per group"], scale=0.4)
    export_tokenizer(load_tokenizer(352), folder / "model", model_max_length=64)
    (folder / "tasks").mkdir()
    lines = [json.dumps({"question": f"is {number} even", "answer": number % 2}) + "\n" for number in range(6)]
    (folder / "items.jsonl").write_text("".join(lines))
    (folder / "tasks/letters_here.yaml").write_text(TASK.format(data=folder / "items.jsonl"))
    return folder


def words_of(place: Path, output: Path, *more: object) -> list[object]:
    given = ["lm-eval", place / "model", "--tasks", "letters_here", "--include-path", place / "tasks"]
    return [*given, "--output", output, *more]


def test_a_task_of_ones_own_in_two_layouts(place: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    one = run_megaphi(*words_of(place, tmp_path / "one"), env=environment)
    assert one.returncode == 0, one.stderr
    assert "letters_here" in one.stdout
    two = run_megaphi(*words_of(place, tmp_path / "two", "--tensor", 2), env=environment)
    assert two.returncode == 0, two.stderr
    found = [
        [json.loads(line) for line in (tmp_path / name / "samples_letters_here.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(found[0]) == 6
    for sample, other in zip(*found, strict=True):
        ours, theirs = ([float(value[0][0]) for value in each["resps"]] for each in (sample, other))
        assert ours == pytest.approx(theirs, abs=1e-4)
    results = json.loads((tmp_path / "one/results.json").read_text())
    assert results["truncated_contexts"] == 0
    assert 0 <= results["results"]["letters_here"]["acc,none"] <= 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--tasks", "letter_here"), "lm-eval has no task 'letter_here'. Did you mean 'letters_here'?"),
        (("--limit", "0"), "--limit 0: must be at least 1"),
        (("--shots", "-1"), "--shots -1: must be at least 0"),
        (("--output", "."), "--output . exists already"),
    ],
)
def test_bad_input(
    place: Path, tmp_path: Path, changed: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(word) for word in words_of(place, tmp_path / "output")]
    assert main([*words, *changed]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "output").exists()


def test_a_server_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lm-eval", "http://127.0.0.1:1/v1=m", "--tasks", "arc_easy", "--output", str(tmp_path / "output")]
    assert main(words) == 2
    assert "name a checkpoint" in capsys.readouterr().err
