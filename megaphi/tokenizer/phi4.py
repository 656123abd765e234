"""Phi-4's tokenizer: tiktoken's byte-pair encoder over cl100k_base ranks, and 96 special tokens at the end.

`load_tokenizer` reads the ranks (`rank_file.py`), adds the specials (`special_tokens.py`) and hands both to tiktoken.
Text is always ordinary text here: text that spells a special token is encoded letter by letter, and only code uses
special tokens, by id. A smaller vocabulary is the first ranks of the same file: ranks are in the order in which byte
pairs were merged, so every prefix of at least 256 of them is a complete byte-pair encoding by itself. Two placeholders
may be renamed to think tokens (`think_tokens.py`), which the assistant's text spells.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from megaphi.conversation import Conversation
from megaphi.errors import InputError
from megaphi.tokenizer.chat_format import render_conversation
from megaphi.tokenizer.interface import RenderedConversation, TextDecoder, TrainOn, Utf8Decoder
from megaphi.tokenizer.rank_file import RANKS_SHA256, read_ranks
from megaphi.tokenizer.special_tokens import (
    END_OF_TEXT,
    FULL_VOCABULARY_SIZE,
    MESSAGE_END,
    MESSAGE_START,
    PAD,
    ROLE_END,
    SMALLEST_VOCABULARY_SIZE,
    SPECIAL_COUNT,
    STOP_TOKENS,
    special_token_ids,
)
from megaphi.tokenizer.think_tokens import ThinkTokens

# tiktoken's own pattern for cl100k_base. Possessive quantifiers (`++`) keep it linear in the length of a word.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)

LONG_WHITESPACE = 100_000
"""Characters from which a run of whitespace is cut; tiktoken's regular expression engine dies at about a million."""
_WHITESPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"  # Unicode's, unlike Python's own \s
_LONG_WHITESPACE_RUN = re.compile(f"(?<!{_WHITESPACE}){_WHITESPACE}{{{LONG_WHITESPACE},}}")


class Phi4Tokenizer:
    """Fulfils `Tokenizer`. Use `load_tokenizer` to make one."""

    def __init__(
        self,
        ranks: dict[bytes, int],
        *,
        think: ThinkTokens | None = None,
        spells_think: bool = True,
        files: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        """Make a tokenizer of its ranks.

        Args:
            ranks: the first ranks of cl100k_base, each token's bytes to its id; the special tokens follow them.
            think: the placeholders that are renamed.
            spells_think: whether what the assistant and the system say spells these tokens; without, they have ids
                only.
            files: those that it was read from, if they say more than its size does.
        """
        from tiktoken import Encoding  # takes 0.1 s, which commands without text need not spend

        if think is not None:
            think.check_ranks(ranks)
        self.ranks = ranks
        self.think = think
        self.spells_think = spells_think
        self.vocabulary_size = len(ranks) + SPECIAL_COUNT
        self.special_ids = special_token_ids(self.vocabulary_size, renamed={} if think is None else think.renamed)
        self.end_of_text = self.special_ids[END_OF_TEXT]
        self.message_start = self.special_ids[MESSAGE_START]
        self.role_end = self.special_ids[ROLE_END]
        self.message_end = self.special_ids[MESSAGE_END]
        self.pad = self.special_ids[PAD]
        self.text_start: tuple[int, ...] = ()
        self.files = files
        self.stop_tokens = frozenset(self.special_ids[name] for name in STOP_TOKENS)
        self._encoding = Encoding(
            f"phi4_{self.vocabulary_size}",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks=ranks,
            special_tokens=self.special_ids,
            explicit_n_vocab=self.vocabulary_size,
        )

    def __repr__(self) -> str:
        think = "" if self.think is None else f", think={self.think.names}"
        return f"Phi4Tokenizer(vocabulary_size={self.vocabulary_size}{think})"

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all that gives an id its meaning: rank file, vocabulary size, special tokens."""
        meaning = [RANKS_SHA256, self.vocabulary_size, self.special_ids]
        return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, all of them ordinary: text that spells a special token stays text.

        A lone surrogate, which UTF-8 cannot hold, counts as U+FFFD.
        """
        if len(text) < LONG_WHITESPACE:
            return self._encoding.encode_ordinary(text)
        return list(chain.from_iterable(map(self._encoding.encode_ordinary, cut_long_whitespace(text))))

    def encode_answer(self, text: str) -> list[int]:
        """`encode` for what the assistant or the system says: text that spells a think token is that token."""
        if self.think is None or not self.spells_think:
            return self.encode(text)
        return self.think.encode_spelled(text, self.encode, self.special_ids)

    def encode_to_array(self, text: str) -> NDArray[np.uint32]:
        """`encode` without a Python integer for every token: uint32 [tokens], read-only."""
        if len(text) >= LONG_WHITESPACE:
            return np.array(self.encode(text), dtype=np.uint32)
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:  # a lone surrogate
            return np.array(self.encode(text), dtype=np.uint32)

    def encode_batch(self, texts: Iterable[str], *, threads: int | None = None) -> list[list[int]]:
        """`encode` for many texts on `threads` threads (default: one per processor); tiktoken releases the GIL."""
        threads = threads or os.cpu_count() or 1
        if threads == 1:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.encode, texts))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that `ids` stand for; special tokens give their text. `InputError` for an id out of range."""
        known = [operator.index(token) for token in ids]
        for position, token in enumerate(known):
            if not 0 <= token < self.vocabulary_size:
                raise InputError(
                    f"token id {token} at position {position} is outside this tokenizer's vocabulary of "
                    f"{self.vocabulary_size} (ids 0 to {self.vocabulary_size - 1}): was it made with another one?"
                )
        return self._encoding.decode_bytes(known)

    def decode(self, ids: Iterable[int]) -> str:
        """Like `decode_bytes`, as text; bytes that are not UTF-8 (say, half a character) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def open_decoder(self, after: Sequence[int] = ()) -> TextDecoder:
        """Bytes mean the same behind any text, so `after` changes nothing."""
        return Utf8Decoder(self.decode_bytes)

    def renamed(self, think: ThinkTokens | None, *, spells_think: bool = True) -> Phi4Tokenizer:
        """The same vocabulary with other names of placeholders, or other text that spells them."""
        if (think, spells_think) == (self.think, self.spells_think):
            return self
        files = self.files if think == self.think else {}
        return Phi4Tokenizer(self.ranks, think=think, spells_think=spells_think, files=files)

    def render(
        self, conversation: Conversation, *, train_on: TrainOn = "assistant", add_generation_prompt: bool = False
    ) -> RenderedConversation:
        """See `chat_format.py`."""
        return render_conversation(conversation, self, train_on=train_on, add_generation_prompt=add_generation_prompt)


