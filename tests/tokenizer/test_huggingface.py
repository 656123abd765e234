"""The exported tokenizer files, read by transformers, against our own encoder and chat format."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from megaphi.conversation import from_plain
from megaphi.tokenizer.chat_format import render_conversation
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.tokenizer.test_phi4 import HARD_TEXTS, real_texts


@pytest.fixture(scope="module", params=[2_048, 100_352])
def pair(request, tmp_path_factory):
    """Ours, and what transformers makes of its export."""
    folder = tmp_path_factory.mktemp("tokenizer")
    ours = load_tokenizer(request.param)
    export_tokenizer(ours, folder, model_max_length=4_096)
    return ours, AutoTokenizer.from_pretrained(folder)


def test_same_tokens_on_real_and_hard_text(pair):
    ours, theirs = pair
    for text in [text for text in HARD_TEXTS if "<|" not in text] + list(real_texts()):
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))


@given(text=st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_same_tokens_on_any_text(pair, text):
    ours, theirs = pair
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)


def test_special_tokens_and_sizes(pair):
    ours, theirs = pair
    assert len(theirs) == ours.vocabulary_size
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        ours.end_of_text,
        ours.message_end,
        ours.pad,
    )
    assert theirs.convert_tokens_to_ids(list(ours.special_ids)) == list(ours.special_ids.values())
    assert theirs.encode("a<|im_sep|>b") == [*ours.encode("a"), ours.role_end, *ours.encode("b")]
    assert theirs.model_max_length == 4_096


@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_chat_template_is_our_chat_format(pair, add_generation_prompt):
    ours, theirs = pair
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  2 + 2?\n"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "語?"},
    ]
    rendered = render_conversation(from_plain(messages), ours, add_generation_prompt=add_generation_prompt)
    encoded = theirs.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, return_dict=True)
    assert encoded["input_ids"] == rendered.ids
