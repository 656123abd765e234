"""Let a model label pages by a rubric: educational value from 0 to 5, topic, format, and the reasons first.

The labels are what `megaphi curate train-classifier` learns from: a large model looks at some thousands of pages, and a
small classifier then at all. Pages are records with a text; for HTML, or other files, write a recipe with the steps
Extract and LabelPages. Each page is a quotation in the prompt, whatever it says. Answers are kept as they come, so the
same command goes on after a kill, or with a larger budget, and pays for none twice. Pages without a label are counted
by reason and kept aside: unreadable (no answer has the form of the rubric), refused (too long for the model), budget,
empty. --dry-run reads the pages and shows the most that it may cost.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from megaphi.cli.curate.curate import add_run_arguments, run_recipe
from megaphi.cli.sampler_option import SAMPLER_HELP
from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.curation.recipe import Curation

HELP = "labels for a classifier, by a model and a rubric"
EXAMPLE = """examples:
  megaphi curate label pages.jsonl --sampler http://gpu7:8000/v1=phi-4 --output runs/labels --dry-run
  megaphi curate label pages/ --sampler http://gpu7:8000/v1=phi-4 --output runs/labels budget_tokens=50000000
  megaphi curate label pages.parquet --sampler runs/phi4 --output runs/law rubric=my_rubric.txt topics=law,medicine
  megaphi curate train-classifier runs/labels/documents/*.zst --output classifiers/topic label_key=metadata.labels.topic
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pages", type=user_path, nargs="+", metavar="FILE", help="JSON lines or Parquet: files, folders or patterns"
    )
    parser.add_argument(
        "fields",
        metavar="field=value",
        nargs="*",
        help="change a field of the step LabelPages: rubric, topics, formats",
    )
    parser.add_argument("--sampler", type=user_path, required=True, metavar="MODEL", help=SAMPLER_HELP)
    parser.add_argument("--output", type=user_path, required=True, metavar="FOLDER", help="the folder of the run")
    parser.add_argument("--text-key", default="text", metavar="KEY", help="field with the text (default text)")
    add_run_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    source = partial(
        labelling_of,
        (*arguments.pages, *arguments.fields),
        arguments.sampler,
        arguments.text_key,
        arguments.output,
    )
    if run_recipe(arguments, source):
        print(f"labels: megaphi curate train-classifier {arguments.output}/documents/* --output FOLDER", end=" ")
        print("score_key=metadata.labels.educational (or label_key=metadata.labels.topic)")
    return 0


def labelling_of(words: tuple[str, ...], sampler: str, text_key: str, output: str) -> Curation:
    """The curation that a command line asks for; called once in every process."""
    from pathlib import Path

    from megaphi.config import override
    from megaphi.curation.filter.quality.label_pages import LabelPages
    from megaphi.curation.read.json_lines import ReadJsonLines
    from megaphi.curation.read.parquet import ReadParquet
    from megaphi.curation.recipe import Curation, check_curation

    # argparse gives every word to the pages; a setting is one that names a field.
    paths = tuple(word for word in words if "=" not in word or Path(word).exists())
    if not paths:
        raise InputError("no file with pages is named")
    parquet = [path for path in paths if path.endswith(".parquet")]
    if parquet and len(parquet) < len(paths):
        raise InputError(f"{parquet[0]} is Parquet, and other inputs are not: label them in two runs")
    reader = ReadParquet if parquet else ReadJsonLines
    step = override(LabelPages(sampler=sampler), [word for word in words if word not in paths])
    read = reader(paths=paths, text_key=text_key)
    return check_curation(Curation(recipe="label", folder=output, read=read, steps=(step,)))
