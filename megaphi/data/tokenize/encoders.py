"""Text to token ids by tiktoken, or by a faster encoder that must give exactly the same ids.

`open_encoder` returns a function from text to ids. gigatoken (`pip install megaphi[fast-tokenizer]`) is about 10x
faster and equal to tiktoken, except that it follows a newer Unicode: characters that became letters or digits since
split differently. So when it is opened both encoders are asked for the kind of every character, and a text that holds
one on which they disagree is encoded by tiktoken. Besides, `spot_check` compares a share of all documents.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.errors import InputError
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.phi4 import Phi4Tokenizer, load_tokenizer

TIKTOKEN, GIGATOKEN, TOKENIZERS = "tiktoken", "gigatoken", "tokenizers"
ENCODERS = (TIKTOKEN, GIGATOKEN)
"""Encoders of Phi-4's tokenizer; every tokenizer.json has one, the library `tokenizers`."""
SPOT_CHECK_EVERY = 256
"""One document in this many, and the first of every shard, is encoded by tiktoken too."""

Encode = Callable[[str], NDArray[np.uint32]]
"""Ids of ordinary text, uint32 [tokens]."""

_PROBED = (range(0xD800), range(0xE000, 0x40000), range(0xE0000, 0xF0000))
"""All characters but surrogates, the eleven planes that Unicode has left empty, and the two for private use."""
_PROBE_BLOCK = 256


def chosen_encoder(name: str | None, tokenizer: Tokenizer) -> str:
    """The encoder to use. Raises InputError for one that the tokenizer does not have."""
    known = ENCODERS if isinstance(tokenizer, Phi4Tokenizer) else (TOKENIZERS,)
    if name is not None and name not in known:
        raise InputError(f"no encoder {name!r}: choose one of {', '.join(known)}")
    return name or known[0]


def open_encoder(name: str, tokenizer: Tokenizer, *, doubtful: Sequence[int]) -> Encode:
    """The encoder called `name` for the tokenizer's vocabulary.

    Args:
        doubtful: what `find_doubtful_characters` found for this encoder.

    Raises:
        InputError: the encoder is not installed.
    """
    if name != GIGATOKEN:
        return tokenizer.encode_to_array
    assert isinstance(tokenizer, Phi4Tokenizer)  # `chosen_encoder`
    return exact_encoder(_open_gigatoken(tokenizer), tokenizer, doubtful)


def find_doubtful_characters(name: str, *, ranks_file: str | None = None) -> tuple[int, ...]:
    """Characters that an encoder classifies differently from tiktoken; takes two seconds, once per job.

    Both are asked with the whole vocabulary, whatever is to be used: a small one lacks the tokens that tell the kinds
    of character apart, and how text is split does not depend on it.
    """
    if name != GIGATOKEN:
        return ()
    tokenizer = load_tokenizer(ranks_file=ranks_file)
    return doubtful_characters(_open_gigatoken(tokenizer), tokenizer)


def exact_encoder(fast: Encode, tokenizer: Phi4Tokenizer, doubtful: Sequence[int]) -> Encode:
    """`fast`, but tiktoken for texts that hold a doubtful character or a lone surrogate."""
    is_doubtful = np.zeros(0x110000, dtype=bool)
    is_doubtful[list(doubtful)] = True

    def encode(text: str) -> NDArray[np.uint32]:
        if not text.isascii():
            try:
                characters_N = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
            except UnicodeEncodeError:
                return tokenizer.encode_to_array(text)
            if is_doubtful[characters_N].any():
                return tokenizer.encode_to_array(text)
        return fast(text)

    return encode


def doubtful_characters(fast: Encode, tokenizer: Phi4Tokenizer) -> tuple[int, ...]:
    """Code points that two encoders of the whole vocabulary take for different kinds (letter, number, space, other).

    What follows a character shows its kind: after a letter or a digit the line breaks in "\\n \\n" are one piece, after
    a symbol the first belongs to the symbol; after a digit "123" is not one piece.
    """
    doubtful: list[int] = []
    for characters in _PROBED:
        for start in range(characters.start, characters.stop, _PROBE_BLOCK):
            block = range(start, min(start + _PROBE_BLOCK, characters.stop))
            if _differ(_probe(block), fast, tokenizer):
                doubtful += [code for code in block if _differ(_probe([code]), fast, tokenizer)]
    return tuple(doubtful)


def _probe(codes: Iterable[int]) -> str:
    return "".join(f"{chr(code)}\n \n{chr(code)}123|{chr(code)}" for code in codes)


def _differ(text: str, fast: Encode, tokenizer: Phi4Tokenizer) -> bool:
    return not np.array_equal(fast(text), tokenizer.encode_to_array(text))


def spot_check(text: str, ids: ArrayLike, tokenizer: Tokenizer, *, encoder: str, where: str) -> None:
    """Raise `InputError` where `ids` are not tiktoken's; `where` names the document."""
    ids_N, expected_N = np.asarray(ids), tokenizer.encode_to_array(text)
    if np.array_equal(ids_N, expected_N):
        return
    shorter = min(len(ids_N), len(expected_N))
    different_N = ids_N[:shorter] != expected_N[:shorter]
    token = int(np.argmax(different_N)) if different_N.any() else shorter
    character = len(tokenizer.decode_bytes(expected_N[:token].tolist()).decode(errors="ignore"))
    raise InputError(
        f"{where}: the encoder {encoder} gives other ids than tiktoken from token {token:,} on, at character"
        f" {character:,}: {text[character : character + 20]!r}. Tokenise again with --encoder tiktoken"
    )


def _open_gigatoken(tokenizer: Phi4Tokenizer) -> Encode:
    try:
        from gigatoken import Tokenizer  # pyright: ignore[reportMissingImports] (an optional package)
    except ImportError as error:
        remedy = "install it with `pip install megaphi[fast-tokenizer]`, or use --encoder tiktoken"
        raise InputError(f"the encoder gigatoken cannot be loaded ({error}): {remedy}") from None
    handle, path = tempfile.mkstemp(suffix=".tiktoken")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(base64.b64encode(token) + b" %d\n" % rank for token, rank in tokenizer.ranks.items())
        encoder: Any = Tokenizer.from_tiktoken(path, pretokenizer="gpt4", special_tokens={})
    finally:
        os.unlink(path)
    return encoder.encode
