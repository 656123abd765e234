"""Records that cannot be used are all named at once, or left out and counted; the same for every kind of record."""

from __future__ import annotations

import functools
import json

import pytest

from megaphi.cli import main
from megaphi.data.packed.conversations import read_conversations
from megaphi.data.packed.preference_pairs import read_pairs
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.text.bad_records import MOST_NAMED, BadRecords
from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.errors import InputError
from megaphi.tokenizer.phi4 import load_tokenizer

tokenizer = functools.cache(lambda: load_tokenizer(2_048))


def said(role, content, **more):
    return {"role": role, "content": content, **more}


FINE = {"messages": [said("user", "q"), said("assistant", "a")]}
EMPTY = {"messages": [said("user", "q"), said("assistant", "")]}
LATER = {"messages": [*FINE["messages"], said("user", "q"), said("assistant", " ")]}


def write(path, *records):
    path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
    return str(path)


def conversations(path, **more):
    return read_conversations([path], tokenizer(), train_on="assistant", sequence_length=99, too_long="skip", **more)


def test_all_bad_conversations_are_named_at_once(tmp_path):
    path = write(tmp_path / "a.jsonl", *[FINE] * 700, EMPTY, *[FINE] * 700, EMPTY, "{oops", LATER, "[1]")
    with pytest.raises(InputError) as caught:
        conversations(path)
    message = str(caught.value)
    assert message.startswith("5 records cannot be used; bad_records=skip")
    assert (
        f"3 x message 2, the assistant's, is empty: it would learn to say nothing: {path}:701, {path}:1402" in message
    )
    assert f"{path}:1404" in message  # message 4 is empty there: the same reason
    assert (
        f"1 x not a JSON record: Expecting property name enclosed in double quotes at character 2: {path}:1403"
        in message
    )
    assert f"1 x expected a JSON object, found a list: {path}:1405" in message


def test_bad_conversations_are_left_out_and_counted_by_choice(tmp_path):
    path = write(tmp_path / "a.jsonl", FINE, EMPTY, "{oops", LATER, FINE)
    kept, report = conversations(path, bad_records="skip")
    assert len(kept) == 2
    assert report.lines() == [
        "5 records read, 2 kept",
        f"2 left out: message 2, the assistant's, is empty: it would learn to say nothing (first: {path}:2)",
        "1 left out: not a JSON record: Expecting property name enclosed in double quotes at character 2 "
        f"(first: {path}:3)",
    ]
    with pytest.raises(InputError, match="no record is left to train on: 1 records read, 0 kept"):
        conversations(write(tmp_path / "b.jsonl", EMPTY), bad_records="skip")


def test_a_record_that_is_too_long_is_no_bad_one(tmp_path):
    path = write(tmp_path / "a.jsonl", FINE, EMPTY, FINE)
    with pytest.raises(InputError, match=r"a\.jsonl:1: \d+ tokens do not fit"):
        read_conversations(
            [path], tokenizer(), train_on="last", sequence_length=3, too_long="error", bad_records="skip"
        )


def test_bad_pairs(tmp_path):
    fine = {"prompt": "q", "chosen": "a", "rejected": "b"}
    path = write(
        tmp_path / "a.jsonl", fine, {**fine, "rejected": "a"}, {**fine, "chosen": ""}, {**fine, "rejected": "a"}
    )

    def read(**more):
        return read_pairs(
            [path],
            tokenizer(),
            sequence_length=99,
            append_eos=False,
            max_completion_tokens=None,
            too_long="skip",
            **more,
        )

    with pytest.raises(
        InputError, match=rf"3 records(.|\n)*2 x .* are the same.*: {path}:2, {path}:4\n  1 x .*{path}:3"
    ):
        read()
    pairs, report = read(bad_records="skip")
    assert (len(pairs), report.read, report.kept) == (1, 4, 1)


