"""Step outputs to text: deltas join to the decoding of the whole up to a stop text, whatever the tokens are.

Texts of every script, cut into tokens anywhere, with special tokens and bytes that are no text between them, for
Phi-4's tokenizer, its smallest one (every token a byte), and imported ones of both families (byte-level, and metaspace
with byte tokens). What is right is a decoding of all tokens at once, cut by a brute force.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.generation.answer_stream import AnswerStream
from megaphi.generation.decoding.interface import Request, StepOutput
from megaphi.sampling import Finish, Sampling
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.open_tokenizer import open_path
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.generation.test_text import cut_by_brute_force
from tests.tokenizer.own_tokenizer import write_tokenizer

KINDS = ("phi4", "bytes alone", "byte-level", "metaspace")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    found: dict[str, Tokenizer] = {"phi4": load_tokenizer(), "bytes alone": load_tokenizer(352)}
    for kind in ("byte-level", "metaspace"):
        folder = tmp_path_factory.mktemp("tokenizer")
        write_tokenizer(folder, metaspace=kind == "metaspace")
        found[kind] = open_path(str(folder))
    return found


SCRIPTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(
    [
        "東京タワー",
        "Straße",
        "עברית",
        "العربية",
        "हिन्दी",
        "ไทย",
        "🙂👩‍👩‍👧",
        "a\u0301",
        "\ufffd",
        "▁",
        "  ",
        "\n\n",
        " END",
        "EN",
    ]
)


@st.composite
def answers(draw: st.DrawFn, tokenizer: Tokenizer) -> list[int]:
    """Texts cut anywhere and encoded part by part, between special tokens and single tokens of any meaning."""
    ids: list[int] = []
    for text in draw(st.lists(SCRIPTS, max_size=4)):
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
        for start, end in pairwise([0, *cuts, len(text)]):
            ids += tokenizer.encode(text[start:end])
        ids += draw(st.lists(st.sampled_from(sorted(tokenizer.special_ids.values())), max_size=1))
        encoded = tokenizer.encode("東🙂")  # single tokens of these are half a character, or none
        ids += draw(st.lists(st.sampled_from(encoded), max_size=3))
    return ids


def steps(ids: list[int], ending: Finish) -> Iterator[StepOutput]:
    """Outputs of an engine: at its limit the last token says so, at a stop token an output without a token does."""
    for token in ids[:-1]:
        yield StepOutput("answer", token)
    last = ids[-1] if ids else None
    if ending == "length":
        yield StepOutput("answer", last, finish="length")
        return
    if last is not None:
        yield StepOutput("answer", last)
    yield StepOutput("answer", finish=ending, stop_token=7 if ending == "stop" else None)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(data=st.data(), ending=st.sampled_from(["stop", "length", "cancelled"]))
def test_deltas_join_to_the_whole_text_before_the_first_stop_text(
    tokenizers: dict[str, Tokenizer], kind: str, data: st.DataObject, ending: Finish
) -> None:
    tokenizer = tokenizers[kind]
    ids = data.draw(answers(tokenizer))
    whole = tokenizer.decode(ids)
    places = st.tuples(st.integers(0, len(whole)), st.integers(1, 4)).map(lambda one: whole[one[0] :][: one[1]])
    stop = tuple(data.draw(st.lists((places | SCRIPTS).filter(bool), max_size=3)))
    stream = AnswerStream(Request(name="answer", prompt=(), sampling=Sampling(stop=stop)), tokenizer)
    expected, given_out = cut_by_brute_force(whole, stop), ""
    for output in steps(ids, ending):
        before = stream.finish
        delta = stream.add(output)
        given_out += delta
        assert expected.startswith(given_out)
        assert not (before and delta)
    assert given_out == expected
    assert stream.finish == ("stop" if any(one in whole for one in stop) else ending)
    assert stream.characters <= len(whole)
    assert stream.characters == len(whole) or stream.finish == "stop"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_answer_goes_on_where_its_prompt_ends(
    tokenizers: dict[str, Tokenizer], kind: str, data: st.DataObject
) -> None:
    """The space before a word belongs to the answer, also where a tokenizer leaves it out at the start of a text."""
    tokenizer = tokenizers[kind]
    prompt = data.draw(answers(tokenizer).filter(lambda ids: not tokenizer.decode(ids).endswith("\ufffd")))
    ids = data.draw(answers(tokenizer))
    stream = AnswerStream(Request(name="answer", prompt=tuple(prompt)), tokenizer)
    text = "".join(map(stream.add, steps(ids, "length")))
    assert tokenizer.decode(prompt) + text == tokenizer.decode([*prompt, *ids])


def test_a_stop_token_has_no_text_and_other_special_tokens_have(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        shown, hidden = sorted(tokenizer.special_ids.items())[:2]
        stream = AnswerStream(Request(name="answer", prompt=(), stop_tokens=frozenset({hidden[1]})), tokenizer)
        outputs = [StepOutput("answer", shown[1]), StepOutput("answer", finish="stop", stop_token=hidden[1])]
        assert "".join(map(stream.add, outputs)) == shown[0]
        assert stream.finish == "stop"


def test_the_end_of_an_engine_that_did_not_know_of_a_stop_text_changes_nothing(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["phi4"]
    request = Request(name="answer", prompt=(), sampling=Sampling(stop=("two",)))
    stream = AnswerStream(request, tokenizer)
    ids = tokenizer.encode("one two three")
    assert "".join(stream.add(StepOutput("answer", token)) for token in ids) == "one "
    for late in (StepOutput("answer", ids[0]), StepOutput("answer", finish="cancelled")):
        assert stream.add(late) == ""
    assert stream.finish == "stop"
