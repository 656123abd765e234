"""Conversations read from files: one written out token by token, every form, every error with its file and line."""

from __future__ import annotations

import functools
import gzip
import json
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.conversation import from_plain
from megaphi.data.packed.conversations import read_conversations, stream_conversations
from megaphi.data.packed.packing import lay_out, pack
from megaphi.data.text.training_records import SkipReport
from megaphi.errors import InputError
from megaphi.tokenizer.chat_format import render_conversation
from megaphi.tokenizer.phi4 import load_tokenizer

tokenizer = functools.cache(load_tokenizer)

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4, of course"},
    {"role": "user", "content": "Say <|im_end|>"},
    {"role": "assistant", "content": "No\n語"},
]
# bytes of the token, its id in the released phi-4, trained on "assistant", on "last"
GOLDEN = [
    (b"<|im_start|>", 100264, 0, 0),
    (b"system", 9125, 0, 0),
    (b"<|im_sep|>", 100266, 0, 0),
    (b"Be", 3513, 0, 0),
    (b" brief", 10015, 0, 0),
    (b".", 13, 0, 0),
    (b"<|im_end|>", 100265, 0, 0),
    (b"<|im_start|>", 100264, 0, 0),
    (b"user", 882, 0, 0),
    (b"<|im_sep|>", 100266, 0, 0),
    (b"2", 17, 0, 0),
    (b"+", 10, 0, 0),
    (b"2", 17, 0, 0),
    (b"?", 30, 0, 0),
    (b"<|im_end|>", 100265, 0, 0),
    (b"<|im_start|>", 100264, 0, 0),
    (b"assistant", 78191, 0, 0),
    (b"<|im_sep|>", 100266, 0, 0),
    (b"4", 19, 1, 0),
    (b",", 11, 1, 0),
    (b" of", 315, 1, 0),
    (b" course", 3388, 1, 0),
    (b"<|im_end|>", 100265, 1, 0),
    (b"<|im_start|>", 100264, 0, 0),
    (b"user", 882, 0, 0),
    (b"<|im_sep|>", 100266, 0, 0),
    (b"Say", 46864, 0, 0),
    (b" <|", 83739, 0, 0),
    (b"im", 318, 0, 0),
    (b"_end", 6345, 0, 0),
    (b"|", 91, 0, 0),
    (b">", 29, 0, 0),
    (b"<|im_end|>", 100265, 0, 0),
    (b"<|im_start|>", 100264, 0, 0),
    (b"assistant", 78191, 0, 0),
    (b"<|im_sep|>", 100266, 0, 0),
    (b"No", 2822, 1, 1),
    (b"\n", 198, 1, 1),
    (b"\xe8\xaa", 45918, 1, 1),
    (b"\x9e", 252, 1, 1),
    (b"<|im_end|>", 100265, 1, 1),
]


def write_lines(path, records):
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    return str(path)


def write_rows(path, records):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, schema=SCHEMA), path, row_group_size=2)
    return str(path)


MESSAGES_TYPE = pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string()}))
SCHEMA = pyarrow.schema(
    {
        "messages": MESSAGES_TYPE,
        "prompt": pyarrow.string(),
        "response": pyarrow.string(),
        "ids": pyarrow.list_(pyarrow.int32()),
        "trained": pyarrow.list_(pyarrow.bool_()),
    }
)


def read(*paths, train_on="assistant", sequence_length=1_000, too_long="error", **more):
    return read_conversations(
        [str(path) for path in paths],
        more.pop("with_tokenizer", tokenizer()),
        train_on=train_on,
        sequence_length=sequence_length,
        too_long=too_long,
        **more,
    )


def plain(conversations):
    return [(rendered.ids.tolist(), rendered.trained.tolist()) for rendered in conversations]