def load_tokenizer(
    vocabulary_size: int = FULL_VOCABULARY_SIZE,
    *,
    ranks_file: str | os.PathLike[str] | None = None,
    think: ThinkTokens | None = None,
) -> Phi4Tokenizer:
    """Phi-4's tokenizer, or a smaller one cut from its first ranks, without a download.

    Args:
        vocabulary_size: number of tokens, the 96 special ones included, from 352 to 100,352 (the released model's).
        ranks_file: the cl100k_base rank file; None looks for it as told in `rank_file.py`.
        think: placeholders to rename.

    Raises:
        InputError: `vocabulary_size` is out of range, or there is no right rank file.
    """
    check_vocabulary_size(vocabulary_size)
    return Phi4Tokenizer(read_ranks(ranks_file, count=vocabulary_size - SPECIAL_COUNT), think=think)


def can_have(vocabulary_size: int) -> bool:
    """Return whether Phi-4's tokenizer can be cut to this vocabulary size."""
    return SMALLEST_VOCABULARY_SIZE <= vocabulary_size <= FULL_VOCABULARY_SIZE


def check_vocabulary_size(vocabulary_size: int) -> None:
    """Raises InputError for a number of tokens that Phi-4's tokenizer cannot have."""
    if not can_have(vocabulary_size):
        raise InputError(
            f"vocabulary_size {vocabulary_size} is out of range: choose {SMALLEST_VOCABULARY_SIZE} (256 bytes and "
            f"{SPECIAL_COUNT} special tokens) to {FULL_VOCABULARY_SIZE} (all of cl100k_base)"
        )


def cut_long_whitespace(text: str) -> Sequence[str]:
    """Cut `text` inside very long runs of whitespace, where that changes no token.

    A run that ends the text needs no cut. Of a run before other text, the pattern leaves the last character to what
    follows, unless the run ends a line; the rest splits after its last line break. A cut before that last character
    makes the rest one piece instead, which encodes the same: no token of cl100k_base holds a line break and ends in
    something else.
    """
    cuts = [0]
    for run in _LONG_WHITESPACE_RUN.finditer(text):
        if run.end() < len(text):
            cuts.append(run.end() if run[0][-1] in "\r\n" else run.end() - 1)
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]