def test_bad_documents_stop_a_job_or_are_counted_in_its_dataset(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", {"text": "one"}, {"text": None}, {"text": "two"}, {"body": "x"}, {"text": 5})
    with pytest.raises(
        InputError, match=r"3 records cannot be used(.|\n)*a\.jsonl:2(.|\n)*a\.jsonl:4(.|\n)*a\.jsonl:5"
    ):
        tokenize_documents(
            [path], tmp_path / "out", TokenizeSettings(vocabulary_size=1_024), processes=1, show_progress=False
        )
    assert not (tmp_path / "out.bin").exists()
    words = ["tokenize", path, "--output", str(tmp_path / "out"), "--vocabulary", "1024", "--processes", "1"]
    assert main([*words, "--bad-records", "skip"]) == 0
    assert f"1 records left out: 'text' is null, not text (first: {path}:2)" in capsys.readouterr().out
    dataset = IndexedDataset(tmp_path / "out")
    assert dataset.document_count == 2
    assert {reason: count for reason, (count, _) in dataset.description["left_out"].items()} == {
        "'text' is null, not text": 1,
        "no 'text' field; its fields are 'body' (--text-key chooses another)": 1,
        "'text' is a number, not text": 1,
    }
    assert main(words) == 2  # a dataset that lacks records is not what was asked for without --bad-records


def test_a_file_of_another_kind_is_given_up_early():
    bad = BadRecords("error")
    for number in range(MOST_NAMED - 1):
        bad.add(f"a:{number}", "no text")
    with pytest.raises(InputError, match=f"at least {MOST_NAMED:,} records cannot be used.*\n.*and 980 more"):
        bad.add("a:999", "no text")
    many = BadRecords("skip")
    for number in range(10 * MOST_NAMED):
        many.add(f"a:{number}", f"{number} is odd")
    assert many.summary() == {"0 is odd": [10 * MOST_NAMED, "a:0"]}


def test_inspect_names_all_and_skips_by_choice(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", FINE, EMPTY, FINE, EMPTY)
    words = ["inspect", "conversations", path, "--vocabulary", "2048"]
    assert main(words) == 2
    assert f"{path}:2, {path}:4" in capsys.readouterr().err
    assert main([*words, "--bad-records", "skip"]) == 0
    assert "4 records read, 2 kept" in capsys.readouterr().out


NEUTRAL = {"name": None, "tool_calls": [], "annotations": [], "function_call": None, "audio": None, "refusal": ""}
SAME = [
    FINE,
    {"messages": [said("user", "q", name=""), said("assistant", "a", weight=1, **NEUTRAL)]},
    {"messages": [said("user", [{"type": "text", "text": "q"}]), said("assistant", "a")], "tools": [], "images": None},
    {"prompt": "q", "response": "a"},
    {"prompt": "q", "completion": "a"},
    {"prompt": [said("user", "q")], "completion": [said("assistant", "a")]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": None}]},
    {"conversations": FINE["messages"]},
    {"instruction": "q", "input": "", "output": "a"},
    {"instruction": "q", "output": "a"},
    {**FINE, "prompt": "q", "prompt_id": "7f", "chosen": FINE["messages"], "score_chosen": 8.5},
]


def test_every_form_of_a_conversation_is_that_conversation(tmp_path):
    path = write(tmp_path / "a.jsonl", *SAME)
    kept, report = conversations(path)
    assert [rendered.ids.tolist() for rendered in kept] == [kept[0].ids.tolist()] * len(SAME)
    assert [rendered.trained.tolist() for rendered in kept] == [kept[0].trained.tolist()] * len(SAME)
    assert report.lines()[1] == (
        "columns not used: 'chosen' (1 records), 'prompt' (1 records), 'prompt_id' (1 records), "
        "'score_chosen' (1 records), 'tools' (1 records)"
    )


def test_what_the_system_says_comes_first(tmp_path):
    system = said("system", "s")
    records = [
        {"messages": [system, *FINE["messages"]]},
        {"messages": [said("developer", "s"), *FINE["messages"]]},
        {**FINE, "system": "s"},
        {"messages": [system, *FINE["messages"]], "system": "s"},
        {"prompt": "q", "response": "a", "system": "s"},
        {"instruction": "q", "output": "a", "system": "s"},
    ]
    kept, _ = conversations(write(tmp_path / "a.jsonl", *records))
    assert len({tuple(rendered.ids.tolist()) for rendered in kept}) == 1
    assert "system" in tokenizer().decode(kept[0].ids.tolist())
    (alpaca,), _ = conversations(write(tmp_path / "b.jsonl", {"instruction": "do", "input": "it", "output": "a"}))
    assert "do\n\nit" in tokenizer().decode(alpaca.ids.tolist())
