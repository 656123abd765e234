"""Merge all .bin/.idx pairs of a folder into one, under the option names of Megatron-LM's tool.

    python tools/merge_datasets.py --input data/parts --output-prefix data/all

The work is `megaphi.data.storage.merge_datasets`: pairs in the order of their names, constant memory, one dtype and one
tokenizer. What Megatron users may find surprising is the third file: PREFIX.json says which tokenizer the ids are of.
"""

from __future__ import annotations

import argparse
import sys

from megaphi.config import user_path
from megaphi.data.storage.merge_datasets import find_pairs, merge_datasets
from megaphi.errors import InputError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=user_path, metavar="FOLDER", help="holds the pairs to merge")
    parser.add_argument(
        "--output-prefix", required=True, type=user_path, metavar="PREFIX", help="writes PREFIX.bin and PREFIX.idx"
    )
    return parser


def main() -> int:
    arguments = _parser().parse_args()
    try:
        prefixes = find_pairs(arguments.input)
        documents = merge_datasets(prefixes, arguments.output_prefix)
    except InputError as error:
        print(f"merge_datasets: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.output_prefix}: {documents:,} documents of {len(prefixes)} datasets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