@pytest.mark.parametrize(("train_on", "column"), [("assistant", 2), ("last", 3)])
def test_a_conversation_token_by_token(tmp_path, train_on, column):
    (rendered,), report = read(write_lines(tmp_path / "a.jsonl", [{"messages": TALK}]), train_on=train_on)
    assert (rendered.ids.dtype, rendered.trained.dtype) == (np.int32, np.bool_)
    assert rendered.ids.tolist() == [row[1] for row in GOLDEN]
    assert rendered.trained.tolist() == [bool(row[column]) for row in GOLDEN]
    assert [tokenizer().decode_bytes([token]) for token in rendered.ids] == [row[0] for row in GOLDEN]
    assert report.lines() == ["1 records read, 1 kept"]


RECORDS = [
    {"messages": TALK},
    {"prompt": "2+2?", "response": "4"},
    {"ids": [5, 6, 7, 8], "trained": [False, True, False, True]},
    {"messages": TALK[:3]},
    {"messages": [TALK[2]]},
]


def test_a_prompt_is_a_text_or_messages(tmp_path):
    records = [
        {"prompt": "2+2?", "response": "4"},
        {"prompt": [{"role": "user", "content": "2+2?"}], "response": "4"},
        {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]},
        {"prompt": TALK[:2], "response": "4, of course"},
        {"messages": TALK[:3], "prompt": None},
    ]
    first, second, third, fourth, fifth = plain(read(write_lines(tmp_path / "a.jsonl", records))[0])
    assert first == second == third != fourth == fifth


def test_parquet_equals_json_lines(tmp_path):
    lines, rows = write_lines(tmp_path / "a.jsonl", RECORDS), write_rows(tmp_path / "a.parquet", RECORDS)
    assert plain(read(lines)[0]) == plain(read(rows)[0])
    assert len(read(lines)[0]) == len(RECORDS)


