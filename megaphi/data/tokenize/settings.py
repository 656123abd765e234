"""The settings that determine the result of tokenising: as they are asked for, and with nothing left open.

A dataset of the same inputs and settings is kept, and finished shards of an interrupted run are taken over; where the
tokenizer lies makes no difference, its fingerprint does.
"""

from __future__ import annotations

from dataclasses import dataclass

from megaphi.data.text.bad_records import OnBadRecords
from megaphi.data.tokenize.encoders import chosen_encoder
from megaphi.data.tokenize.fill_in_the_middle import FillInTheMiddle
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.open_tokenizer import PHI4


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeSettings:
    """Settings as a caller gives them."""

    tokenizer: str = PHI4
    """`phi4`, or a path, as `open_path` takes them."""
    vocabulary_size: int | None = None
    """Number of Phi-4's tokens, see `load_tokenizer`; None means all."""
    ranks_file: str | None = None
    """Phi-4's file of tokens, see `load_tokenizer`."""
    text_key: str = "text"
    """The field or column that holds the text of a record."""
    shuffle_seed: int | None = 0
    """Seed of the documents' order; None keeps the order of the inputs."""
    encoder: str | None = None
    """Encoder that makes the ids, see `encoders.py`; None means the first that the tokenizer has."""
    fill_in_the_middle: FillInTheMiddle | None = None
    """Rearrange a share of the documents."""
    bad_records: OnBadRecords = "error"
    """Stop at records that hold no text and name all of a shard (error), or count them (skip)."""

    def decided(self, tokenizer: Tokenizer) -> DecidedSettings:
        """Fill in from the tokenizer what is left open. Raises InputError for an encoder that it does not have."""
        encoder = chosen_encoder(self.encoder, tokenizer)
        return DecidedSettings(asked=self, vocabulary_size=tokenizer.vocabulary_size, encoder=encoder)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecidedSettings:
    """Settings that a worker process needs besides the pieces."""

    asked: TokenizeSettings
    vocabulary_size: int
    """Tokens of the tokenizer."""
    encoder: str
    doubtful: tuple[int, ...] = ()
    """Characters that the encoder leaves to tiktoken; found once, when there is something to tokenise."""
