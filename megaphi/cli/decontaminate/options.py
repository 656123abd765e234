"""The options that both verbs of `megaphi decontaminate` have: the items, and how texts are read."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from megaphi.cli.tokenizer_option import add_tokenizer, place_of_tokenizer
from megaphi.config import user_path
from megaphi.log import logger

if TYPE_CHECKING:
    from megaphi.data.contamination.data_parts import DataPart


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmark",
        type=user_path,
        nargs="+",
        required=True,
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
