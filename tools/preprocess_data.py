"""`megaphi tokenize` under the option names of Megatron-LM's tools/preprocess_data.py.

    python tools/preprocess_data.py --input pages.jsonl --output-prefix data/web --append-eod --workers 16

As there, each of --json-keys becomes a dataset PREFIX_KEY_document. What has the same meaning here is passed on; what
has none, or another tokenizer, is refused with the reason. Three things differ, and are said when they do: every
document ends with <|endoftext|>, one without text is left out, and the shuffle is off (`megaphi tokenize` has it on).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megaphi.config import user_path
from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.errors import InputError
from megaphi.log import set_up_logging

TOKENIZERS = ("TikTokenizer", "Phi4Tokenizer")
REFUSED = {
    "--split-sentences": "sentences are for BERT; documents are not split here",
    "--keep-newlines": "it belongs to --split-sentences",
    "--lang": "it belongs to --split-sentences",
    "--merge-file": "the vocabulary is cl100k_base's, given with --tokenizer-model if it is not installed",
    "--vocab-file": "the vocabulary is cl100k_base's, given with --tokenizer-model if it is not installed",
    "--tiktoken-pattern": "the pattern is cl100k_base's",
    "--tiktoken-special-tokens": "the special tokens are Phi-4's",
    "--tiktoken-num-special-tokens": "the special tokens are Phi-4's",
    "--max-documents": "all documents are taken",
    "--workers-to-check": "one worker per processor is the default here",
    "--find-optimal-num-workers": "one worker per processor is the default here",
    "--keep-sequential-samples": "the order is always that of the input here",
}


def main(words: list[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    set_up_logging()
    try:
        _check(arguments)
        for key in dict.fromkeys(arguments.json_keys):
            _tokenize(arguments, key)
    except InputError as error:
        print(f"preprocess_data: {error}", file=sys.stderr)
        return 2
    return 0


def _tokenize(arguments: argparse.Namespace, key: str) -> None:
    """One field of all records, as a dataset of its own."""
    summary = tokenize_documents(
        [arguments.input],
        f"{arguments.output_prefix}_{key}_document",
        TokenizeSettings(
            vocabulary_size=arguments.vocab_size, ranks_file=arguments.tokenizer_model, text_key=key, shuffle_seed=None
        ),
        processes=arguments.workers,
    )
    empty = f" ({summary.empty_documents:,} empty ones left out)" if summary.empty_documents else ""
    print(f"{summary.prefix}: {summary.tokens:,} tokens in {summary.documents:,} documents{empty}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--input", required=True, type=user_path, metavar="INPUT", help="a file, a folder, or a pattern"
    )
    parser.add_argument(
        "--json-keys", nargs="+", default=["text"], metavar="KEY", help="fields, a dataset of each (default: text)"
    )
    parser.add_argument(
        "--output-prefix",
        required=True,
        type=user_path,
        metavar="PREFIX",
        help="writes PREFIX_KEY_document.bin and .idx",
    )
    parser.add_argument("--append-eod", action="store_true", help="required, as documents always end with one")
    parser.add_argument("--tokenizer-type", default=TOKENIZERS[0], metavar="TYPE", help=" or ".join(TOKENIZERS))
    parser.add_argument(
        "--tokenizer-model", type=user_path, metavar="FILE", help="cl100k_base.tiktoken, if it is not installed"
    )
    parser.add_argument("--vocab-size", type=int, default=100_352, metavar="V", help="tokens (default 100352)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per processor)")
    parser.add_argument("--partitions", type=int, default=1, metavar="N", help="accepted; shards are cut by size here")
    parser.add_argument("--chunk-size", type=int, metavar="N", help="accepted; shards are cut by size here")
    parser.add_argument(
        "--make-vocab-size-divisible-by", type=int, metavar="N", help="accepted; no token changes by it"
    )
    parser.add_argument("--log-interval", type=int, metavar="N", help="accepted; there is a progress bar")
    parser.add_argument("--dataset-impl", choices=["mmap"], default="mmap", help="accepted: the one format there is")
    for option in REFUSED:
        parser.add_argument(option, nargs="*", help=argparse.SUPPRESS)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    for option, reason in REFUSED.items():
        if getattr(arguments, option.removeprefix("--").replace("-", "_")) is not None:
            raise InputError(f"{option} is not supported: {reason}")
    if not arguments.append_eod:
        raise InputError("documents always end with <|endoftext|> here: add --append-eod to say that you want that")
    for key in arguments.json_keys:
        if not key or Path(key).name != key:
            raise InputError(f"--json-keys {key!r}: it becomes part of a file's name, and cannot be one there")
    if arguments.tokenizer_type not in TOKENIZERS:
        raise InputError(
            f"--tokenizer-type {arguments.tokenizer_type}: only Phi-4's is here ({' or '.join(TOKENIZERS)})"
        )
    for name in ("workers", "partitions"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: must be at least 1")


if __name__ == "__main__":
    sys.exit(main())
