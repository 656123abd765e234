"""Synthetic data by a small model: two recipes whose rows of the table ask for less than ours do.

    megaphi serve SmolLM2-135M-Instruct.Q4_1.gguf --port 8000 --batch 128 --model-name smollm2
    megaphi curate examples/small_model/recipe.py:texts read.paths=pages/ --output runs/small_texts
    megaphi curate examples/small_model/recipe.py:code read.paths=functions.jsonl --output runs/small_code

`texts` begins with pages, `code` with functions as JSON lines, whose metadata `tests` decide about instructions.
Answers are drawn as the model's authors advise: from the tokens that make up 0.9, at a low temperature, except where
answers must differ, for the plurality filter to have something to count.
"""

from __future__ import annotations

from pathlib import Path

from megaphi.curation.extract.extract import Extract
from megaphi.curation.read.files import ReadFiles
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.recipe import Curation
from megaphi.curation.synthesize.steps.select_seeds import SelectSeeds
from megaphi.curation.synthesize.steps.synthesize import Synthesize

MODEL = "http://127.0.0.1:8000/v1=smollm2"
TABLE = str(Path(__file__).parent)


def texts() -> Curation:
    """Pages to passages, and ten kinds made of these."""
    return Curation(
        recipe="small_texts",
        folder="runs/small_texts",
        read=ReadFiles(paths=("pages/",)),
        steps=(
            Extract(),
            SelectSeeds(sampler=MODEL, window_characters=900, least_page_score=1, least_passage_score=3, best=2),
            _write("exercise_set", per_seed=2),
            _write("seminar_discussion"),
            _write("comparison_table", per_seed=2),
            _write("faq", per_seed=2),
            _write("tutorial"),
            _write("textbook_section"),
            _write("qa_facts"),
            _write("middle_sentence", per_seed=2),
            _write("exam_choice", temperature=0.7),
            _write("word_problems", temperature=0.7, keep_seeds=False),
        ),
        keep_after=("select_seeds",),
    )


def code() -> Curation:
    """Functions to documentation, to instructions that they answer, to missing bodies, and to other tasks."""
    return Curation(
        recipe="small_code",
        folder="runs/small_code",
        read=ReadJsonLines(paths=("functions.jsonl",)),
        steps=(
            _write("code_documentation"),
            _write("reversed_specification", per_seed=2),
            _write("middle_function", per_seed=4),
            _write("code_task", keep_seeds=False),
        ),
    )


def _write(kind: str, *, per_seed: int = 1, temperature: float = 0.6, keep_seeds: bool = True) -> Synthesize:
    return Synthesize(
        kind=kind,
        sampler=MODEL,
        table=TABLE,
        per_seed=per_seed,
        temperature=temperature,
        top_p=0.9,
        keep_seeds=keep_seeds,
    )
