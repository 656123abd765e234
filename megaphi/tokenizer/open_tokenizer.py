"""The tokenizer that some files describe: Phi-4's own where they are an export of it, else the tokenizer.json itself.

Phi-4's own tokenizer gives the same ids as its tokenizer.json several times faster, and datasets carry its fingerprint;
so a folder that holds that file (the released model, every export of ours) is recognised by its vocabulary, special
tokens and chat format, with the names of its think tokens if it has any. `phi4` names it where a path is expected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megaphi.conversation import Conversation, Message, to_plain
from megaphi.errors import InputError
from megaphi.foreign.files import damage_named
from megaphi.tokenizer.byte_letters import byte_letters
from megaphi.tokenizer.chat_template import ChatTemplate
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.json_tokenizer import JsonTokenizer
from megaphi.tokenizer.phi4 import Phi4Tokenizer, load_tokenizer
from megaphi.tokenizer.rank_file import read_ranks
from megaphi.tokenizer.special_tokens import (
    END_OF_TEXT,
    FULL_VOCABULARY_SIZE,
    SMALLEST_VOCABULARY_SIZE,
    SPECIAL_COUNT,
    special_token_ids,
)
from megaphi.tokenizer.think_tokens import ThinkTokens, think_tokens_among
from megaphi.tokenizer.tokenizer_files import TOKENIZER_JSON, chat_template_source, named_tokens, read_tokenizer

PHI4 = "phi4"
TOKENIZER_FILES = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json merges.txt"
    " tokenizer.model chat_template.jinja chat_template.json"
).split()
"""Files that may make up a tokenizer; only tokenizer.json and those that describe it are read."""
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""At least one of these is needed, whatever else describes the tokenizer."""
READ_BESIDE = ("generation_config.json", "config.json")
"""Files of a model that may name further end tokens."""


def open_path(
    path: str, *, vocabulary: int | None = None, ranks_file: str | os.PathLike[str] | None = None
) -> Tokenizer:
    """The tokenizer at `path`: a folder with tokenizer.json, that file itself, or `phi4`.

    Args:
        vocabulary: rows of the model's embedding, which the ids must fit into; Phi-4's tokenizer is cut to them.

    Raises:
        InputError: there is none, it cannot be read, or it has more tokens than the model.
    """
    if path == PHI4:
        return load_tokenizer(vocabulary or FULL_VOCABULARY_SIZE, ranks_file=ranks_file)
    place = Path(path).expanduser()
    folder = place if place.is_dir() else place.parent
    if place.is_file() and place.name != TOKENIZER_JSON:
        raise InputError(f"tokenizer {path}: expected a folder with {TOKENIZER_JSON}, that file itself, or {PHI4}")
    files = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
    if not place.exists() or not files.keys() & set(VOCABULARIES):
        raise InputError(
            f"tokenizer {path}: there is no {TOKENIZER_JSON} (or is {PHI4} meant, which is part of megaphi?)"
        )
    return open_files(files, vocabulary=vocabulary, ranks_file=ranks_file, where=str(path))


def open_files(
    files: Mapping[str, Path],
    *,
    vocabulary: int | None = None,
    ranks_file: str | os.PathLike[str] | None = None,
    where: str,
) -> Tokenizer:
    """The tokenizer made up of `files` (name -> path); see `open_path`."""
    if TOKENIZER_JSON not in files:
        raise InputError(
            f"{where} has its tokenizer in {', '.join(sorted(files.keys() & set(VOCABULARIES)))} and no"
            f" {TOKENIZER_JSON}: make that with transformers, AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    with damage_named(where, what="a tokenizer"):
        tokenizer = _phi4_described_by(files, ranks_file=ranks_file) or JsonTokenizer(files)
    if vocabulary is not None and tokenizer.vocabulary_size > vocabulary:
        raise InputError(
            f"the tokenizer of {where} has {tokenizer.vocabulary_size:,} tokens, the model a vocabulary of"
            f" {vocabulary:,} (model.vocabulary): the ids must fit"
        )
    return tokenizer


def _phi4_described_by(files: Mapping[str, Path], *, ranks_file: str | os.PathLike[str] | None) -> Phi4Tokenizer | None:
    """Phi-4's tokenizer of some size, if that is what the files describe."""
    data = read_tokenizer(files[TOKENIZER_JSON])
    model = data["model"]
    if not isinstance(model.get("vocab"), dict) or model.get("type") != "BPE" or data.get("normalizer") is not None:
        return None
    added = {token["content"]: token["id"] for token in data["added_tokens"]}
    size = added.get(END_OF_TEXT, -1) + SPECIAL_COUNT - 1
    if not SMALLEST_VOCABULARY_SIZE <= size <= FULL_VOCABULARY_SIZE:
        return None
    think = _think_tokens(data["added_tokens"], size)
    if think is None and added != special_token_ids(size):
        return None
    if len(model["vocab"]) < size - SPECIAL_COUNT or not _has_our_format(files):
        return None
    ranks = read_ranks(ranks_file, count=size - SPECIAL_COUNT)
    tokenizer = Phi4Tokenizer(ranks, think=think, files={} if think is None else files)
    letters = byte_letters()
    is_ours = all(
        model["vocab"].get("".join(letters[byte] for byte in token)) == rank for token, rank in tokenizer.ranks.items()
    )
    return tokenizer if is_ours else None


def _think_tokens(added: Sequence[Mapping[str, Any]], size: int) -> ThinkTokens | None:
    """Two renamed placeholders that are nothing but their text: visible, and without a claim on the blanks around."""
    think = think_tokens_among({token["content"]: token["id"] for token in added}, size)
    marks = ("special", "lstrip", "rstrip", "single_word", "normalized")
    is_plain = think is not None and not any(
        token.get(mark) for token in added if token["content"] in think.names for mark in marks
    )
    return think if is_plain else None


def _has_our_format(files: Mapping[str, Path]) -> bool:
    """Return whether the chat template, if there is one, renders as ours does."""
    source = chat_template_source(files)
    if source is None:
        return True
    talk = [Message("system", "s"), Message("user", " u\n"), Message("assistant", "a"), Message("user", "v")]
    expected = "".join(f"<|im_start|>{one.role}<|im_sep|>{one.content}<|im_end|>" for one in talk)
    template = ChatTemplate(source, named_tokens(files), where="the chat template")
    try:
        text = template.render(to_plain(Conversation(tuple(talk))), add_generation_prompt=True)
    except InputError:
        return False
    return text == f"{expected}<|im_start|>assistant<|im_sep|>"
