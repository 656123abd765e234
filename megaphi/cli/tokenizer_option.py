"""`--tokenizer`, as the verbs declare it that read text without a model: Phi-4's unless another one is named.

A model names its tokenizer too: the run, checkpoint, folder or GGUF file that other verbs take as one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megaphi.config import user_path
from megaphi.errors import InputError


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """Declare `--tokenizer PATH`: what `place_of_tokenizer` takes."""
    parser.add_argument(
        "--tokenizer",
        default="phi4",
        type=user_path,
        metavar="PATH",
        help="folder with tokenizer.json, or a model: run, checkpoint, GGUF file (default phi4: Phi-4's)",
    )


def place_of_tokenizer(path: str, *, vocabulary: int | None) -> tuple[str, int | None]:
    """(what `open_path` takes, Phi-4's vocabulary) for the words of `--tokenizer` and `--vocabulary`.

    Raises:
        InputError: neither a tokenizer nor a model is there, or the model has none, or one of another vocabulary.
    """
    from megaphi.tokenizer.open_tokenizer import PHI4, VOCABULARIES

    place = Path(path)
    is_described = place.is_dir() and any((place / name).is_file() for name in VOCABULARIES)
    if path == PHI4 or is_described or not (place.is_dir() or _may_be_gguf(place)):
        return path, vocabulary
    from megaphi.checkpoint.model_tokenizer import text_tokenizer_of
    from megaphi.conversion.open_weights import open_weights

    try:
        model = open_weights(place)
    except InputError as error:
        raise InputError(f"--tokenizer {path}: there is no tokenizer.json, and no model: {error}") from None
    tokenizer = text_tokenizer_of(model)
    if vocabulary not in (None, tokenizer.vocabulary_size):
        raise InputError(
            f"--vocabulary {vocabulary}: the tokenizer of {path} has {tokenizer.vocabulary_size:,} tokens; leave it out"
        )
    carried = [model.carried[name] for name in VOCABULARIES if name in model.carried]
    return (str(carried[0].parent), None) if carried else (PHI4, tokenizer.vocabulary_size)


def _may_be_gguf(place: Path) -> bool:
    return place.suffix == ".gguf" and place.is_file()
