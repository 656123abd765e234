"""Make an allow list: runs of 13 words in benchmark items that are common anyway.

A run is allowed if at least ten unrelated texts of a reference corpus have it; texts that share half of their 7-grams
count once, so that copies of a benchmark allow nothing. Every line of the file is a run and a number: read it, and
strike out what is no common phrase.
"""

from __future__ import annotations

import argparse

from megaphi.cli.decontaminate.options import add_benchmark, add_reading, items_of, parts_of
from megaphi.config import user_path

HELP = "runs of words in the items that are common anyway"
EXAMPLE = """example:
  megaphi decontaminate allow-list --benchmark gsm8k=gsm8k/test.jsonl --reference pages/ --output allowed.txt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_benchmark(parser)
    parser.add_argument(
        "--reference", type=user_path, nargs="+", required=True, metavar="PATH", help="texts, or token datasets"
    )
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE", help="the allow list")
    parser.add_argument(
        "--texts", type=int, default=10, metavar="N", help="unrelated texts that make a run common (default 10)"
    )
    add_reading(parser)


def run(arguments: argparse.Namespace) -> int:
    from megaphi.data.text.bad_records import BadRecords
    from megaphi.decontamination.allow_list import RunWitnesses, write_allow_list
    from megaphi.decontamination.item_index import index_items
    from megaphi.errors import InputError
    from megaphi.log import progress_bar, set_up_logging

    set_up_logging(rank=0, world_size=1)
    if arguments.texts < 1:
        raise InputError(f"--texts {arguments.texts}: must be at least 1")
    witnesses = RunWitnesses(index_items(items_of(arguments)), enough=arguments.texts)
    parts = parts_of(arguments.reference, arguments)
    bad = BadRecords(arguments.bad_records)
    with progress_bar(total=sum(part.size_bytes for part in parts), unit="B", label="allow list") as bar:
        for part in parts:
            for _, text in part.texts(0, text_key=arguments.text_key, refuse=bad.add):
                witnesses.add(text)
            bar.update(part.size_bytes)
    bad.raise_if_refused()
    allowed = witnesses.allowed()
    write_allow_list(arguments.output, allowed)
    for reason, (count, first) in bad.summary().items():
        print(f"{count:,} records left out: {reason} (first: {first})")
    print(f"{arguments.output}: {len(allowed):,} runs that stand in at least {arguments.texts} unrelated texts")
    return 0
