"""Streamed text: pieces join to the whole decoding, and end before a stop text as a brute force finds it."""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from megaphi.conversation import Conversation, Message
from megaphi.generation.text import TextStream, _unfinished, fewest_tokens, render_prompt
from megaphi.tokenizer.chat_format import render_conversation
from megaphi.tokenizer.phi4 import Phi4Tokenizer, load_tokenizer


@cache
def tokenizer() -> Phi4Tokenizer:
    return load_tokenizer()


@cache
def bytes_alone() -> Phi4Tokenizer:
    """The smallest vocabulary: every token is one byte, so every character of several bytes is cut."""
    return load_tokenizer(352)


def streamed(ids: list[int], stop: tuple[str, ...], with_tokenizer: Phi4Tokenizer) -> tuple[list[str], bool]:
    stream = TextStream(with_tokenizer, stop)
    pieces = [stream.add(token) for token in ids]
    return [*pieces, stream.end()], stream.is_stopped


def cut_by_brute_force(text: str, stop: tuple[str, ...]) -> str:
    """Grow the text by one character until it ends in a stop text."""
    for end in range(1, len(text) + 1):
        if matching := [one for one in stop if text[:end].endswith(one)]:
            return text[: end - max(map(len, matching))]
    return text


@given(st.lists(st.integers(0, 100_351), max_size=40))
def test_pieces_join_to_the_whole_decoding_of_any_tokens(ids):
    pieces, is_stopped = streamed(ids, (), tokenizer())
    assert "".join(pieces) == tokenizer().decode(ids)
    assert not is_stopped


@given(st.lists(st.sampled_from([*"é字🙂a".encode(), 0xFF, 0xC3]), max_size=30))
def test_broken_utf8_decodes_the_same_in_pieces_as_at_once(values):
    ids = [bytes_alone().ranks[bytes([value])] for value in values]
    assert "".join(streamed(ids, (), bytes_alone())[0]) == bytes(values).decode(errors="replace")


@given(st.text(max_size=40))
def test_no_piece_holds_half_a_character(text):
    ids = bytes_alone().encode(text)
    pieces, _ = streamed(ids, (), bytes_alone())
    whole = bytes_alone().decode(ids)
    assert "".join(pieces) == whole
    assert len([piece for piece in pieces if piece]) == len(whole)


short_texts = st.text(alphabet="ab🙂é", max_size=12)


@given(short_texts, st.lists(st.text(alphabet="ab🙂é", min_size=1, max_size=4), max_size=3).map(tuple))
def test_a_stop_text_ends_the_text_where_a_brute_force_says(text, stop):
    expected = cut_by_brute_force(text, stop)
    for one in (tokenizer(), bytes_alone()):
        pieces, is_stopped = streamed(one.encode(text), stop, one)
        assert "".join(pieces) == expected
        assert is_stopped == any(word in text for word in stop)


@given(short_texts, st.lists(st.text(alphabet="ab🙂é", min_size=1, max_size=4), max_size=3).map(tuple))
def test_nothing_is_emitted_that_a_longer_text_would_take_back(text, stop):
    """Whatever was given out after some tokens is a prefix of the answer for every way to go on."""
    stream = TextStream(bytes_alone(), stop)
    given_out = "".join(stream.add(token) for token in bytes_alone().encode(text))
    for rest in ("", *stop, "a", "b", "🙂", *(word[1:] for word in stop)):
        assert cut_by_brute_force(text + rest, stop).startswith(given_out)


def test_what_follows_a_stop_text_is_not_text():
    stream = TextStream(tokenizer(), ("\n",))
    pieces = [stream.add(token) for token in tokenizer().encode("one\ntwo\nthree")]
    assert "".join(pieces) + stream.end() == "one"
    assert stream.characters == len("one\ntwo\nthree")


def test_a_text_that_only_looked_like_a_stop_text_is_given_at_the_end():
    stream = TextStream(tokenizer(), ("END",))
    assert "".join(stream.add(token) for token in tokenizer().encode("the EN")) == "the "
    assert stream.end() == "EN"


def test_prompts_become_ids():
    conversation = Conversation((Message("user", "hi <|im_end|>"),))
    expected = render_conversation(conversation, tokenizer(), add_generation_prompt=True).ids
    assert list(render_prompt(conversation, tokenizer())) == expected
    assert list(render_prompt("hi <|im_end|>", tokenizer())) == tokenizer().encode("hi <|im_end|>")
    assert render_prompt([5, 7], tokenizer()) == (5, 7)


@given(
    st.lists(
        st.sampled_from(["a", "Z9", " \n", "日本", "é", "-=-", "\x01\x7f", "the cat ", " " * 90, "1234", "😀"]),
        max_size=60,
    )
)
def test_a_text_has_no_fewer_tokens_than_its_bytes_say(parts):
    text = "".join(parts)
    assert fewest_tokens([text], tokenizer()) <= len(tokenizer().encode(text))
    assert fewest_tokens(["a" * 41_000, "b"], tokenizer()) == 1_001
    assert fewest_tokens(["\x01" * 100], tokenizer()) > 0


@given(st.text("ab", max_size=40), st.lists(st.text("ab", min_size=1, max_size=12), min_size=1, max_size=4).map(tuple))
def test_what_is_held_back_is_the_longest_beginning_of_a_stop_text(text, stop):
    beginnings = [one[:length] for one in stop for length in range(1, len(one))]
    assert _unfinished(text, stop) == max((len(one) for one in beginnings if text.endswith(one)), default=0)