@pytest.mark.parametrize(("ending", "pack_bytes"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_packed_files_equal_plain_ones(tmp_path, ending, pack_bytes):
    lines = write_lines(tmp_path / "a.jsonl", RECORDS)
    (tmp_path / f"a.jsonl.{ending}").write_bytes(pack_bytes((tmp_path / "a.jsonl").read_bytes()))
    assert plain(read(lines)[0]) == plain(read(tmp_path / f"a.jsonl.{ending}")[0])


def test_several_files_in_order_and_a_folder_without_its_notes(tmp_path):
    write_lines(tmp_path / "b.jsonl", RECORDS[:2])
    write_rows(tmp_path / "a.parquet", RECORDS[2:])
    (tmp_path / "README.md").write_text("about this data")
    by_name = read(tmp_path / "a.parquet", tmp_path / "b.jsonl")[0]
    assert plain(by_name) == plain(read(tmp_path)[0])
    with pytest.raises(InputError, match=r"README\.md: its name should end in one of \.jsonl, .*\.parquet$"):
        read(tmp_path / "README.md")


CONTENT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SAID = st.builds(lambda text: text + "x", CONTENT)


@given(st.booleans(), st.lists(st.tuples(SAID, SAID), min_size=1, max_size=3), st.sampled_from(["assistant", "last"]))
@settings(max_examples=60)
def test_what_is_read_is_what_is_rendered(tmp_path_factory, with_system, turns, train_on):
    messages = [{"role": "system", "content": ""}] if with_system else []
    for asked, answered in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    path = write_lines(tmp_path_factory.mktemp("talk") / "a.jsonl", [{"messages": messages}])
    expected = render_conversation(from_plain(messages), tokenizer(), train_on=train_on)
    assert plain(read(path, train_on=train_on)[0]) == [(expected.ids, expected.trained)]


USER, ANSWER = ({"role": "user", "content": "x"}, {"role": "assistant", "content": "y"})
WRONG = [
    ('{"messages": [', "not a JSON record"),
    ("[1]", "expected a JSON object, found a list"),
    ({"mesages": []}, r"unknown key 'mesages'\. Did you mean 'messages'\?"),
    ({"sauce": 1}, r"unknown key 'sauce'\. A record has messages, or prompt \+ response, or prompt \+ completion"),
    ({"messages": [USER], "response": "y"}, r"a record with messages and response is ambiguous: leave one of them out"),
    ({"prompt": "x", "response": "y", "completion": "z"}, r"prompt\+response and prompt\+completion is ambiguous"),
    ({"messages": [USER, ANSWER], "tools": [{"name": "f"}]}, "the column 'tools' would change what is said"),
    ({"prompt": "x", "completion": [USER]}, "'completion' must end with a message of the assistant"),
    ({"conversations": [{"from": "function", "value": "x"}]}, "message 1: unknown role 'function'"),
    ({"messages": [USER, {**ANSWER, "tool_calls": [{"id": "a"}]}]}, "message 2 has an unknown key 'tool_calls'"),
    ({"messages": [USER, {**ANSWER, "weight": 0}]}, "message 2 has an unknown key 'weight'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "message 1: of a content in parts only"),
    ({"messages": [TALK[0], USER, ANSWER], "system": "Be long."}, "message 2 is the system's: only the first may be"),
    ({"prompt": "x", "response": None}, "a record with 'prompt' cannot be understood"),
    ({}, "a record with no keys cannot be understood"),
    ({"messages": "hello"}, "must be a list of messages, not str"),
    ({"messages": []}, "at least one message"),
    ({"messages": [USER, {"role": "asistant", "content": "y"}]}, "message 2: unknown role 'asistant'.*'assistant'"),
    ({"messages": [USER, {"role": "assistant", "content": 3}]}, "message 2: the content of a message must be text"),
    ({"messages": [USER, {**ANSWER, "name": "Z"}]}, "message 2 has an unknown key 'name'"),
    ({"messages": [USER, USER, ANSWER]}, "messages 1 and 2 are both the user's"),
    ({"messages": [USER, ANSWER, ANSWER]}, "messages 2 and 3 are both the assistant's"),
    ({"messages": [USER, TALK[0], ANSWER]}, "message 2 is the system's: only the first may be"),
    ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "message 2, the assistant's, is empty"),
    ({"messages": [USER]}, "no message is the assistant's: there is no token to train on"),
    ({"prompt": "x", "response": ""}, "message 2, the assistant's, is empty"),
    ({"prompt": "x", "response": ["y"]}, "'response': message 1 must be an object with role and content"),
    ({"prompt": 5, "response": "y"}, "'prompt' must be a text or a list of messages, not a number"),
    ({"prompt": [5], "response": "y"}, "'prompt': message 1 must be an object with role and content"),
    ({"prompt": [USER, ANSWER], "response": "y"}, "messages 2 and 3 are both the assistant's"),
    ({"ids": [], "trained": []}, "'ids' is empty"),
    ({"ids": "12", "trained": [1]}, "'ids' must be a list of token ids, not text"),
    ({"ids": [1, True], "trained": [0, 1]}, "'ids' must hold whole numbers, but at position 1 stands True"),
    ({"ids": [1, 2.0], "trained": [0, 1]}, r"'ids' must hold whole numbers, but at position 1 stands 2\.0"),
    ({"ids": [1, 100_352], "trained": [0, 1]}, "'ids' holds 100352 at position 1, which is outside the vocabulary"),
    ({"ids": [-1, 2], "trained": [0, 1]}, "'ids' holds -1 at position 0"),
    ({"ids": [1, 10**30], "trained": [0, 1]}, "'ids' holds 10{30} at position 1"),
    ({"ids": [1, 2, 3], "trained": [0, 1]}, "3 'ids' and 2 'trained'"),
    ({"ids": [1, 2], "trained": [0, 2]}, "'trained' must hold true and false, but at position 1 stands 2"),
    ({"ids": [1, 2], "trained": [0, [1]]}, r"'trained' must hold true and false, but at position 1 stands \[1\]"),
    ({"ids": [1, 2], "trained": "01"}, "'trained' must be a list of true and false, not text"),
    ({"ids": [1, 2], "trained": [True, False]}, "'trained' is true nowhere after the first token"),
]


@pytest.mark.parametrize(("record", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_an_error_names_file_and_line(tmp_path, record, message):
    good = json.dumps(RECORDS[0])
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{good}\n\n{record if isinstance(record, str) else json.dumps(record)}\n{good}\n")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:3: .*{message}"):
        read(path)


def test_an_error_names_the_row(tmp_path):
    path = write_rows(tmp_path / "chats.parquet", [*RECORDS, {"messages": [USER]}])
    with pytest.raises(InputError, match=r"^.*chats\.parquet: row 6: no message is the assistant's"):
        read(path)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "texts.parquet")
    with pytest.raises(InputError, match=r"texts\.parquet: row 1: unknown key 'text'"):
        read(tmp_path / "texts.parquet")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    good = write_lines(tmp_path / "good.jsonl", RECORDS)
    (tmp_path / "empty.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"empty\.jsonl is empty: it holds no record"):
        read(good, tmp_path / "empty.jsonl")


def test_what_is_too_long_is_counted_or_an_error(tmp_path):
    longest = len(GOLDEN)
    path = write_lines(tmp_path / "a.jsonl", [RECORDS[1], RECORDS[0], RECORDS[0], RECORDS[2]])
    assert len(read(path, sequence_length=longest, too_long="skip")[0]) == 4
    kept, report = read(path, sequence_length=longest - 1, too_long="skip")
    assert plain(kept) == [plain(read(path)[0])[index] for index in (0, 3)]
    assert report.lines() == [
        "4 records read, 2 kept",
        f"2 left out: longer than the sequence length of {longest - 1} tokens (first: {path}:2)",
    ]
    with pytest.raises(InputError, match=r"a\.jsonl:2: 41 tokens do not fit into a sequence length of 40"):
        read(path, sequence_length=longest - 1, too_long="error")
    with pytest.raises(InputError, match=r"no record is left to train on: 4 records read, 0 kept; 4 left out: longer"):
        read(path, sequence_length=2, too_long="skip")


def test_ids_of_another_tokenizer(tmp_path):
    path = write_lines(tmp_path / "llama.jsonl", [{"ids": [128_000, 5], "trained": [0, 1]}])
    with pytest.raises(InputError, match="outside the vocabulary of 100352 tokens"):
        read(path)
    assert plain(read(path, vocabulary=128_256)[0]) == [([128_000, 5], [False, True])]


def test_the_first_token_is_never_trained(tmp_path):
    """Nothing comes before it that could predict it, and counts of trained tokens should be those of the loss."""
    path = write_lines(tmp_path / "a.jsonl", [{"ids": [1, 2, 3], "trained": [1, 1, 0]}])
    assert plain(read(path)[0]) == [([1, 2, 3], [False, True, False])]


def test_samples_know_their_place(tmp_path):
    paths = [write_lines(tmp_path / "a.jsonl", RECORDS[:2]), write_rows(tmp_path / "b.parquet", RECORDS[:1])]
    report = SkipReport()
    samples = stream_conversations(
        paths, tokenizer(), train_on="last", sequence_length=99, too_long="skip", report=report
    )
    assert [sample.where for sample in samples] == [f"{paths[0]}:1", f"{paths[0]}:2", f"{paths[1]}: row 1"]
    assert (report.read, report.kept) == (3, 3)


def test_rows_take_what_was_read_as_they_take_lists(tmp_path):
    conversations, _ = read(write_lines(tmp_path / "a.jsonl", RECORDS))
    packing = pack([len(rendered.ids) for rendered in conversations], capacity=64)
    trained = 0
    for number in range(packing.rows):
        row = lay_out([conversations[index] for index in packing.row(number)], capacity=64, padding_token=99)
        trained += int(row.loss_mask_S.sum())
    assert trained == sum(int(rendered.trained.sum()) for rendered in conversations)
