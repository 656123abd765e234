"""The interface of tokenizers: Phi-4's own (`phi4.py`), or any tokenizer.json (`json_tokenizer.py`).

A tokenizer belongs to a model: its fingerprint is recorded in datasets and checkpoints, and its files travel with the
weights (`open_tokenizer.py` opens them). Text is ordinary text for both kinds: what spells a special token is encoded
letter by letter, and only the frame of a conversation has tokens that mean something else.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from megaphi.conversation import Conversation

TrainOn = Literal["assistant", "last"]
"""The answers of a conversation that are trained on: all of the assistant's, or the last."""
WINDOW = 8
"""Tokens of the preceding text that decide how a continuation begins."""
UNDECIDED = "�"
"""Decoding of an incomplete character, which the tokens that follow may complete."""


@dataclass(frozen=True, slots=True)
class RenderedConversation:
    """Token ids of a conversation and, for each, whether it is a target of training.

    `trained[i]` belongs to `ids[i]` itself, the token to be predicted (from position i - 1), not to the position that
    predicts it. Lists as `Tokenizer.render` makes them; arrays where many are kept (`data/packed/conversations.py`).
    """

    ids: list[int] | NDArray[np.int32]
    trained: list[bool] | NDArray[np.bool_]


class TextDecoder(Protocol):
    """Turns the tokens of one text into pieces that join to it."""

    def add(self, token: int) -> str:
        """The text that has become certain with this token, often none."""
        ...

    def end(self) -> str:
        """Return the rest of the text when no token follows; an incomplete character becomes U+FFFD."""
        ...


class Tokenizer(Protocol):
    """Text to token ids and back. Immutable; safe to share between threads."""

    @property
    def vocabulary_size(self) -> int:
        """Ids are below it; the embedding of the model may have more rows."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all that gives an id its meaning."""
        ...

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Text of every special token to its id."""
        ...

    @property
    def text_start(self) -> Sequence[int]:
        """Tokens before every document, and before a text that is to be continued: often none, or one."""
        ...

    @property
    def end_of_text(self) -> int:
        """Ends a document in pretraining."""
        ...

    @property
    def message_end(self) -> int:
        """Ends an answer of the assistant."""
        ...

    @property
    def pad(self) -> int: ...

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Any of them ends a generation."""
        ...

    @property
    def files(self) -> Mapping[str, Path]:
        """Name -> path of the files that make up the tokenizer; empty for Phi-4's, which is part of megaphi."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text, without `text_start`; a lone surrogate counts as U+FFFD."""
        ...

    def encode_to_array(self, text: str) -> NDArray[np.uint32]:
        """`encode` as uint32 [tokens]."""
        ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that each token stands for within a text, joined; special tokens give their text."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """A text; bytes that are not UTF-8 become U+FFFD."""
        ...

    def open_decoder(self, after: Sequence[int] = ()) -> TextDecoder:
        """For the tokens of a text as they come; it continues the text of `after`, which is not given again."""
        ...

    def render(
        self, conversation: Conversation, *, train_on: TrainOn = "assistant", add_generation_prompt: bool = False
    ) -> RenderedConversation:
        """Ids and trained mask of a conversation in the model's chat format.

        The targets are the assistant's contents and the token that ends each. With `add_generation_prompt` the ids end
        where the assistant's answer begins.

        Raises:
            InputError: the format cannot express the conversation.
        """
        ...


class Utf8Decoder:
    """A `TextDecoder` of a tokenizer whose tokens are bytes."""

    def __init__(self, decode_bytes: Callable[[Iterable[int]], bytes]) -> None:
        self._decode_bytes = decode_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(self._decode_bytes([token]))

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDecoder:
    """A `TextDecoder` of any tokenizer: new text is what a few more tokens add to the decoding of the last ones.

    A word's first token often decodes without its space when it stands alone, so the tokens of the previous piece are
    decoded together with the new ones.
    """

    def __init__(self, decode: Callable[[Iterable[int]], str], after: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(after[-WINDOW:])
        while self._ids and decode(self._ids).endswith(UNDECIDED):  # half a character there is not completed here
            self._ids.pop()
        self._told = len(self._ids)
        """Number of ids that are text already."""

    def add(self, token: int) -> str:
        self._ids.append(token)
        new = self._new()
        if not new or new.endswith(UNDECIDED):
            return ""
        self._ids = self._ids[self._told :]
        self._told = len(self._ids)
        return new

    def end(self) -> str:
        new = self._new()
        self._told = len(self._ids)
        return new

    def _new(self) -> str:
        return self._decode(self._ids)[len(self._decode(self._ids[: self._told])) :]
