"""Incremental detokenization: what text is certain after each token, and where a stop text ends it.

A token may end in the middle of a UTF-8 character, and a text in what may become a stop text; both are held back until
the next tokens decide, so that nothing is ever taken back from a reader. An answer ends before the stop text that is
complete first, the longest of them if several are, which depends on the text alone and not on how tokens cut it.
"""

from __future__ import annotations

from collections.abc import Sequence

from megaphi.conversation import Conversation
from megaphi.sampling import Prompt
from megaphi.tokenizer.interface import Tokenizer


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
    longest = min(len(text), max(map(len, stop), default=1) - 1)
    return next(
        (length for length in range(longest, 0, -1) if any(one.startswith(text[-length:]) for one in stop)),
        0,
    )


def render_prompt(prompt: Prompt, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids: a conversation up to where the assistant begins, a text behind what begins texts, ids as they are."""
    if isinstance(prompt, Conversation):
        return tuple(tokenizer.render(prompt, add_generation_prompt=True).ids)
    if isinstance(prompt, str):
        return (*tokenizer.text_start, *tokenizer.encode(prompt))
    return tuple(prompt)
