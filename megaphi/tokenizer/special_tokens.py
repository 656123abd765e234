"""The 96 special tokens that follow the byte-pair ranks: eight with a name, and 88 dummies that fill up the vocabulary.

Pure table, no tokenizer. Special tokens always take the last 96 ids, so a vocabulary of V tokens keeps the first V - 96
ranks of cl100k_base; at 100,352 every id is the released phi-4's. The surprising fact: the pad token is one of the
dummies. The first release padded with its own end token, so fine-tuning masked that token out and the model never
learned to stop; a pad that is no stop token cannot do that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FULL_VOCABULARY_SIZE = 100_352
"""Tokens of the released phi-4: 100,256 ranks of cl100k_base and 96 specials."""
SPECIAL_COUNT = 96
SMALLEST_VOCABULARY_SIZE = 256 + SPECIAL_COUNT
"""Below 256 ranks some byte would have no token, and some text no encoding."""

END_OF_TEXT = "<|endoftext|>"  # ends a document in pretraining
MESSAGE_START = "<|im_start|>"  # opens a chat message; the role follows
ROLE_END = "<|im_sep|>"  # separates role and content
MESSAGE_END = "<|im_end|>"  # closes a chat message
PAD = "<|dummy_85|>"  # the released model's pad

NAMED_PLACES = {
    END_OF_TEXT: 1,
    "<|fim_prefix|>": 2,
    "<|fim_middle|>": 3,
    "<|fim_suffix|>": 4,
    MESSAGE_START: 8,
    MESSAGE_END: 9,
    ROLE_END: 10,
    "<|endofprompt|>": 20,
}
"""Position of each named special token among the 96; the gaps are dummies."""

STOP_TOKENS = (END_OF_TEXT, MESSAGE_END)
"""Tokens that end a generation: the first a document, the second an answer."""


_NO_NAMES: Mapping[str, str] = MappingProxyType({})


def is_placeholder(text: str) -> bool:
    """Return whether a special token of this text has no use: a dummy that does not pad."""
    return text.startswith("<|dummy_") and text != PAD


def special_token_ids(
    vocabulary_size: int = FULL_VOCABULARY_SIZE, *, renamed: Mapping[str, str] = _NO_NAMES
) -> dict[str, int]:
    """Text of every special token to its id, in id order, for a vocabulary of `vocabulary_size` tokens.

    `renamed` gives placeholders other names, see `think_tokens.py`.
    """
    name_of_place = {place: name for name, place in NAMED_PLACES.items()}
    first_id = vocabulary_size - SPECIAL_COUNT
    ids: dict[str, int] = {}
    dummies = 0
    for place in range(SPECIAL_COUNT):
        name = name_of_place.get(place)
        if name is None:
            name = f"<|dummy_{dummies}|>"
            dummies += 1
        ids[renamed.get(name, name)] = first_id + place
    return ids
