"""The two tokens around a model's reasoning: placeholders of Phi-4's vocabulary under the names `<think>`, `</think>`.

Renaming gives two ids that no text has used yet a meaning, and changes nothing else, so a model of the plain vocabulary
is the model of the renamed one. They are no control tokens: their text is visible in an answer. But neither can a user
forge them. Only what the assistant and the system say spells them (`encode_spelled`); in a user's message, and in every
document, `<think>` is ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from megaphi.errors import InputError, did_you_mean
from megaphi.tokenizer.special_tokens import PAD, is_placeholder, special_token_ids

DEFAULT_PLACEHOLDERS = ("<|dummy_86|>", "<|dummy_87|>")
"""Ids 100350 and 100351, the last two of the vocabulary (default; the Phi-4-reasoning report names no ids)."""
LONGEST_NAME = 32


@dataclass(frozen=True, slots=True)
class ThinkTokens:
    """Names of two placeholders. Raises InputError for what cannot be a name, or is no placeholder."""

    begin: str = "<think>"
    end: str = "</think>"
    placeholders: tuple[str, str] = DEFAULT_PLACEHOLDERS
    """The placeholders that are renamed to `begin` and `end`, in the order of their ids."""

    def __post_init__(self) -> None:
        _check_placeholders(self.placeholders)
        _check_names(self.begin, self.end)

    @property
    def names(self) -> tuple[str, str]:
        return self.begin, self.end

    @property
    def renamed(self) -> Mapping[str, str]:
        """Placeholder -> name."""
        return dict(zip(self.placeholders, self.names, strict=True))

    @property
    def pattern(self) -> re.Pattern[str]:
        """Either name, in a group of its own."""
        return re.compile(f"({re.escape(self.begin)}|{re.escape(self.end)})")

    def check_ranks(self, ranks: Collection[bytes]) -> None:
        """Refuse a name that an ordinary token has already: the text would have two ids."""
        for name in self.names:
            if name.encode() in ranks:
                raise InputError(f"think token {name!r}: the vocabulary has an ordinary token of that text already")

    def encode_spelled(self, text: str, encode: Callable[[str], list[int]], ids: Mapping[str, int]) -> list[int]:
        """Ids of a text in which the names are the tokens; `encode` gives the ids of what stands between them.

        So does transformers: added tokens are cut out before the text is split into words.
        """
        found: list[int] = []
        for place, part in enumerate(self.pattern.split(text)):
            found += [ids[part]] if place % 2 else encode(part)
        return found

    def fault(self, text: str) -> str | None:
        """Return what is wrong with an answer to learn from: reasoning that is not closed, or closed twice."""
        found = self.pattern.findall(text)
        if found[:1] == [self.end]:
            return f"{self.end} comes before any {self.begin}"
        doubled = next((one for one, following in pairwise(found) if one == following), None)
        if doubled is not None:
            return f"two {doubled} follow each other"
        if found[-1:] == [self.begin]:
            return f"its last {self.begin} is never closed by {self.end}: was the answer cut off?"
        return None


def think_tokens(names: Sequence[str], placeholders: Sequence[str] = DEFAULT_PLACEHOLDERS) -> ThinkTokens | None:
    """Make `ThinkTokens` of the fields of a configuration; None where no names are given."""
    for field, values in (("think_tokens", names), ("think_placeholders", placeholders)):
        if len(values) != 2 and (values or field == "think_placeholders"):
            raise InputError(
                f"tokenizer.{field}={','.join(values)}: give two, for the beginning and the end of the reasoning"
            )
    if not names:
        return None
    return ThinkTokens(names[0], names[1], (placeholders[0], placeholders[1]))


def think_tokens_among(added: Mapping[str, int], size: int) -> ThinkTokens | None:
    """Find the names of two placeholders among special tokens (text -> id) that are else Phi-4's of `size` tokens.

    None if anything else differs too: then the tokenizer is another one.
    """
    plain = {token: text for text, token in special_token_ids(size).items()}
    theirs = {token: text for text, token in added.items()}
    if theirs.keys() != plain.keys():
        return None
    differing = [token for token in sorted(plain) if theirs[token] != plain[token]]
    if len(differing) != 2:
        return None
    first, second = differing
    try:
        return ThinkTokens(theirs[first], theirs[second], (plain[first], plain[second]))
    except InputError:
        return None


def _check_placeholders(placeholders: tuple[str, str]) -> None:
    ids = special_token_ids()
    known = [text for text in ids if is_placeholder(text)]
    for text in placeholders:
        if text not in ids:
            raise InputError(
                f"think placeholder {text!r} is not in the vocabulary: its placeholders are {known[0]} to {known[-1]}."
                f"{did_you_mean(text, known)}"
            )
        if text == PAD or not is_placeholder(text):
            use = "fills up rows" if text == PAD else "has a use of its own"
            raise InputError(f"think placeholder {text!r} {use}: choose another of {known[0]} to {known[-1]}")
    if ids[placeholders[0]] >= ids[placeholders[1]]:
        raise InputError(f"think placeholders {', '.join(placeholders)}: give two different ones, the smaller id first")


def _check_names(begin: str, end: str) -> None:
    for name in (begin, end):
        if not name or name != name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise InputError(
                f"think token {name!r}: a name has 1 to {LONGEST_NAME} printable characters and no blank at its ends"
            )
    names = [*special_token_ids(), begin, end]
    for name in (begin, end):
        others = list(names)
        others.remove(name)
        overlapping = [other for other in others if name in other or other in name]
        if overlapping:
            raise InputError(f"think token {name!r}: {overlapping[0]!r} is a token too, and one spells the other")
