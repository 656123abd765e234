"""Incremental detokenization: what text is certain after each token, and where a stop text ends it.

A token may end in the middle of a UTF-8 character, and a text in what may become a stop text; both are held back until
the next tokens decide, so that nothing is ever taken back from a reader. An answer ends before the stop text that is
complete first, the longest of them if several are, which depends on the text alone and not on how tokens cut it.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from functools import lru_cache

from megaphi.conversation import Conversation
from megaphi.sampling import Prompt
from megaphi.tokenizer.interface import Tokenizer

_WRITTEN = (string.digits, string.ascii_letters, string.whitespace, string.punctuation)
BYTE_CLASSES = (
    *(letters.encode() for letters in _WRITTEN),
    bytes(range(128, 256)),
    bytes(set(range(128)) - set("".join(_WRITTEN).encode())),
)
"""Bytes of one class, of which a token has few: 3 digits, while a token of blanks alone has 128 bytes."""


class TextStream:
    """Detokenizes one text incrementally: texts that join to the whole of it."""

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, after: Sequence[int] = (), before: int = 0
    ) -> None:
        """`stop`: texts that end this one, none of them empty; `after`: tokens that it continues; `before`:
        characters that stand before it."""
        self._stop = tuple(stop)
        self._decoder = tokenizer.open_decoder(after)
        self._held = ""
        self.characters = before
        """Characters decoded so far, held ones and those of a stop text included: start of the next token's text."""
        self.is_stopped = False
        """True once a stop text has appeared; from then on there is no more text."""

    def add(self, token: int) -> str:
        """The text that has become certain with this token, often none."""
        return self._advance(self._decoder.add(token))

    def end(self) -> str:
        """Return the rest of the text when no token follows; an incomplete character becomes U+FFFD."""
        text = self._advance(self._decoder.end()) + self._held
        self._held = ""
        return text

    def _advance(self, text: str) -> str:
        self.characters += len(text)
        if self.is_stopped:
            return ""
        open_text = self._held + text
        end = stop_start(open_text, self._stop)
        self.is_stopped = end is not None
        if end is None:
            end = len(open_text) - _unfinished(open_text, self._stop)
        self._held = "" if self.is_stopped else open_text[end:]
        return open_text[:end]


def stop_start(text: str, stop: Sequence[str]) -> int | None:
    """Start of the stop text that is complete first in `text`; the longest of several that end at one place."""
    found = [(place + len(one), -len(one)) for one in stop if (place := text.find(one)) >= 0]
    if not found:
        return None
    end, negative_length = min(found)
    return end + negative_length


def _unfinished(text: str, stop: Sequence[str]) -> int:
    """Characters at the end of `text` that may be the beginning of a stop text."""
    return max((_overlap(text, one) for one in stop), default=0)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop`, short of all of it, that ends `text`."""
    place = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while place >= 0 and not stop.startswith(text[place:]):
        place = text.find(stop[0], place + 1)
    return len(text) - place if place >= 0 else 0


def fewest_tokens(texts: Iterable[str], tokenizer: Tokenizer) -> int:
    """A lower bound of the number of tokens, without encoding: by the most bytes of each class in one token."""
    counts = [0] * len(BYTE_CLASSES)
    for text in texts:
        more = _bytes_by_class(text.encode("utf-8", "replace"))
        counts = [count + added for count, added in zip(counts, more, strict=True)]
    return max(-(-count // most) for count, most in zip(counts, _most_bytes_by_class(tokenizer), strict=True))


@lru_cache(maxsize=8)
def _most_bytes_by_class(tokenizer: Tokenizer) -> list[int]:
    """The most bytes of each class in one token."""
    spelled = (tokenizer.decode_bytes([token]) for token in range(tokenizer.vocabulary_size))
    return [max(1, *counts) for counts in zip(*map(_bytes_by_class, spelled), strict=True)]


def _bytes_by_class(content: bytes) -> list[int]:
    return [len(content) - len(content.translate(None, delete=some)) for some in BYTE_CLASSES]


def render_prompt(prompt: Prompt, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids: a conversation up to where the assistant begins, a text behind what begins texts, ids as they are."""
    if isinstance(prompt, Conversation):
        return tuple(tokenizer.render(prompt, add_generation_prompt=True).ids)
    if isinstance(prompt, str):
        return (*tokenizer.text_start, *tokenizer.encode(prompt))
    return tuple(prompt)
