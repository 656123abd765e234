"""The tokenizer options of `megaphi convert`: weights with another tokenizer than their own, or with none.

A model that came without a tokenizer accepts any whose ids fit and whose end of text is that of its config.json. A
model with its own keeps it unless told to drop it; if another replaces it, the files that name its ids (config.json,
generation_config.json) are left out too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from megaphi.checkpoint.model_tokenizer import NO_TOKENIZER, tokenizer_of
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.conversion.formats.gguf.weights import GgufWeights
from megaphi.conversion.formats.side_files import CONFIG, GENERATION_CONFIG
from megaphi.conversion.wrapped_reader import WrappedReader
from megaphi.errors import InputError
from megaphi.files import read_object
from megaphi.foreign.files import brief
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.open_tokenizer import TOKENIZER_FILES, open_path
from megaphi.tokenizer.tokenizer_files import end_tokens

NAME_IDS = (CONFIG, GENERATION_CONFIG)
"""Files of a model that name the tokens that end a text."""


class WithTokenizer(WrappedReader):
    """A `WeightReader` with the weights of `source` and another tokenizer, or none."""

    def __init__(self, source: WeightReader, tokenizer: Tokenizer | None, *, keep: Mapping[str, Path]) -> None:
        """`keep`: files that came with the weights and are carried along with the tokenizer's."""
        super().__init__(source)
        fingerprint = NO_TOKENIZER if tokenizer is None else tokenizer.fingerprint
        self.config = {**source.config, "tokenizer": {"fingerprint": fingerprint}}
        self._carried = {**keep, **({} if tokenizer is None else _files_of(tokenizer))}

    @property
    def carried(self) -> Mapping[str, Path]:
        return self._carried


def with_tokenizer(source: WeightReader, path: str | None, *, leave_out: bool) -> WeightReader:
    """Replace or drop the tokenizer of `source`: use the one at `path` (see `open_path`), leave out its own, or both.

    Args:
        leave_out: do not read its own tokenizer.

    Raises:
        InputError: the tokenizer does not fit the model, or the model has another one that is not left out.
    """
    if path is None and not leave_out:
        return source
    given = None if path is None else open_path(path, vocabulary=source.architecture.vocabulary)
    if leave_out:
        return WithTokenizer(source, given, keep=_without_tokenizer(source, replaced=given is not None))
    own = tokenizer_of(source)
    if own is None and given is not None:
        _check_ends(source, given, path=path)
        return WithTokenizer(source, given, keep=_others(source))
    if own is not None and given is not None and own.fingerprint != given.fingerprint:
        raise InputError(
            f"--tokenizer {path} (fingerprint {given.fingerprint[:12]}) is not the tokenizer that {source.folder} has"
            f" ({own.fingerprint[:12]}): leave it out, or replace that one by adding --no-tokenizer"
        )
    return source


def _files_of(tokenizer: Tokenizer) -> dict[str, Path]:
    return {name: path for name, path in tokenizer.files.items() if name in TOKENIZER_FILES}


def _others(source: WeightReader) -> dict[str, Path]:
    return {name: path for name, path in source.carried.items() if name not in TOKENIZER_FILES}


def _without_tokenizer(source: WeightReader, *, replaced: bool) -> dict[str, Path]:
    """The files that stay without a tokenizer; a GGUF file has none, and its tokenizer may not be readable."""
    others = {} if isinstance(source, GgufWeights) else _others(source)
    return {name: path for name, path in others.items() if not (replaced and name in NAME_IDS)}


def _check_ends(source: WeightReader, given: Tokenizer, *, path: str | None) -> None:
    """Refuse a tokenizer whose texts end with another token than the model's files say."""
    for name in NAME_IDS:
        said = read_object(source.carried[name], what="configuration") if name in source.carried else {}
        ends = end_tokens(said)
        if ends and not ends & given.stop_tokens:
            raise InputError(
                f"--tokenizer {path} ends a text with {_listed(given.stop_tokens)}, and {name} of {source.folder} says"
                f" eos_token_id {_listed(ends)}: it is another model's; --no-tokenizer too leaves that file out"
            )


def _listed(ids: Iterable[int]) -> str:
    return brief(sorted(ids)).strip("[]")
