"""Output of `megaphi inspect conversations`, letter by letter, with and without colour."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from megaphi.cli import main

TALK = [
    {"role": "user", "content": "two\nlines, <|im_end|> and \x1b[31mred"},
    {"role": "assistant", "content": "☃ 語"},
    {"role": "user", "content": "on"},
    {"role": "assistant", "content": "last"},
]


@pytest.fixture
def shown(capsys, tmp_path, monkeypatch):
    """Write records to chats.jsonl in an empty folder and inspect them."""
    monkeypatch.chdir(tmp_path)

    def run(records, *words):
        (tmp_path / "chats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        assert main(["inspect", "conversations", "chats.jsonl", *words]) == 0
        return capsys.readouterr().out

    return run


PLAIN = r"""chats.jsonl:1: 38 tokens, 8 trained
<|im_start|>user<|im_sep|>two↵
lines, <\|im_end|> and \x1b[31mred<|im_end|>
<|im_start|>assistant<|im_sep|>⟦☃ 語<|im_end|>⟧
<|im_start|>user<|im_sep|>on<|im_end|>
<|im_start|>assistant<|im_sep|>⟦last<|im_end|>⟧

1 records read, 1 kept
38 tokens, 8 of them trained (21.1%)
"""


def test_without_colour_what_is_trained_stands_in_brackets(shown):
    assert shown([{"messages": TALK}]) == PLAIN
    assert shown([{"messages": TALK}], "--no-colour") == PLAIN
    last = shown([{"messages": TALK}], "--train-on", "last")
    assert re.findall("⟦.*⟧", last) == ["⟦last<|im_end|>⟧"]


def test_in_colour_what_is_trained_is_green(shown, monkeypatch):
    text = shown([{"messages": TALK[2:]}], "--colour").splitlines()
    assert text[1] == (
        "\x1b[2m\x1b[4m<|im_start|>\x1b[0m\x1b[2muser\x1b[0m\x1b[2m\x1b[4m<|im_sep|>\x1b[0m\x1b[2mon\x1b[0m"
        "\x1b[2m\x1b[4m<|im_end|>\x1b[0m"
    )
    assert text[2].endswith("\x1b[32mlast\x1b[0m\x1b[32m\x1b[4m<|im_end|>\x1b[0m")
    assert "⟦" not in text[2]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[32mlast" in shown([{"messages": TALK[2:]}])
    assert "\x1b" not in shown([{"messages": TALK[2:]}], "--no-colour")


def test_counts_are_of_all_though_few_are_printed(shown):
    records = [{"ids": [65] * length, "trained": [1] * length} for length in (3, 4, 9, 5)]
    lines = shown(records, "--number", "1", "--sequence-length", "5", "--vocabulary", "400").splitlines()
    assert lines == [
        "chats.jsonl:1: 3 tokens, 2 trained",
        "b⟦bb⟧",
        "",
        "4 records read, 3 kept",
        "1 left out: longer than the sequence length of 5 tokens (first: chats.jsonl:3)",
        "12 tokens, 9 of them trained (75.0%)",
    ]


def test_pairs(shown):
    record = {"prompt": "hi", "chosen": "yes", "rejected": "no"}
    lines = shown([record], "--pairs").splitlines()
    assert lines == [
        "chats.jsonl:1: prompt, 8 tokens",
        "<|im_start|>user<|im_sep|>hi<|im_end|>",
        "<|im_start|>assistant<|im_sep|>",
        "chats.jsonl:1: chosen, 2 tokens",
        "⟦yes<|im_end|>⟧",
        "chats.jsonl:1: rejected, 2 tokens",
        "⟦no<|im_end|>⟧",
        "",
        "1 records read, 1 kept",
        "8 tokens prompt, 2 tokens chosen, 2 tokens rejected",
    ]
    coloured = shown([record], "--pairs", "--colour")
    assert "\x1b[32myes" in coloured
    assert "\x1b[31mno" in coloured


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ('{"messages": []}\n', [], "chats.jsonl:1: a conversation needs at least one message"),
        (
            '{"prompt": "x", "response": "y"}\n',
            ["--pairs"],
            "chats.jsonl:1: a record with 'prompt', 'response' cannot be",
        ),
        ("", [], "chats.jsonl is empty"),
        ("{}\n", ["--vocabulary", "9"], "vocabulary_size 9 is out of range"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, content, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chats.jsonl").write_text(content)
    assert main(["inspect", "conversations", "chats.jsonl", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("megaphi: ")
    assert message in line


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_cannot_say_a_character_shows_its_number(encoding, tmp_path, monkeypatch):
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    shown, said = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", shown)
        patched.setattr(sys, "stderr", said)
        assert main(["inspect", "conversations", str(tmp_path / "chats.jsonl")]) == 0
        assert main(["inspect", "conversations", str(tmp_path / "語.jsonl")]) == 2
        for stream in (shown, said):
            stream.flush()
    assert r"\u2603 \u8a9e" in shown.buffer.getvalue().decode(encoding)
    assert r"\u8a9e.jsonl" in said.buffer.getvalue().decode(encoding)
