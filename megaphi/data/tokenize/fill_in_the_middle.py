"""Fill in the middle (Bavarian et al. 2022): teach a left-to-right model to write the text between two others.

A share of the documents is cut at two characters into prefix, middle and suffix, each of which is tokenised by itself
and framed by special tokens, in one of two orders that the paper trains together:

    PSM   <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle
    SPM   <|fim_prefix|> <|fim_suffix|> suffix <|fim_middle|> prefix middle

Cuts fall on characters, not on tokens, as people stop typing inside words. The surprising fact: the dice are the hash
of the text, so a document is rearranged alike in whatever shard, process or order it is met.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from megaphi.errors import InputError
from megaphi.tokenizer.interface import Tokenizer

PREFIX, MIDDLE, SUFFIX = "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class FillInTheMiddle:
    """Share of documents to rearrange, and the forms they take."""

    rate: float
    """Share of all documents that are rearranged."""
    spm_rate: float = 0.5
    """Share of those in the order suffix, prefix, middle."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "spm_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"fill in the middle: {name} {getattr(self, name)} is not a share between 0 and 1")
        if not 0 <= self.seed < 1 << 64:
            raise InputError(f"fill in the middle: seed {self.seed} is outside 0 .. 2^64 - 1")


def check_sentinels(tokenizer: Tokenizer, *, where: str) -> None:
    """Raises InputError for a tokenizer without the three tokens."""
    missing = [name for name in (PREFIX, MIDDLE, SUFFIX) if name not in tokenizer.special_ids]
    if missing:
        raise InputError(f"fill in the middle: the tokenizer {where} has no special token {missing[0]}: leave it out")


@dataclass(frozen=True, slots=True)
class FramedText:
    """A special token, if any, and the text after it."""

    sentinel: str | None
    text: str


def rearrange(text: str, settings: FillInTheMiddle) -> list[FramedText]:
    """The parts of a document in the order in which they are trained on; one without a sentinel if it stays whole.

    Four words w of 64 bits are BLAKE2b of the text (UTF-8, lone surrogates passed) keyed by the seed: it is rearranged
    if w0 / 2^64 < rate, as SPM if w1 / 2^64 < spm_rate, and cut at (w2 (n + 1)) >> 64 and (w3 (n + 1)) >> 64, n being
    the number of characters: each of the n + 1 places with the same probability, so parts may be empty.
    """
    key = struct.pack("<Q", settings.seed)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=32).digest()
    chosen, order, *places = struct.unpack("<4Q", digest)
    if chosen >= settings.rate * 2.0**64:
        return [FramedText(None, text)]
    first, second = sorted((place * (len(text) + 1)) >> 64 for place in places)
    prefix, middle, suffix = text[:first], text[first:second], text[second:]
    if order < settings.spm_rate * 2.0**64:
        return [
            FramedText(PREFIX, ""),
            FramedText(SUFFIX, suffix),
            FramedText(MIDDLE, prefix),
            FramedText(None, middle),
        ]
    return [FramedText(PREFIX, prefix), FramedText(SUFFIX, suffix), FramedText(MIDDLE, middle)]
