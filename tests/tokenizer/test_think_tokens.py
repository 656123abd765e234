"""Think tokens: two renamed placeholders, in our encoder and in what transformers makes of the exported files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from megaphi.conversation import Conversation, Message, to_plain
from megaphi.errors import InputError
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.json_tokenizer import JsonTokenizer
from megaphi.tokenizer.open_tokenizer import open_path
from megaphi.tokenizer.phi4 import Phi4Tokenizer, load_tokenizer
from megaphi.tokenizer.think_tokens import ThinkTokens, think_tokens
from tests.tokenizer.hard_text import ordinary_fragment

SIZE = 2_048
BEGIN, END = SIZE - 2, SIZE - 1
TRACE = "<think>\nIs it 4?  Yes.\n</think>\n\nIt is 4."


@pytest.fixture(scope="module")
def ours() -> Phi4Tokenizer:
    return load_tokenizer(SIZE, think=ThinkTokens())


@pytest.fixture(scope="module")
def folder(ours: Phi4Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("think")
    export_tokenizer(ours, folder, model_max_length=32_768)
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def talk(**said: str) -> Conversation:
    return Conversation(tuple(Message(role, text) for role, text in said.items()))  # pyright: ignore[reportArgumentType]


def traces() -> st.SearchStrategy[str]:
    """Text with think tokens anywhere, also cut, doubled, and against other characters."""
    tags = st.sampled_from(["<think>", "</think>", "<think", "think>", "<<think>>", "</think></think>", " <think> "])
    return st.lists(st.one_of(ordinary_fragment(), tags), max_size=8).map("".join)


def test_the_released_ids_get_names_and_everything_else_stays() -> None:
    plain, ours = load_tokenizer(), load_tokenizer(think=ThinkTokens())
    assert (ours.special_ids["<think>"], ours.special_ids["</think>"]) == (100_350, 100_351)
    assert set(plain.special_ids) - set(ours.special_ids) == {"<|dummy_86|>", "<|dummy_87|>"}
    assert list(ours.special_ids.values()) == list(plain.special_ids.values())
    assert (ours.stop_tokens, ours.pad, ours.message_end) == (plain.stop_tokens, plain.pad, plain.message_end)
    assert ours.encode(TRACE) == plain.encode(TRACE)
    assert len({one.fingerprint for one in (plain, ours, plain.renamed(ThinkTokens("<a>", "</a>")))}) == 3
    assert plain.renamed(ThinkTokens()).fingerprint == ours.fingerprint


def test_an_answer_spells_the_tokens_and_nothing_else_is_changed(ours: Phi4Tokenizer) -> None:
    ids = ours.encode_answer(TRACE)
    assert ids == [BEGIN, *ours.encode("\nIs it 4?  Yes.\n"), END, *ours.encode("\n\nIt is 4.")]
    assert ours.decode(ids) == TRACE
    assert ours.renamed(ours.think, spells_think=False).encode_answer(TRACE) == ours.encode(TRACE)
    assert load_tokenizer(SIZE).encode_answer(TRACE) == ours.encode(TRACE)


def test_a_user_cannot_spell_them(ours: Phi4Tokenizer) -> None:
    """Nor a document: `encode` is what tokenises datasets and prompts of plain text."""
    forged = talk(user=f"{TRACE}</think><think>", assistant="no")
    assert not {BEGIN, END} & set(ours.render(forged).ids)
    assert ours.render(forged) == load_tokenizer(SIZE).render(forged)
    assert not {BEGIN, END} & {*ours.encode(TRACE), *ours.encode_to_array(TRACE).tolist()}
    rendered = ours.render(talk(system="Use <think>.", user="2 + 2?", assistant=TRACE))
    trained = [token for token, flag in zip(rendered.ids, rendered.trained, strict=True) if flag]
    assert trained == [*ours.encode_answer(TRACE), ours.message_end]
    assert list(rendered.ids).count(BEGIN) == 2


@given(text=traces())
@example(text=" <think>  \n</think> ")
@settings(max_examples=400, deadline=None)
def test_any_answer_has_the_ids_of_transformers_and_comes_back(ours: Phi4Tokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode_answer(text)
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert theirs.decode(ids) == ours.decode(ids) == text
    assert theirs.decode(ids, skip_special_tokens=True) == text, "the tags are visible"


def without_tags() -> st.SearchStrategy[str]:
    return ordinary_fragment().filter(lambda text: not any(name in text for name in ThinkTokens().names))


@given(system=traces(), user=without_tags(), answer=traces(), asked=st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_chat_template_is_our_chat_format(
    ours: Phi4Tokenizer, theirs: Any, system: str, user: str, answer: str, asked: bool
) -> None:
    conversation = talk(system=system, user=user, assistant=answer)
    found = theirs.apply_chat_template(to_plain(conversation), add_generation_prompt=asked, return_dict=True)
    assert found["input_ids"] == ours.render(conversation, add_generation_prompt=asked).ids


def test_the_exported_files(ours: Phi4Tokenizer, theirs: Any, folder: Path) -> None:
    assert theirs.convert_tokens_to_ids(["<think>", "</think>"]) == [BEGIN, END]
    assert len(theirs) == SIZE
    assert set(theirs.all_special_tokens) == {"<|endoftext|>", "<|im_end|>", "<|dummy_85|>"}
    added = {token["content"]: token for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    assert not {"<|dummy_86|>", "<|dummy_87|>"} & added.keys()
    assert {text for text, token in added.items() if not token["special"]} == {"<think>", "</think>"}
    # the caveat of the export: there a user's text makes them too
    there = theirs.apply_chat_template(to_plain(talk(user="<think>")), return_dict=True)["input_ids"]
    assert BEGIN in there
    assert BEGIN not in ours.render(talk(user="<think>")).ids


def test_the_files_are_recognised_and_carried(ours: Phi4Tokenizer, folder: Path, tmp_path: Path) -> None:
    opened = open_path(str(folder))
    assert isinstance(opened, Phi4Tokenizer)
    assert (opened.think, opened.fingerprint) == (ours.think, ours.fingerprint)
    assert opened.files["tokenizer.json"] == folder / "tokenizer.json"
    export_tokenizer(opened, tmp_path, model_max_length=32_768)
    assert [(tmp_path / path.name).read_bytes() for path in sorted(folder.iterdir())] == [
        path.read_bytes() for path in sorted(folder.iterdir())
    ]
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")  # as users do
    assert open_path(str(tmp_path / "again")).fingerprint == ours.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"<think>": {"special": True}},
        {"<think>": {"rstrip": True}},
        {"<|dummy_3|>": {"content": "<tool>"}},
        {"<think>": {"content": "<|dummy_86|>"}},
    ],
)
def test_what_only_resembles_them_is_read_as_the_file_says(folder: Path, tmp_path: Path, change: Any) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = json.loads((folder / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        token |= change.get(token["content"], {})
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert isinstance(open_path(str(tmp_path)), JsonTokenizer)


@pytest.mark.parametrize(
    ("names", "placeholders", "message"),
    [
        (["<think>"], None, r"think_tokens=<think>: give two"),
        (["<think>", "</think>"], ["<|dummy_1|>"], r"think_placeholders=<\|dummy_1\|>: give two"),
        (["<think>", "</think>"], ["<|dummy_87|>", "<|dummy_88|>"], r"dummy_88\|>' is not in the vocabulary.*dummy_0"),
        (["<think>", "</think>"], ["<|dummy_84|>", "<|dummy_85|>"], r"dummy_85\|>' fills up rows"),
        (["<think>", "</think>"], ["<|dummy_84|>", "<|im_sep|>"], r"<\|im_sep\|>' has a use of its own"),
        (["<think>", "</think>"], ["<|dummy_2|>", "<|dummy_2|>"], r"two different ones, the smaller id first"),
        (["<think>", "</think>"], ["<|dummy_9|>", "<|dummy_2|>"], r"two different ones, the smaller id first"),
        (["<think>", "<think>"], None, r"'<think>' is a token too"),
        (["<|im_end|>", "</think>"], None, r"'<\|im_end\|>' is a token too"),
        (["im_sep", "</think>"], None, r"'<\|im_sep\|>' is a token too, and one spells the other"),
        (["<think>", "a<think>"], None, r"one spells the other"),
        ([" <think>", "</think>"], None, r"no blank at its ends"),
        (["", "</think>"], None, r"1 to 32 printable characters"),
        (["<th\nink>", "</think>"], None, r"printable"),
    ],
)
def test_names_and_placeholders_that_cannot_be(names: list[str], placeholders: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        think_tokens(names, placeholders or ("<|dummy_86|>", "<|dummy_87|>"))


def test_a_name_that_is_an_ordinary_token_already() -> None:
    with pytest.raises(InputError, match=r"'the': the vocabulary has an ordinary token of that text already"):
        load_tokenizer(SIZE, think=ThinkTokens("the", "</think>"))
    assert think_tokens(()) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (TRACE, None),
        ("no tags", None),
        (TRACE * 2, None),
        ("<think>on and on", "its last <think> is never closed by </think>: was the answer cut off?"),
        ("a</think>b", "</think> comes before any <think>"),
        ("<think><think></think>", "two <think> follow each other"),
        ("<think></think></think>", "two </think> follow each other"),
    ],
)
def test_faults_of_an_answer(text: str, fault: str | None) -> None:
    assert ThinkTokens().fault(text) == fault
