"""Tokenizers in llama.cpp's form, and what their ids must be: by its own rules, over whole texts, with no library.

llama.cpp's patterns are applied one after the other, each to the pieces that the one before left; merges are searched
for again after each. A SentencePiece vocabulary merges the two neighbours whose piece has the best score, the leftmost
first.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import regex

from megaphi.tokenizer.byte_letters import byte_letters
from tests.tokenizer.own_tokenizer import CHATML, CORPUS, PASSAGES

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
CASED = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
LLAMA3 = CASED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CASED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HIGH, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{HIGH}*{LOW}+|[^\r\n\p{{L}}\p{{N}}]?{HIGH}+{LOW}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{HIGH}*{LOW}+{CASED}?|[^\r\n\p{{L}}\p{{N}}]?{HIGH}+{LOW}*{CASED}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2,),
    "phi-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "starcoder": (r"\p{N}", GPT2),
    "refact": (r"\p{N}", GPT2),
    "llama-bpe": (LLAMA3,),
    "llama3": (LLAMA3,),
    "llama-v3": (LLAMA3,),
    "smaug-bpe": (LLAMA3,),
    "dbrx": (LLAMA3,),
    "qwen2": (QWEN2,),
    "tekken": (TEKKEN,),
    "gpt-4o": (GPT4O,),
}
WHOLE_PIECES = ("llama-bpe", "llama3", "llama-v3", "tekken")
"""Pre-tokenizers with llama.cpp's ignore_merges; these begin a text with the begin token too."""
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@functools.cache
def _trained(size: int) -> dict[str, Any]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, PASSAGES.read_text()] * 2, trainer)
    return json.loads(tokenizer.to_str())["model"]


def byte_level_fields(pre: str, *, size: int = 1_000, specials_first: bool = True) -> dict[str, Any]:
    """Metadata of a byte-level tokenizer of `size` tokens, as llama.cpp's converter writes it.

    Three tokens are special, `<think>` is the user's own, `Ġlazy dog` no merge makes, and two are not used.
    """
    model = _trained(size - 7)
    normal = [*sorted(model["vocab"], key=model["vocab"].__getitem__), "Ġlazyish"]
    first, last = (SPECIALS, []) if specials_first else ([], SPECIALS)
    texts = [*first, *normal, *last, "<think>", "[PAD1]", "[PAD2]"]
    types = [CONTROL] * len(first) + [NORMAL] * len(normal) + [CONTROL] * len(last) + [USER_DEFINED, UNUSED, UNUSED]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": texts.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": texts.index("<|im_end|>"),
        "tokenizer.ggml.unknown_token_id": texts.index("<|endoftext|>"),
        "tokenizer.ggml.padding_token_id": texts.index("<|im_end|>"),
        "tokenizer.chat_template": CHATML,
    }


def sentencepiece_fields(*, size: int = 1_200) -> dict[str, Any]:
    """Metadata of a SentencePiece vocabulary with pieces of several spaces; an earlier merge has a better score."""
    from tokenizers import Tokenizer, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    lines = [line + " " * (number % 9) + "x" for number, line in enumerate(PASSAGES.read_text().splitlines())]
    trainer = trainers.BpeTrainer(vocab_size=size - 260, show_progress=False, max_token_length=12)
    tokenizer.train_from_iterator([*CORPUS, *lines], trainer)
    vocabulary = tokenizer.get_vocab()
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    merged = [piece for piece in pieces if len(piece) > 1] + [piece for piece in pieces if len(piece) == 1]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *merged, "[INST]"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(merged), USER_DEFINED]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(place) for place in range(len(merged))] + [0.0],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def byte_level_ids(fields: dict[str, Any], text: str) -> list[int]:
    """Ids of ordinary text, in which the user's own tokens stand for themselves."""
    pre, texts, types = (fields[f"tokenizer.ggml.{name}"] for name in ("pre", "tokens", "token_type"))
    normal = {text: token for token, (text, kind) in enumerate(zip(texts, types, strict=True)) if kind == NORMAL}
    own = {text: token for token, (text, kind) in enumerate(zip(texts, types, strict=True)) if kind == USER_DEFINED}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(fields["tokenizer.ggml.merges"])}
    letters = byte_letters()

    @functools.cache
    def ids_of(piece: str) -> list[int]:
        word = "".join(letters[byte] for byte in piece.encode())
        parts = [word] if pre in WHOLE_PIECES and word in normal else list(word)
        while True:
            pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(parts)]
            if not pairs or min(pairs) == len(ranks):
                return [normal[part] for part in parts]
            place = pairs.index(min(pairs))
            parts[place : place + 2] = [parts[place] + parts[place + 1]]

    found: list[int] = []
    for part in regex.split("(" + "|".join(map(regex.escape, own)) + ")", text) if own else [text]:
        composed = unicodedata.normalize("NFC", part) if pre == "qwen2" else part
        found += [own[part]] if part in own else [token for piece in _cut(composed, pre) for token in ids_of(piece)]
    return found


def _cut(text: str, pre: str) -> list[str]:
    pieces = [text]
    for pattern in PATTERNS[pre]:
        pieces = [part for piece in pieces for part in _cut_once(piece, pattern)]
    return pieces


def _cut_once(text: str, pattern: str) -> list[str]:
    """Split at matches of the pattern, keeping matches and the text between them."""
    parts, done = [], 0
    for found in regex.finditer(pattern, text):
        parts += [text[done : found.start()], found[0]]
        done = found.end()
    return [part for part in [*parts, text[done:]] if part]


def sentencepiece_ids(fields: dict[str, Any], text: str) -> list[int]:
    """Ids of a text without special tokens, with the space that stands before it."""
    texts, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    pieces = {text: token for token, (text, kind) in enumerate(zip(texts, types, strict=True)) if kind == NORMAL}
    scores, bytes_at = fields["tokenizer.ggml.scores"], texts.index("<0x00>")
    parts = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        joined = [pieces.get(left + right) for left, right in pairwise(parts)]
        known = [token for token in joined if token is not None]
        if not known:
            break
        place = joined.index(max(known, key=lambda token: scores[token]))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return [token for part in parts for token in _or_bytes(part, pieces, bytes_at)]


def _or_bytes(part: str, pieces: dict[str, int], bytes_at: int) -> Sequence[int]:
    return [pieces[part]] if part in pieces else [bytes_at + byte for byte in part.encode()]


def add_fields(writer: Any, fields: dict[str, Any]) -> None:
    """Put metadata into a GGUF file that is being written."""
    for name, value in fields.items():
        kind = "array" if isinstance(value, list) else "bool" if isinstance(value, bool) else type(value).__name__
        {
            "array": writer.add_array,
            "bool": writer.add_bool,
            "int": writer.add_uint32,
            "str": writer.add_string,
        }[kind](name, value)
