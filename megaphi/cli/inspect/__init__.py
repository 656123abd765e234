"""Show what a checkpoint, a token dataset or a file of conversations holds, who is slow in a run, or how two differ.

Reads headers and indices only (but for conversations and `diff --weights`): any size, any layout, no GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megaphi.cli.inspect.conversations import add_conversation_arguments, show_conversations
from megaphi.cli.inspect.dataset import add_dataset_arguments, show_dataset
from megaphi.config import user_path

HELP = "what a checkpoint, dataset or conversation holds; which rank is slow; how two runs differ"
EXAMPLE = """examples:
  megaphi inspect checkpoint runs/quickstart/run                 newest checkpoint of a run
  megaphi inspect checkpoint runs/quickstart/run/checkpoints/step_00000150 --tensors --files
  megaphi inspect dataset data/web                               a dataset (prefix of .bin/.idx)
  megaphi inspect dataset data/web --document 3                  one document as text
  megaphi inspect dataset data/web.npy --document-end 100257     a file without a list of documents
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
    checkpoint = kinds.add_parser("checkpoint", help="step, layout, position in the data, size by part")
    checkpoint.add_argument(
        "path", type=user_path, metavar="PATH", help="a checkpoint, or a run folder (its newest one)"
    )
    checkpoint.add_argument("--tensors", action="store_true", help="list every tensor")
    checkpoint.add_argument("--files", action="store_true", help="list every file with its SHA-256")
    add_dataset_arguments(kinds.add_parser("dataset", help="tokens, documents, lengths, tokenizer"))
    add_conversation_arguments(kinds.add_parser("conversations", help="which tokens are trained on; preference pairs"))
    ranks = kinds.add_parser("ranks", help="how each rank spends its steps; which one is slow")
    ranks.add_argument("path", type=user_path, metavar="RUN", help="a run folder")
    ranks.add_argument("--last", type=int, default=200, metavar="N", help="steps to look at (default: %(default)s)")
    diff = kinds.add_parser("diff", help="what differs between two runs or checkpoints")
    diff.add_argument("left", type=user_path, metavar="A", help="a run folder, a checkpoint, or a config.json")
    diff.add_argument("right", type=user_path, metavar="B", help="another one")
    diff.add_argument("--weights", action="store_true", help="compare values too; reads both checkpoints completely")


def run(arguments: argparse.Namespace) -> int:
    if arguments.kind == "checkpoint":
        from megaphi.cli.inspect.checkpoint import show_checkpoint

        return show_checkpoint(Path(arguments.path), tensors=arguments.tensors, files=arguments.files)
    if arguments.kind == "conversations":
        return show_conversations(arguments)
    if arguments.kind == "ranks":
        from megaphi.cli.inspect.ranks import show_ranks

        return show_ranks(Path(arguments.path), last=arguments.last)
    if arguments.kind == "diff":
        from megaphi.cli.inspect.diff import show_difference

        return show_difference(Path(arguments.left), Path(arguments.right), weights=arguments.weights)
    return show_dataset(arguments)
