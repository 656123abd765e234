"""The options that both verbs of `megaphi decontaminate` have: the items, and how texts are read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.cli.tokenizer_option import add_tokenizer, place_of_tokenizer
from megaphi.config import user_path
from megaphi.errors import InputError
from megaphi.log import logger

if TYPE_CHECKING:
    from megaphi.data.contamination.data_parts import DataPart
    from megaphi.decontamination.item_index import BenchmarkItem


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmark",
        type=user_path,
        nargs="+",
        default=[],
        metavar="[NAME=]PATH",
        help="evaluated items: JSON lines, JSON or Parquet; a set is called NAME, else like its file",
    )
    parser.add_argument(
        "--item-key",
        action="append",
        default=[],
        metavar="KEY",
        help="column of an item's text, once for each (default: its question, and its options)",
    )
    parser.add_argument(
        "--manifest",
        type=user_path,
        metavar="FILE",
        help="the manifest of megaphi evaluate: sets called like its tasks, items named as they name them",
    )
    parser.add_argument("--tasks", default="", metavar="A,B", help="tasks of the manifest (default: all that it has)")


def add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text-key", default="text", metavar="KEY", help="field that holds a text (default text)")
    add_tokenizer(parser)
    parser.add_argument("--vocabulary", type=int, metavar="V", help="vocabulary size, if a dataset does not give it")
    parser.add_argument(
        "--bad-records",
        choices=("error", "skip"),
        default="error",
        help="records without a text: name them and stop (default), or leave them out and count them",
    )


def items_of(arguments: argparse.Namespace) -> list[BenchmarkItem]:
    """The items of --benchmark and of --manifest. Raises InputError if there are none, or one set comes from both."""
    from megaphi.data.contamination.benchmark_items import read_items
    from megaphi.evaluation.evaluated_texts import evaluated_texts

    if not arguments.benchmark and not arguments.manifest:
        raise InputError(
            "name evaluated items: files with --benchmark, or the manifest of an evaluation with --manifest"
        )
    for option, value, needed in (
        ("--tasks", arguments.tasks, "manifest"),
        ("--item-key", arguments.item_key, "benchmark"),
    ):
        if value and not getattr(arguments, needed):
            raise InputError(f"{option} is about --{needed}, which is missing")
    found = read_items(arguments.benchmark, keys=arguments.item_key)
    if arguments.manifest:
        tasks = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
        evaluated = evaluated_texts(Path(arguments.manifest), list(dict.fromkeys(tasks)))
        twice = {item.set for item in found} & {item.set for item in evaluated}
        if twice:
            raise InputError(f"the set {min(twice)} is given by --benchmark and by --manifest: name it once")
        found += evaluated
    return found


def parts_of(paths: list[str], arguments: argparse.Namespace) -> list[DataPart]:
    """Cut texts and datasets into parts, and name the files that are not read."""
    from megaphi.data.contamination.data_parts import plan_parts
    from megaphi.data.text.input_files import LeftOut

    left_out = LeftOut()
    tokenizer, vocabulary = place_of_tokenizer(arguments.tokenizer, vocabulary=arguments.vocabulary)
    parts = plan_parts(paths, tokenizer=tokenizer, vocabulary=vocabulary, left_out=left_out)
    for line in left_out.lines():
        logger.info("%s", line)
    return parts
