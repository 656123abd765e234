"""Report which items of evaluated sets stand in training data: verbatim, in part, or not.

Training data are files of texts as `megaphi tokenize` reads them, and tokenised datasets. The output folder appears
whole: report.json, items.jsonl (a line for every item), report.md, and page.html with the evidence. A scan that was
ended goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from megaphi.cli.decontaminate.options import add_benchmark, add_reading, items_of, parts_of
from megaphi.config import user_path

HELP = "which items of evaluated sets stand in training data"
EXAMPLE = """examples:
  megaphi decontaminate report --benchmark gsm8k=gsm8k/test.jsonl mmlu=mmlu/ --data pages/ --output runs/leaks
  megaphi decontaminate report --manifest benchmarks/manifest.json --tasks mmlu,gpqa --data pages/ --output runs/leaks
  megaphi decontaminate report --benchmark test.jsonl --item-key problem --data data/web data/code --output runs/leaks
  megaphi decontaminate report --benchmark test.jsonl --data pages/ --allow-list allowed.txt --output runs/leaks
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_benchmark(parser)
    parser.add_argument(
        "--data", type=user_path, nargs="+", required=True, metavar="PATH", help="training texts, or token datasets"
    )
    parser.add_argument("--output", type=user_path, required=True, metavar="FOLDER", help="must not exist, or be empty")
    parser.add_argument(
        "--allow-list", type=user_path, metavar="FILE", help="long runs that are common anyway, see allow-list"
    )
    parser.add_argument(
        "--contaminated-share",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of 7-grams from which on a text is contaminated (default 0.5)",
    )
    parser.add_argument(
        "--partial-share",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of 7-grams above which it is so in part (default 0.1)",
    )
    add_reading(parser)
    parser.add_argument("--processes", type=int, metavar="N", help="default: one per processor")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.config import from_plain
    from megaphi.data.contamination.scan import ReadingRules, scan_data
    from megaphi.decontamination.allow_list import read_allow_list
    from megaphi.decontamination.item_index import index_items
    from megaphi.decontamination.report import write_report
    from megaphi.decontamination.rule import ContaminationRule
    from megaphi.errors import InputError
    from megaphi.files import whole_folder
    from megaphi.log import set_up_logging

    set_up_logging(rank=0, world_size=1)
    if arguments.processes is not None and arguments.processes < 1:
        raise InputError(f"--processes {arguments.processes}: must be at least 1")
    output = Path(arguments.output)
    shares = {"contaminated_share": arguments.contaminated_share, "partial_share": arguments.partial_share}
    rule = from_plain(ContaminationRule, shares)
    allowed = (
        read_allow_list(arguments.allow_list, exact_words=rule.exact_words) if arguments.allow_list is not None else ()
    )
    index = index_items(items_of(arguments), rule, allowed=allowed)
    parts = parts_of(arguments.data, arguments)
    journal = output.parent / f"{output.name}.scan.jsonl"
    with whole_folder(output) as folder:
        scan = scan_data(
            parts,
            index,
            ReadingRules(text_key=arguments.text_key, bad_records=arguments.bad_records),
            journal=journal,
            processes=arguments.processes or len(os.sched_getaffinity(0)),
        )
        about = {
            "benchmark": arguments.benchmark,
            "item_keys": arguments.item_key,
            "manifest": arguments.manifest,
            "tasks": arguments.tasks,
            "data": arguments.data,
            "data_bytes": sum(part.size_bytes for part in parts),
            "allowed_runs": len(allowed),
            "left_out": {reason: list(one) for reason, one in scan.left_out.items()},
            "items_and_rule": index.fingerprint,
        }
        report = write_report(folder, scan.findings, index, about)
    journal.unlink()
    for name, one in report["sets"].items():
        share = one["shares"]["contaminated"]
        print(
            f"{name}: {one['contaminated']:,} of {one['items']:,} items contaminated ({share:.1%}),"
            f" {one['partial']:,} partial, {one['unchecked']:,} too short to be checked"
        )
    for reason, (count, first) in scan.left_out.items():
        print(f"{count:,} records left out: {reason} (first: {first})")
    print(f"{output}: page.html shows the evidence, items.jsonl has a line for every item")
    return 0
