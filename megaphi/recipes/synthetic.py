"""Recipes of synthetic data: seeds from pages or code, written about by a served model.

    megaphi serve phi-4 --port 8000
    megaphi curate synthetic_problems read.paths=pages/ --output runs/problems --dry-run

The model, paths and budgets are fields like all others (`steps.synthesize.sampler=…`). Budgets are small on purpose:
the dry run says what the whole input may cost.
"""

from __future__ import annotations

from megaphi.curation.read.code import ReadCode
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.recipe import Curation
from megaphi.curation.synthesize.steps.select_seeds import SelectSeeds
from megaphi.curation.synthesize.steps.synthesize import Synthesize

MODEL = "http://127.0.0.1:8000/v1=phi-4"
BUDGET_TOKENS = 10_000_000


def synthetic_problems() -> Curation:
    """Pages to seeds to questions, of which the plurality filter keeps those that are neither too easy nor too hard."""
    return Curation(
        recipe="synthetic_problems",
        folder="runs/synthetic_problems",
        read=ReadJsonLines(paths=("pages/",)),
        steps=(
            _seeds(),
            _write("maths_problems", per_seed=2, keep_seeds=True),
            _write("word_problems", per_seed=2, keep_seeds=True),
            _write("exam_choice"),
        ),
        keep_after=("select_seeds",),
    )


def synthetic_textbooks() -> Curation:
    """Pages to seeds to sections of textbooks, exercises, tables and answers to questions."""
    return Curation(
        recipe="synthetic_textbooks",
        folder="runs/synthetic_textbooks",
        read=ReadJsonLines(paths=("pages/",)),
        steps=(
            _seeds(),
            _write("textbook_section", keep_seeds=True),
            _write("exercise_set", keep_seeds=True),
            _write("comparison_table", keep_seeds=True),
            _write("faq"),
        ),
        keep_after=("select_seeds",),
    )


def synthetic_code() -> Curation:
    """Code to tasks with solutions that pass their tests, to instructions that it answers, and to missing parts."""
    return Curation(
        recipe="synthetic_code",
        folder="runs/synthetic_code",
        read=ReadCode(paths=("code/",)),
        steps=(
            _write("code_task", per_seed=4, keep_seeds=True),
            _write("reversed_specification", keep_seeds=True),
            _write("reversed_user_story", keep_seeds=True),
            _write("middle_function", per_seed=2, keep_seeds=True),
            _write("output_prediction"),
        ),
    )


def _seeds() -> SelectSeeds:
    return SelectSeeds(sampler=MODEL, budget_tokens=BUDGET_TOKENS)


def _write(kind: str, *, per_seed: int = 1, keep_seeds: bool = False) -> Synthesize:
    return Synthesize(kind=kind, sampler=MODEL, per_seed=per_seed, keep_seeds=keep_seeds, budget_tokens=BUDGET_TOKENS)
