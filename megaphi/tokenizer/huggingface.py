"""Write the tokenizer as Hugging Face files that `transformers.AutoTokenizer` loads and that encode identically.

`tokenizer.json` is written directly, without the `tokenizers` package: vocabulary, merges, splitting pattern, special
tokens. tiktoken stores no merges, only ranks, so each token's one merge is recovered by encoding the token itself with
the ranks below its own. The surprising fact: tiktoken's splitting pattern must not be copied. Hugging Face's engine
gives its possessive quantifiers another meaning, so the export carries the classic GPT-4 pattern, which gives the same
ids. One caveat for users: text that spells a special token becomes one, unless `split_special_tokens` is set; text that
spells a think token always does, because these are added tokens that are not marked special, as those of other
reasoning models, so that `skip_special_tokens` leaves them in an answer and servers find them.
"""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

from megaphi.files import write_json, write_text
from megaphi.tokenizer.byte_letters import byte_letters
from megaphi.tokenizer.phi4 import Phi4Tokenizer
from megaphi.tokenizer.special_tokens import END_OF_TEXT, MESSAGE_END, PAD

CLASSIC_SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)


def export_tokenizer(tokenizer: Phi4Tokenizer, folder: str | os.PathLike[str], *, model_max_length: int) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja`.

    The same tokenizer gives the same bytes. The template cannot protect a conversation, because it makes text before
    there are ids: a message that spells `<|im_end|>` ends itself. To serve untrusted users, encode each content
    separately, with `split_special_tokens=True`, and put the ids of the frame around it, as `render_conversation` does.

    Args:
        folder: made if it is not there; each file appears whole or not at all.
        model_max_length: the model's context in tokens, beyond which Hugging Face warns.
    """
    folder = Path(folder)
    special_tokens = {"bos_token": END_OF_TEXT, "eos_token": MESSAGE_END, "pad_token": PAD}
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_tokens,
        "model_max_length": model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],  # else transformers 4 adds ids that Phi-3 refuses
        "clean_up_tokenization_spaces": False,
    }
    write_text(folder / "tokenizer.json", json.dumps(_tokenizer_json(tokenizer), ensure_ascii=False))
    write_json(folder / "tokenizer_config.json", configuration)
    write_json(folder / "special_tokens_map.json", special_tokens)
    write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)


def merge_of(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts whose merge makes `token`: its encoding by the ranks below its own."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pair_ranks = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        best = pair_ranks.index(min(pair_ranks))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def _tokenizer_json(tokenizer: Phi4Tokenizer) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(text, token, special=tokenizer.think is None or text not in tokenizer.think.names)
            for text, token in tokenizer.special_ids.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": CLASSIC_SPLIT_PATTERN},
                    "behavior": "Isolated",
                    "invert": False,
                },
                _byte_level(use_regex=False),
            ],
        },
        "post_processor": _byte_level(use_regex=True),
        "decoder": _byte_level(use_regex=True),
        "model": _model(tokenizer.ranks),
    }


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": use_regex}


def _added_token(text: str, token: int, *, special: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token, "content": text, **plain, "special": special}


def _model(ranks: dict[bytes, int]) -> dict[str, Any]:
    """Vocabulary and merges; `ignore_merges` takes a piece that is a token as it is, as tiktoken does."""
    letters = byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [merge_of(token, ranks) for token in ranks if len(token) > 1]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": True,
        "vocab": {spell(token): rank for token, rank in ranks.items()},
        "merges": [[spell(left), spell(right)] for left, right in merges],
    }
