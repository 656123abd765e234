"""Pre-tokenization (splitting text before merges) by its name in a GGUF file (`tokenizer.ggml.pre`, llama.cpp's names).

The file holds only the name, so this table defines each of them: llama.cpp's rule, in the form of the models' own
tokenizer.json. Where the two differ (Qwen composes characters first, llama.cpp does not) the model's own is right,
because the model was trained with it. A name that is missing here is refused, not guessed: a wrong split gives
plausible ids that the model has never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
LLAMA3 = rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}|{_REST}"
TEKKEN = rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}|{_REST_WITH_SLASH}"
GPT4O = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{_REST_WITH_SLASH}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The definition of one named pre-tokenization."""

    pattern: str | None = None
    """Pattern of the pieces that no merge crosses; none: GPT-2's, which `tokenizers` has built in."""
    single_digits: bool = False
    composed: bool = False
    """Normalise characters to NFC first."""
    whole_pieces: bool = False
    """A piece that is a token is not taken apart, whatever its merges (ignore_merges)."""
    begins: bool = False
    """Default for prepending the begin token, if the file does not set it."""

    def pre_tokenizer(self) -> PreTokenizer:
        from tokenizers import Regex, pre_tokenizers

        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None)
        if self.pattern is not None:
            return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(self.pattern), "isolated"), letters])
        if self.single_digits:
            return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), letters])
        return letters


_LLAMA3 = Split(pattern=LLAMA3, whole_pieces=True, begins=True)
_DIGITS = Split(single_digits=True)
SPLITS: Mapping[str, Split] = {
    "gpt-2": Split(),
    "phi-2": Split(),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smaug-bpe": Split(pattern=LLAMA3),
    "dbrx": Split(pattern=LLAMA3),  # cl100k: Phi-4 too
    "qwen2": Split(pattern=QWEN2, composed=True),
    "tekken": Split(pattern=TEKKEN, whole_pieces=True, begins=True),
    "gpt-4o": Split(pattern=GPT4O),
}
