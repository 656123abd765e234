"""Turn text into the token files that training reads: PREFIX.bin, PREFIX.idx and PREFIX.json.

Inputs are files, folders or patterns of jsonl, jsonl.gz, jsonl.zst, parquet or plain text. Documents are shuffled once
with a seeded permutation and end with <|endoftext|>. The files are byte-compatible with Megatron's. A killed run
continues where it was; an up-to-date result is kept.
"""

from __future__ import annotations

import argparse

HELP = "text files to .bin/.idx token files"
EXAMPLE = """examples:
  megaphi tokenize pages/*.jsonl.zst --output data/web --processes 16
  megaphi tokenize books/ --output data/acquired --text-key content
  megaphi tokenize corpus.parquet --output data/tiny --vocabulary 4096
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="a file, a folder, or a pattern")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="writes PREFIX.bin, PREFIX.idx, PREFIX.json")
    parser.add_argument("--vocabulary", type=int, default=100_352, metavar="V", help="tokens (default 100352: Phi-4's)")
    parser.add_argument("--ranks-file", metavar="FILE", help="cl100k_base.tiktoken, if it is not installed")
    parser.add_argument("--text-key", default="text", metavar="KEY", help="field that holds the text (default text)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the document shuffle (default 0)")
    parser.add_argument("--no-shuffle", action="store_true", help="keep the documents in the order of the inputs")
    parser.add_argument("--processes", type=int, metavar="N", help="default: one per processor")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.data.tokenize_documents import tokenize_documents
    from megaphi.errors import InputError
    from megaphi.log import set_up_logging

    set_up_logging()
    if arguments.processes is not None and arguments.processes < 1:
        raise InputError(f"--processes {arguments.processes}: must be at least 1")
    summary = tokenize_documents(
        arguments.inputs,
        arguments.output,
        vocabulary_size=arguments.vocabulary,
        ranks_file=arguments.ranks_file,
        text_key=arguments.text_key,
        shuffle_seed=None if arguments.no_shuffle else arguments.seed,
        processes=arguments.processes,
    )
    state = "up to date" if summary.reused else f"written in {summary.seconds:.1f} s"
    print(
        f"{summary.prefix}: {summary.tokens:,} tokens in {summary.documents:,} documents "
        f"({summary.empty_documents} empty ones left out), {state}"
    )
    return 0
