"""The tokenizer inside a GGUF file: ids by llama.cpp's own rules, special tokens as it calls them, or one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megaphi.checkpoint.model_tokenizer import tokenizer_of
from megaphi.conversion.formats.gguf.splits import SPLITS
from megaphi.conversion.formats.gguf.tokenizer import tokenizer_files
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.errors import InputError
from megaphi.tokenizer.json_tokenizer import JsonTokenizer
from tests.conversion.formats.gguf.gguf_model import MODEL, write_gguf
from tests.conversion.formats.gguf.gguf_tokenizers import (
    PASSAGES,
    PATTERNS,
    SPECIALS,
    WHOLE_PIECES,
    add_fields,
    byte_level_fields,
    byte_level_ids,
    sentencepiece_fields,
    sentencepiece_ids,
)
from tests.tokenizer.hard_text import CONTRACTIONS, DIGITS, SEQUENCES, SPACES
from tests.tokenizer.own_tokenizer import CORPUS

Change = Callable[[dict[str, Any]], object]
HARD = [
    *CORPUS,
    *SEQUENCES,
    " lazyish Lazyish lazyish",
    "  a   b\t\n\n  c \n \n      d\r\n\r\n  ",
    "In 2026: 12345 + 1,234,567.89 = 1/3; ½ ² Ⅷ ٠٩",
    "Größenwahn, Ärger. Où êtes-vous? Привет, мир! 今天天气很好。नमस्ते दुनिया, مرحبا بالعالم, e\u0301 ﬁ",
    "class HTTPServer2(BaseHandler):\n\tdef getURL(self, x=None): return f'{self.URL}/{x!r}'  # don't; DON'T\n",
    "SPELLED: <|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "".join(f"I'{end} x" for end in CONTRACTIONS),
    DIGITS,
    SPACES,
]


def opened(fields: dict[str, Any]) -> JsonTokenizer:
    return JsonTokenizer(tokenizer_files(Path("model.gguf"), fields, context=64))


@pytest.mark.parametrize("pre", SPLITS)
def test_ids_are_those_of_llama_cpp_by_its_name_of_the_split(pre: str) -> None:
    fields = byte_level_fields(pre, specials_first=pre != "llama-bpe")
    tokenizer = opened(fields)
    for text in [PASSAGES.read_text(), *HARD, "a <think> b<think>"]:
        ids = tokenizer.encode(text)
        assert ids == byte_level_ids(fields, text)
        if pre != "qwen2":  # which composes
            assert tokenizer.decode(ids) == text
    begins = [fields["tokenizer.ggml.bos_token_id"]] if pre in WHOLE_PIECES else []
    assert list(tokenizer.text_start) == begins
    assert set(PATTERNS) == set(SPLITS)


def test_tokens_are_what_the_file_calls_them() -> None:
    for specials_first in (True, False):
        fields = byte_level_fields("smollm", specials_first=specials_first)
        texts = fields["tokenizer.ggml.tokens"]
        tokenizer = opened(fields)
        assert tokenizer.special_ids == {text: texts.index(text) for text in SPECIALS}
        assert tokenizer.end_of_text == tokenizer.message_end == texts.index("<|im_end|>")
        assert tokenizer.encode("x<think>")[-1] == texts.index("<think>")
        assert tokenizer.vocabulary_size == len(texts) - 2  # of which two are not used
        every = range(tokenizer.vocabulary_size)
        assert [tokenizer._fast.id_to_token(token) for token in every] == texts[:-2]


def test_what_stands_around_a_text_is_the_files_word() -> None:
    fields = byte_level_fields("llama-bpe")
    assert opened({**fields, "tokenizer.ggml.add_bos_token": False}).text_start == ()
    both = opened({**fields, "tokenizer.ggml.add_eos_token": True})
    begin, end = fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]
    around = both._fast.encode("a").ids
    assert (around[0], around[-1], len(around)) == (begin, end, 3)
    assert list(both.text_start) == [begin]
    more = opened({**fields, "tokenizer.ggml.eot_token_id": fields["tokenizer.ggml.unknown_token_id"]})
    assert more.stop_tokens == {end, fields["tokenizer.ggml.unknown_token_id"]}


def test_several_chat_templates_keep_their_names() -> None:
    tools = {"tokenizer.chat_templates": ["tools"], "tokenizer.chat_template.tools": "{{ tools }}"}
    fields = {**byte_level_fields("gpt-2"), **tools}
    files = tokenizer_files(Path("model.gguf"), fields, context=64)
    listed = json.loads(files["tokenizer_config.json"].read_text())["chat_template"]
    assert [one["name"] for one in listed] == ["default", "tools"]
    assert JsonTokenizer(files).template is not None


def test_sentencepiece_merges_the_best_score_first() -> None:
    fields = sentencepiece_fields()
    tokenizer = opened(fields)
    for text in [*PASSAGES.read_text().splitlines(), *HARD, *(" " * count + "x" for count in range(1, 40))]:
        ids = tokenizer.encode(text)
        assert ids == sentencepiece_ids(fields, text)
        assert tokenizer.decode(ids) == text
    assert list(tokenizer.text_start) == [1]
    assert tokenizer.special_ids == {"<unk>": 0, "<s>": 1, "</s>": 2}
    own = fields["tokenizer.ggml.tokens"].index("[INST]")
    assert tokenizer.encode("[INST]hello") == [own, *tokenizer.encode("hello")]
    bare = opened({**fields, "tokenizer.ggml.add_space_prefix": False})
    assert [*sentencepiece_ids(fields, "hello there")][-3:] == bare.encode("hello there")[-3:]
    assert bare.decode(bare.encode(" hello")) == " hello"


def changed(name: str, value: Any) -> Change:
    return lambda fields: fields.update({f"tokenizer.ggml.{name}": value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed("pre", "deepseek-coder"), r"ggml\.pre='deepseek-coder', .* is not one of gpt-2, "),
        (changed("pre", "default"), r"ggml\.pre='default'"),
        (lambda fields: fields.pop("tokenizer.ggml.pre"), r"ggml\.pre=None"),
        (changed("model", "t5"), r"ggml\.model='t5' is none of gpt2"),
        (changed("normalizer.lowercase", True), r"ggml\.normalizer\.lowercase=True is not supported"),
        (changed("add_space_prefix", True), r"ggml\.add_space_prefix=True is not supported"),
        (changed("token_type", [1, 2]), "1,000 tokens and the types of 2"),
        (lambda fields: fields.pop("tokenizer.ggml.eos_token_id"), "eos_token_id is missing"),
        (changed("bos_token_id", 5_000), "special token 5000, and has 1,000"),
        (changed("merges", ["t h", "zq qz"]), "merge 'zq qz' is not of its tokens"),
        (lambda fields: fields["tokenizer.ggml.tokens"].__setitem__(900, "<think>"), "the same text"),
        (lambda fields: fields["tokenizer.ggml.token_type"].__setitem__(900, 9), "token 900 .* has the type 9"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_exactly_is_refused(change: Change, reason: str) -> None:
    fields = byte_level_fields("smollm")
    change(fields)
    with pytest.raises(InputError, match=rf"the tokenizer in model\.gguf .*{reason}.*--no-tokenizer"):
        tokenizer_files(Path("model.gguf"), fields, context=64)


def test_scores_that_say_no_order_are_refused() -> None:
    fields = sentencepiece_fields()
    fields["tokenizer.ggml.scores"] = [-1_000.0] * len(fields["tokenizer.ggml.tokens"])
    with pytest.raises(InputError, match=r"several pieces have one score"):
        tokenizer_files(Path("model.gguf"), fields, context=64)
    with pytest.raises(InputError, match=r"tokens and scores of 0"):
        tokenizer_files(Path("model.gguf"), {**fields, "tokenizer.ggml.scores": []}, context=64)


def test_it_is_the_imported_models(tmp_path: Path) -> None:
    fields = byte_level_fields("smollm", size=MODEL.vocabulary)
    path = write_gguf(tmp_path, header=lambda writer: add_fields(writer, fields))
    expected = opened(fields)
    for reader in (open_weights(path), open_weights(to_checkpoint(path, tmp_path / "ours"))):
        found = tokenizer_of(reader)
        assert found is not None
        assert (found.fingerprint, found.stop_tokens) == (expected.fingerprint, expected.stop_tokens)
        assert found.encode(CORPUS[3]) == byte_level_ids(fields, CORPUS[3])


@pytest.mark.parametrize("kind", [None, "none", "no_vocab"])
def test_a_file_without_one_has_none(tmp_path: Path, kind: str | None) -> None:
    fields = {} if kind is None else {"tokenizer.ggml.model": kind}
    reader = open_weights(write_gguf(tmp_path, header=lambda writer: add_fields(writer, fields)))
    assert not reader.carried
    assert tokenizer_of(reader) is None
