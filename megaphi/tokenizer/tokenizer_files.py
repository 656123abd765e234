"""The files that describe a tokenizer: tokenizer.json with its ids checked, the tokens and the template beside it.

They come from strangers: an id decides the size of tables, and a token may be anything where a text is expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.files import read_json, read_object
from megaphi.foreign.files import SMALL_BYTES, brief, damage_named, read_small
from megaphi.json_text import decode_text

TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
NAMED_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
LISTED_TOKENS = ("additional_special_tokens", "extra_special_tokens")
LARGEST_ID = 1 << 24
"""Limit of a token's id: tables have a place for each id below the largest."""


def read_tokenizer(path: Path) -> dict[str, Any]:
    """Parse a tokenizer.json, with its added tokens and the ids of its vocabulary checked. Raises InputError."""
    data = read_json(path, what="tokenizer", largest=SMALL_BYTES)
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise InputError(f"{path} is no tokenizer.json: it has no model")
    with damage_named(path, what="a tokenizer.json"):
        added, vocabulary = data.setdefault("added_tokens", []), data["model"].get("vocab")
        ids = [token["id"] for token in added if _text_of(token) is not None]
        ids += vocabulary.values() if isinstance(vocabulary, dict) else []
        if not all(type(token) is int and 0 <= token <= LARGEST_ID for token in ids):
            raise ValueError(f"an id that is no whole number from 0 to {LARGEST_ID:,}")
    return data


def named_tokens(files: Mapping[str, Path]) -> dict[str, Any]:
    """bos_token, eos_token ... -> text, and the lists of further special tokens, from the files that name them."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", TOKENIZER_CONFIG):
        if name not in files:
            continue
        content = read_object(files[name], what="tokenizer configuration")
        with damage_named(files[name], what="the configuration of a tokenizer"):
            for key in NAMED_TOKENS:
                if content.get(key) is not None:
                    found[key] = _text_of(content[key])
            for key in LISTED_TOKENS:
                listed = content.get(key)
                if listed:
                    found[key] = [_text_of(one) for one in (listed.values() if isinstance(listed, dict) else listed)]
    return found


def chat_template_source(files: Mapping[str, Path]) -> str | None:
    """The chat template, searched where transformers does; of several, the one called default."""
    if "chat_template.jinja" in files:
        path = files["chat_template.jinja"]
        try:
            return decode_text(read_small(path))
        except (FileNotFoundError, InputError) as error:
            raise InputError(f"{path} cannot be read: {error}") from None
    for name in ("chat_template.json", TOKENIZER_CONFIG):
        found = read_object(files[name], what="chat template").get("chat_template") if name in files else None
        if isinstance(found, list):
            found = next(
                (one.get("template") for one in found if isinstance(one, dict) and one.get("name") == "default"), None
            )
        if isinstance(found, str):
            return found
    return None


def end_tokens(config: Mapping[str, Any]) -> set[int]:
    """The ids that a config.json or generation_config.json says end a text: one, several or none."""
    listed = config.get("eos_token_id")
    return {token for token in (listed if isinstance(listed, list) else [listed]) if type(token) is int}


def _text_of(token: Any) -> str:
    """The text of a token that is named by it, or described. Raises ValueError, LookupError."""
    text = token["content"] if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise ValueError(f"the token {brief(text)}")
    return text
