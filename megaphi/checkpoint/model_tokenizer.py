"""The tokenizer and the context length of a model, which every use of its weights takes over with them.

The files that came with the weights determine the tokenizer; a run of ours without any was made with Phi-4's, unless
its configuration says that it had none. A model that was imported without a tokenizer has none: the meaning of its ids
is unknown, and is not guessed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.config import LARGEST_INTEGER
from megaphi.errors import InputError
from megaphi.foreign.files import brief, damage_named
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.open_tokenizer import READ_BESIDE, TOKENIZER_FILES, VOCABULARIES, open_files
from megaphi.tokenizer.phi4 import can_have, load_tokenizer

NO_TOKENIZER = "none"
"""The fingerprint of a run whose model has no tokenizer."""
DEFAULT_CONTEXT = 4_096


def tokenizer_of(reader: WeightReader, *, ranks_file: str | os.PathLike[str] | None = None) -> Tokenizer | None:
    """The model's tokenizer; None where it came without one.

    Raises:
        InputError: its files cannot be read, or are not those that the weights were trained with.
    """
    vocabulary, carried = reader.architecture.vocabulary, reader.carried
    with damage_named(reader.folder, what="a model whose configuration names its tokenizer"):
        recorded = str((reader.config.get("tokenizer") or {}).get("fingerprint") or "")
    if recorded == NO_TOKENIZER:
        return None
    if carried.keys() & set(VOCABULARIES):
        files = {name: path for name, path in carried.items() if name in (*TOKENIZER_FILES, *READ_BESIDE)}
        tokenizer = open_files(files, vocabulary=vocabulary, ranks_file=ranks_file, where=str(reader.folder))
    elif not recorded and ("imported_from" in reader.state or not can_have(vocabulary)):
        return None  # imported without one, or trained on ids that are not text
    else:
        tokenizer = load_tokenizer(vocabulary, ranks_file=ranks_file)
    if recorded not in ("", tokenizer.fingerprint):
        raise InputError(
            f"{reader.folder} was trained with the tokenizer {recorded[:12]}, the one that it carries is"
            f" {tokenizer.fingerprint[:12]}: its ids would have another meaning"
        )
    return tokenizer


def text_tokenizer_of(reader: WeightReader, *, path: str | None = None) -> Tokenizer:
    """`tokenizer_of`, for text: `path` stands in where the model has none.

    Raises:
        InputError: there is none, or `path` holds another one than the model's.
    """
    from megaphi.tokenizer.open_tokenizer import open_path

    own = tokenizer_of(reader)
    given = None if path is None else open_path(path, vocabulary=reader.architecture.vocabulary)
    check_one_tokenizer(own, given, path=path, model=str(reader.folder))
    if (found := given or own) is None:
        raise InputError(
            f"{reader.folder} came without a tokenizer, so its tokens cannot be turned into text: name one with"
            " --tokenizer (a folder with tokenizer.json, or phi4)"
        )
    return found


def check_one_tokenizer(own: Tokenizer | None, given: Tokenizer | None, *, path: str | None, model: str) -> None:
    """Raises InputError if a tokenizer is given that is not the model's own."""
    if own is not None and given is not None and own.fingerprint != given.fingerprint:
        raise InputError(
            f"the tokenizer {path} (fingerprint {given.fingerprint[:12]}) is not that of {model}"
            f" ({own.fingerprint[:12]}): leave it out, the model's own is used"
        )


def context_of(reader: WeightReader) -> int:
    """The longest sequence that the model is made for, in tokens."""
    return reader.architecture.context or longest_sequence(reader.config) or DEFAULT_CONTEXT


def longest_sequence(config: Mapping[str, Any]) -> int:
    """The longest sequence in a run's plain configuration; 0 where it says nothing.

    A stage without a length of its own has the batch's, which no row has where every stage has another.
    """
    with damage_named("the configuration of a run", what="one that says how long its sequences are"):
        of_batch = (config.get("batch") or {}).get("sequence_length") or 0
        stages = ((config.get("task") or {}).get("mixture") or {}).get("stages") or ()
        longest = max((stage.get("sequence_length") or of_batch for stage in stages), default=of_batch)
        if type(longest) is not int or not 0 <= longest <= LARGEST_INTEGER:
            raise ValueError(f"a sequence of {brief(longest)} tokens")
    return longest
