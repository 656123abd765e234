"""The recipes through the pipeline, with a scripted model: what comes out, and what a dry run and a second run say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megaphi.cli import main
from megaphi.curation.pipeline.run import curate
from megaphi.curation.recipe import check_curation, override_curation
from megaphi.curation.report.funnel import funnel_of
from megaphi.curation.synthesize.steps.synthesize import Synthesize
from megaphi.curation.synthesize.table.kinds_file import read_kinds
from megaphi.recipes.curation import CURATIONS, load_curation
from tests.curation.synthesize.fluent import BOOK, PROGRAM, fluent
from tests.curation.synthesize.scripted import Scripted

ROOT = Path(__file__).parents[3]
KINDS = {
    "synthetic_problems": {"word_problems", "exam_choice"},  # every seed was chosen for its facts
    "synthetic_textbooks": {"textbook_section", "exercise_set", "comparison_table", "faq"},
    "synthetic_code": {
        "code_task",
        "reversed_specification",
        "reversed_user_story",
        "middle_function",
        "output_prediction",
    },
}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    pages = tmp_path / "pages.jsonl"
    pages.write_text("".join(json.dumps({"id": f"p{number}", "text": BOOK * 2}) + "\n" for number in range(3)))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "vowels.py").write_text(PROGRAM)
    return {"synthetic_code": str(tmp_path / "code")} | dict.fromkeys(
        ("synthetic_problems", "synthetic_textbooks"), str(pages)
    )


def documents(folder: Path) -> list[dict[str, Any]]:
    import zstandard

    lines: list[str] = []
    for path in sorted((folder / "documents").glob("*.jsonl*")):
        content = path.read_bytes()
        if path.suffix == ".zst":
            content = zstandard.ZstdDecompressor().stream_reader(content).read()
        lines += content.decode().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", [name for name in CURATIONS if name.startswith("synthetic_")])
def test_a_recipe_of_synthetic_data_runs_and_a_second_run_asks_nothing(
    inputs: dict[str, str], tmp_path: Path, name: str
) -> None:
    curation = override_curation(load_curation(name), [f"read.paths={inputs[name]}"])
    curation = replace(curation, folder=str(tmp_path / "run"))
    sampler = Scripted(fluent, token_bytes=16)
    summary = curate(curation, open_sampler=lambda place: sampler, show_progress=False)
    made = [one for one in documents(tmp_path / "run") if "synthetic" in one["metadata"]]
    assert made
    assert {one["metadata"]["synthetic"]["kind"] for one in made} == KINDS[name]
    titles = [one.name for one in funnel_of(summary.plan).steps]
    assert KINDS[name] <= {title.rpartition(": ")[2] for title in titles if title.startswith("synthesize")}
    reasons = {reason for one in summary.counts for reason in one.rejected}
    assert "error" not in reasons
    assert sampler.prompts
    asked = len(sampler.prompts)
    for folder in ("documents", "stages"):
        (tmp_path / "run" / folder).rename(tmp_path / folder)
    curate(curation, open_sampler=lambda place: sampler, show_progress=False)
    assert len(sampler.prompts) == asked
    assert [one for one in documents(tmp_path / "run") if "synthetic" in one["metadata"]] == made


def test_a_dry_run_says_what_models_may_cost(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = [f"read.paths={inputs['synthetic_problems']}", "steps.select_seeds.prompt_price=2.5"]
    arguments = ["curate", "synthetic_problems", *fields, "--output", str(tmp_path / "run"), "--dry-run"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "requests to models, at most (a token for every byte):" in said
    assert "  seeds: at most 3 documents, " in said
    assert "in money; it stops at its budget of 10,000,000 tokens" in said
    assert "  exam_choice: at most" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["texts", "code"])
def test_the_example_for_small_models_has_a_row_for_each_of_its_kinds(name: str) -> None:
    curation = check_curation(load_curation(f"{ROOT}/examples/small_model/recipe.py:{name}"))
    steps = [step for step in curation.steps if isinstance(step, Synthesize)]
    ours = read_kinds(Path(steps[0].table) / "kinds.toml")
    assert {step.kind for step in steps} <= set(ours)
    assert [step.keep_seeds for step in steps] == [True] * (len(steps) - 1) + [False]


def test_the_functions_of_the_example_do_what_they_say() -> None:
    import doctest

    from examples.small_model import functions

    found = doctest.testmod(functions)
    assert (found.failed, found.attempted) == (0, 36)
