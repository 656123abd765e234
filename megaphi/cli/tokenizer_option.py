"""`--tokenizer`, as the verbs declare it that read text without a model: Phi-4's unless another one is named."""

from __future__ import annotations

import argparse

from megaphi.config import user_path


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """Declare `--tokenizer PATH`: what `tokenizer.open_tokenizer.open_path` takes."""
    parser.add_argument(
        "--tokenizer",
        default="phi4",
        type=user_path,
        metavar="PATH",
        help="folder with tokenizer.json (default phi4: Phi-4's)",
    )
