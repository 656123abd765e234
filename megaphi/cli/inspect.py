"""Show what a checkpoint, a token dataset or a file of conversations holds, who is slow in a run, or how two differ.

Reads headers and indices only (but for conversations and `diff --weights`): any size, any layout, no GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.cli.inspect_conversations import add_conversation_arguments, show_conversations
from megaphi.config import user_path

if TYPE_CHECKING:
    from megaphi.data.indexed_dataset import IndexedDataset

HELP = "what a checkpoint, dataset or conversation holds; which rank is slow; how two runs differ"
EXAMPLE = """examples:
  megaphi inspect checkpoint runs/quickstart/run                 newest checkpoint of a run
  megaphi inspect checkpoint runs/quickstart/run/checkpoints/step_00000150 --tensors --files
  megaphi inspect dataset data/web                               a dataset (prefix of .bin/.idx)
  megaphi inspect dataset data/web --document 3                  one document as text
  megaphi inspect conversations chats.jsonl                      which tokens are trained
  megaphi inspect conversations pairs.parquet --pairs            preference pairs
  megaphi inspect ranks runs/quickstart/run                      times of every rank, the slow one named
  megaphi inspect diff runs/first runs/second                    fields, places in the data, tensors that differ
  megaphi inspect diff runs/first runs/second --weights          and by how much the numbers do
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(
        dest="kind", metavar="checkpoint | dataset | conversations | ranks | diff", required=True
    )
    checkpoint = kinds.add_parser("checkpoint", help="step, layout, place in the data, size by part")
    checkpoint.add_argument(
        "path", type=user_path, metavar="PATH", help="a checkpoint, or a run folder (its newest one)"
    )
    checkpoint.add_argument("--tensors", action="store_true", help="list every tensor")
    checkpoint.add_argument("--files", action="store_true", help="list every file with its SHA-256")
    dataset = kinds.add_parser("dataset", help="tokens, documents, lengths, tokenizer")
    dataset.add_argument(
        "path", type=user_path, metavar="PREFIX", help="path of the .bin/.idx pair, with or without its ending"
    )
    dataset.add_argument("--document", type=int, metavar="N", help="print document N as text")
    dataset.add_argument(
        "--tokenizer",
        default="phi4",
        type=user_path,
        metavar="PATH",
        help="folder with tokenizer.json (default phi4: Phi-4's)",
    )
    dataset.add_argument("--vocabulary", type=int, metavar="V", help="if the dataset does not say so itself")
    add_conversation_arguments(kinds.add_parser("conversations", help="which tokens are trained; preference pairs"))
    ranks = kinds.add_parser("ranks", help="what each rank spends its steps with; who is slow")
    ranks.add_argument("path", type=user_path, metavar="RUN", help="a run folder")
    ranks.add_argument("--last", type=int, default=200, metavar="N", help="steps to look at (default: %(default)s)")
    diff = kinds.add_parser("diff", help="what differs between two runs or checkpoints")
    diff.add_argument("left", type=user_path, metavar="A", help="a run folder, a checkpoint, or a config.json")
    diff.add_argument("right", type=user_path, metavar="B", help="another one")
    diff.add_argument("--weights", action="store_true", help="compare the numbers too; reads both checkpoints whole")


def run(arguments: argparse.Namespace) -> int:
    if arguments.kind == "checkpoint":
        from megaphi.cli.inspect_checkpoint import show_checkpoint

        return show_checkpoint(Path(arguments.path), tensors=arguments.tensors, files=arguments.files)
    if arguments.kind == "conversations":
        return show_conversations(arguments)
    if arguments.kind == "ranks":
        from megaphi.cli.inspect_ranks import show_ranks

        return show_ranks(Path(arguments.path), last=arguments.last)
    if arguments.kind == "diff":
        from megaphi.cli.inspect_diff import show_difference

        return show_difference(Path(arguments.left), Path(arguments.right), weights=arguments.weights)
    from megaphi.data.indexed_dataset import IndexedDataset

    path = Path(arguments.path)
    dataset = IndexedDataset(path.with_suffix("") if path.suffix in (".idx", ".bin") else path)
    if arguments.document is not None:
        return _show_document(dataset, arguments.document, arguments)
    return _show_dataset(dataset)


def _show_dataset(dataset: IndexedDataset) -> int:
    dataset.files.index.will_be_read_through()
    lengths = dataset.sequence_lengths
    print(f"dataset      {dataset.prefix}")
    print(f"tokens       {dataset.token_count:,} ({dataset.dtype}, {dataset.token_count * dataset.dtype.itemsize:,} B)")
    print(f"documents    {dataset.document_count:,}")
    if len(lengths):
        print(f"lengths      shortest {lengths.min():,}, mean {lengths.mean():,.1f}, longest {lengths.max():,}")
    for name, value in (dataset.description or {"description": "none (no .json beside it)"}).items():
        if not isinstance(value, list | dict):
            print(f"{name:<12} {value}")
    print(f"fingerprint  {dataset.fingerprint}")
    return 0


def _show_document(dataset: IndexedDataset, number: int, arguments: argparse.Namespace) -> int:
    from megaphi.errors import InputError
    from megaphi.tokenizer.open_tokenizer import PHI4, open_path

    if not 0 <= number < dataset.document_count:
        raise InputError(f"--document {number}: {dataset.prefix} has documents 0 to {dataset.document_count - 1}")
    described = dataset.description or {}
    size = arguments.vocabulary or described.get("vocabulary_size")
    if size is None and arguments.tokenizer == PHI4:
        raise InputError(f"{dataset.prefix} does not say which vocabulary it was made with: give --vocabulary")
    tokenizer = open_path(arguments.tokenizer, vocabulary=size if arguments.tokenizer == PHI4 else None)
    if described.get("tokenizer") not in (None, tokenizer.fingerprint):
        raise InputError(f"{dataset.prefix} was made with another tokenizer than {arguments.tokenizer}: --tokenizer")
    print(tokenizer.decode(dataset.document(number).tolist()))
    return 0
