"""`megaphi tokenize` under the option names of Megatron-LM's tools/preprocess_data.py.

    python tools/preprocess_data.py --input pages.jsonl --output-prefix data/web --append-eod --workers 16

What has the same meaning here is passed on; what has none, or another tokenizer, is refused with the reason. Three
things differ, and are said when they do: the files are PREFIX.bin and PREFIX.idx (Megatron appends _text_document),
every document ends with <|endoftext|>, and documents keep their order (`megaphi tokenize` shuffles them once).
"""

from __future__ import annotations

import argparse
import sys

from megaphi.data.tokenize_documents import tokenize_documents
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
    "--find-optimal-num-workers": "one worker per processor is the default here",
    "--keep-sequential-samples": "the order is always that of the input here",
}


def main(words: list[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    set_up_logging()
    try:
        _check(arguments)
        summary = tokenize_documents(
            [arguments.input],
            arguments.output_prefix,
            vocabulary_size=arguments.vocab_size,
            ranks_file=arguments.tokenizer_model,
            text_key=arguments.json_keys[0],
            shuffle_seed=None,
            processes=arguments.workers,
        )
    except InputError as error:
        print(f"preprocess_data: {error}", file=sys.stderr)
        return 2
    print(f"{summary.prefix}: {summary.tokens:,} tokens in {summary.documents:,} documents")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--input", required=True, help="a file, a folder, or a pattern")
    parser.add_argument("--json-keys", nargs="+", default=["text"], metavar="KEY", help="one field (default text)")
    parser.add_argument("--output-prefix", required=True, metavar="PREFIX", help="writes PREFIX.bin and PREFIX.idx")
    parser.add_argument("--append-eod", action="store_true", help="required, as documents always end with one")
    parser.add_argument("--tokenizer-type", default=TOKENIZERS[0], metavar="TYPE", help=" or ".join(TOKENIZERS))
    parser.add_argument("--tokenizer-model", metavar="FILE", help="cl100k_base.tiktoken, if it is not installed")
    parser.add_argument("--vocab-size", type=int, default=100_352, metavar="V", help="tokens (default 100352)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per processor)")
    parser.add_argument("--partitions", type=int, default=1, metavar="N", help="accepted; shards are cut by size here")
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
    if len(arguments.json_keys) != 1:
        raise InputError(
            f"--json-keys {' '.join(arguments.json_keys)}: one dataset holds one field; run once per field"
        )
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
