"""JSON from outside: a value, or an InputError that says what is wrong with it; never another exception."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.cli import main
from megaphi.config import from_plain, override
from megaphi.conversion.open_weights import open_weights
from megaphi.data.storage.files.remote import RemoteStore
from megaphi.data.storage.source_paths import read_manifest
from megaphi.engine.reporting.metrics import read_metrics
from megaphi.engine.reporting.step_times import read_step_times
from megaphi.errors import InputError
from megaphi.files import read_json, write_json
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.generation.server.openai_fields import ApiError
from megaphi.generation.server.openai_requests import read_request
from megaphi.json_text import parse_json
from megaphi.parallel.layout import ParallelLayout
from megaphi.recipes import load_recipe
from megaphi.tokenizer.json_tokenizer import JsonTokenizer

LONG = "9" * 5_000
OUR_OWN = {
    "json_text.py",
    "channel.py",
    "meeting.py",
    "heartbeat.py",
    "flight_recorder.py",
    "random_states.py",
    "format.py",
    "wandb_process.py",
    "verifiers.py",
    "worker.py",
    "plain_data.py",
}
"""The reader itself; those that read nothing but what this program or torch wrote in this run, or under a checksum; and
`plain_data.py`, which runs inside a sandbox, without the package, and takes every failure for a wrong answer.
"""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=8,
)


@given(VALUES)
@settings(max_examples=60)
def test_what_json_writes_is_read(value):
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=12) | st.text('[]{}",:0123456789.eE-+\\u truefalsnNaInfity', max_size=12))
@settings(max_examples=300)
def test_anything_else_is_an_input_error(content):
    with suppress(InputError):
        parse_json(content)


def test_an_integer_of_any_length_is_a_number():
    found = parse_json(f'{{"id": {LONG}, "minus": -{LONG}, "most": {"9" * 4_300}, "text": "x"}}')
    assert found == {"id": math.inf, "minus": -math.inf, "most": 10**4_300 - 1, "text": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value at character 1; it ends too early"),
        (b'{"a": "x', "Unterminated string starting at character 7; it ends too early"),
        (b'{\n"a": x}', "Expecting value at line 2, column 6$"),
        (b'{"a": 1} {', "Extra data at character 10"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'"\xff"', r"not UTF-8 text, convert it first \(byte 1\)"),
        (b'{\n"a": "\xff"}', r"not UTF-8 text, convert it first \(line 2\)"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16 or UTF-32 text .*: save it as UTF-8"),
        ('{"a": 1}'.encode("utf-16-be"), "it holds NUL bytes: is it UTF-16 text"),
        (b"\0" * 512, "NUL bytes: .* or a file that a crash left unwritten"),
    ],
    ids=repr,
)
def test_the_fault_and_its_place(content, message):
    with pytest.raises(InputError, match=message):
        parse_json(content)


def test_constants_are_numbers_unless_they_are_refused():
    assert parse_json("[NaN, -Infinity]")[1] == -math.inf
    with pytest.raises(InputError, match="NaN is not a number of JSON"):
        parse_json("[NaN]", constants=False)
    assert parse_json('\ufeff{"a": 1}'.encode()) == {"a": 1}


@pytest.mark.parametrize("value", [LONG, "[" * 100_000, '"\\ud800', "\0", "NaN"], ids=lambda value: value[:4])
def test_whoever_reads_json_says_where(tmp_path, value):
    """A command line, a file of settings, a manifest, a journal, metrics, a request: each InputError or a value."""
    path = tmp_path / "a.manifest.json"
    path.write_text(f'{{"datasets": {value}}}')
    for read in (
        lambda: override(ParallelLayout(), [f"tensor={value}"]),
        lambda: from_plain(ParallelLayout, read_json(path, what="layout")),
        lambda: read_manifest(str(path), remote=RemoteStore()),
    ):
        with pytest.raises(InputError, match=r"tensor=|a\.manifest\.json|unknown field"):
            read()
    assert main(["inspect", "diff", str(path), str(path)]) in (0, 2)
    lines = tmp_path / "lines.jsonl"
    lines.write_text(f'{{"request": {value}, "response": 1}}\n{{"request": "b", "response": 2}}\n')
    for read in (lambda: RequestJournal(lines).close(), lambda: read_metrics(lines)):
        with suppress(InputError):
            read()
    with pytest.raises(ApiError):
        read_request(f'{{"prompt": "x", "max_tokens": {value}}}'.encode(), "completion", context=8)


VALUES_OF_ANY_KIND = (
    "[1]",
    "3",
    LONG,
    "NaN",
    "[" * 100_000,
    '"\\ud800"',
    '{"a": 1, "a": 2}',
    "",
    "null",
    '"x"',
    "\xff",
)
CONFIGURATION = {
    "model_type": "phi3", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128,
    "num_key_value_heads": 2, "intermediate_size": 128, "rms_norm_eps": 1e-5, "max_position_embeddings": 128,
}  # fmt: skip


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
@pytest.mark.parametrize("value", VALUES_OF_ANY_KIND, ids=lambda value: value[:4])
def test_files_of_a_run_and_of_a_model_may_hold_any_json(tmp_path, value, mark):
    """A value where an object should be, and one of another kind in a field: an InputError, or it is left out."""
    (tmp_path / "steps").mkdir()
    described = [
        json.dumps({**CONFIGURATION, name: "@"}).replace('"@"', value)
        for name in (*CONFIGURATION, "rope_scaling", "rope_theta")
    ]
    metrics, times, config = (
        tmp_path / "metrics.jsonl",
        tmp_path / "steps" / "rank_00000.jsonl",
        tmp_path / "config.json",
    )
    whole = '{"step": 1, "data": 0.1}'
    for line in (value, f'{{"step": {value}, "data": 1}}', f'{{"step": 2, "data": {value}}}'):
        for path in (metrics, times):
            path.write_bytes(f"{mark}{line}\n{whole}\n".encode("latin-1" if "\xff" in line and not mark else "utf-8"))
        with suppress(InputError):
            assert read_metrics(metrics)[-1] == {"step": 1, "data": 0.1}
        assert 1 <= read_step_times(tmp_path, last=5)[0].steps <= 2
    for text in (value, f'{{"run": {value}}}', *described):
        config.write_bytes((mark + text).encode())
        for read in (lambda: load_recipe(str(config)), lambda: open_weights(tmp_path)):
            with pytest.raises(InputError):
                read()
    (tmp_path / "tokenizer.json").write_text("{}")
    for name in ("generation_config.json", "tokenizer_config.json", "chat_template.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((mark + value).encode())
        with pytest.raises(InputError):
            JsonTokenizer({path.name: path for path in tmp_path.glob("*.json")})


def test_a_file_name_that_is_not_utf8_can_be_written_down(tmp_path):
    name = os.fsdecode(b"caf\xe9.jsonl")
    write_json(tmp_path / "a.json", {"name": name, "語": 1})
    assert (tmp_path / "a.json").read_bytes().count("語".encode()) == 1
    assert read_json(tmp_path / "a.json", what="names") == {"name": name, "語": 1}


def test_nobody_reads_json_in_another_way():
    sources = (Path(__file__).parents[1] / "megaphi").rglob("*.py")
    users = {path.name for path in sources if any(call in path.read_text() for call in ("json.loads(", "json.load("))}
    assert users <= OUR_OWN
