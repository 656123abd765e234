"""The recipe `web_pages`, whole, on pages that the web has: a copy, a leak, another language, a stub, an API page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megaphi.curation.pipeline.run import curate
from megaphi.curation.recipe import override_curation
from megaphi.recipes.curation import CURATIONS, load_curation
from tests.curation.pipeline.conftest import records_of

PAGES = Path(__file__).parent / "extract" / "data"
LEAK = "Write a function that returns the indices of two numbers in a list whose sum is the target, in any order."
BEES = (
    "Bees are insects that live in large groups, and they share the work of the hive between them. Some of them look "
    "for flowers, and others feed the young. When a bee has found a good meadow, she comes back and dances. The dance "
    "says how far the meadow is, and in which direction the others have to fly. It took many years until somebody "
    "understood this, and many people did not believe it at first. Today there are films of it."
)
TREES = (
    "An old tree is more than wood. Its roots hold the soil of the slope, and its crown keeps the rain from washing it "
    "away. In the bark there are beetles, and with them the birds that eat beetles. Foresters used to cut such trees "
    "first, because they take the light from the young ones. Today some of them are left standing, with a number on "
    "a small plate, and nobody may touch them. What falls down stays where it has fallen."
)


def html(*paragraphs: str) -> bytes:
    inside = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return f"<html><head><title>Page</title></head><body><main><h1>Bees</h1>{inside}</main></body></html>".encode()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(documents, rejected) of a run."""
    home = tmp_path_factory.mktemp("web")
    pages, benchmarks = home / "pages", home / "benchmarks"
    pages.mkdir()
    benchmarks.mkdir()
    (benchmarks / "leaked.jsonl").write_text(json.dumps({"id": "sum", "question": LEAK}) + "\n")
    sentences = [f"{sentence}." for sentence in BEES.rstrip(".").split(". ")]
    code = "This is the whole code:</p><pre>while flowers:\n    fly()</pre><p>"
    bees = html(*sentences, code, "Write to ann@kelp.net.")
    for name, content in {
        "a_bees.html": bees,
        "b_copy.html": bees,
        "c_leak.html": html(TREES, LEAK),
        "d_greek.html": html("Αυτή είναι μια σελίδα στα ελληνικά για τις μέλισσες και τα λουλούδια τους. " * 12),
        "e_short.html": html("Nothing to see here, but a few words."),
        "f_bisect.html": (PAGES / "python_bisect.html").read_bytes(),
    }.items():
        (pages / name).write_bytes(content)
    chosen = [f"read.paths={pages}", f"steps.decontaminate.benchmarks.0.path={benchmarks}", f"folder={home / 'run'}"]
    curate(override_curation(load_curation("web_pages"), chosen), show_progress=False)
    return records_of(home / "run" / "documents"), records_of(home / "run" / "rejected")


def test_what_is_left_and_why(finished: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    documents, rejected = finished
    assert [Path(document["source"]).name for document in documents] == ["a_bees.html"]
    assert {Path(record["source"]).name: (record["step"], record["reason"]) for record in rejected} == {
        "b_copy.html": ("exact_duplicates", "exact_duplicate"),
        "c_leak.html": ("decontaminate", "contaminated"),
        "d_greek.html": ("identify_language", "language"),
        "e_short.html": ("gopher_quality", "too_few_words"),
        "f_bisect.html": ("gopher_repetition", "repeated_ngrams"),  # it says the same of four functions
    }
    assert len(rejected) == 5


def test_code_is_kept_and_personal_data_is_masked(
    finished: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    [bees] = finished[0]
    assert "while flowers:\n    fly()" in bees["text"]
    assert "[EMAIL]" in bees["text"]
    assert "ann@" not in bees["text"]
    assert bees["history"][0] == "extract"


@pytest.mark.parametrize("name", sorted(CURATIONS))
def test_every_recipe_is_one(name: str) -> None:
    assert load_curation(name).recipe == name
