"""`megaphi tokenize`: same bytes whoever does the work, nothing lost in a kill, nothing half-written in a failure."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import tiktoken

import megaphi.data.tokenize.pipeline as subject
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.text.documents import read_documents
from megaphi.data.tokenize import plan as tokenize_plan
from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.errors import InputError
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.data.order import order_reference as reference
from tests.processes import children_of, is_running
from tests.test_house import ROOT
from tests.tokenizer.official import official_cl100k

VOCABULARY = 1_024
SETTINGS = TokenizeSettings(vocabulary_size=VOCABULARY)
QUIET = {"show_progress": False}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(tokenize_plan, "SMALLEST_SHARD", 2_000)


@pytest.fixture(scope="module")
def texts():
    draw = random.Random(0)
    words = ["alpha", " beta", "\n", "12", " <|endoftext|>", " 語", "..."]
    return ["".join(draw.choices(words, k=draw.randrange(200))) for _ in range(99)] + [""]


@pytest.fixture
def folder(tmp_path, texts):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, part in (("a.jsonl", texts[:70]), ("b.jsonl", texts[70:])):
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    return folder


def documents_of(prefix):
    dataset = IndexedDataset(prefix)
    return [dataset.document(number).tolist() for number in range(len(dataset))]


def files_of(prefix):
    return {path.name: path.read_bytes() for path in prefix.parent.glob(f"{prefix.name}.*") if path.is_file()}


def expected(texts):
    """Ids by tiktoken itself, with the text of special tokens as ordinary text; empty texts left out."""
    tokenizer = load_tokenizer(VOCABULARY)
    oracle = tiktoken.Encoding(
        "oracle",
        pat_str=official_cl100k()._pat_str,
        mergeable_ranks=tokenizer.ranks,
        special_tokens={},
    )
    return [[*oracle.encode_ordinary(text), tokenizer.special_ids["<|endoftext|>"]] for text in texts if text]


def test_documents_are_those_of_the_inputs_shuffled(tmp_path, folder, texts):
    summary = tokenize_documents(
        [folder], tmp_path / "kept", replace(SETTINGS, shuffle_seed=None), processes=1, **QUIET
    )
    shuffled = tokenize_documents([folder], tmp_path / "shuffled", SETTINGS, processes=1, **QUIET)
    want = expected(texts)
    assert documents_of(tmp_path / "kept") == want
    key = reference.derive_key(0, "documents")
    order = [reference.permute(len(want), key, place) for place in range(len(want))]
    assert documents_of(tmp_path / "shuffled") == [want[number] for number in order]
    filled = sum(map(bool, texts))
    assert (summary.documents, summary.empty_documents) == (filled, len(texts) - filled)
    assert summary.tokens == shuffled.tokens == sum(map(len, want))
    description = IndexedDataset(tmp_path / "kept").description
    assert description["tokenizer"] == load_tokenizer(VOCABULARY).fingerprint
    assert [entry["name"] for entry in description["inputs"]] == ["a.jsonl", "b.jsonl"]
    assert {path.name for path in tmp_path.glob("kept.*")} == {"kept.bin", "kept.idx", "kept.json"}


def test_number_of_processes_and_of_shards_changes_no_byte(tmp_path, folder, monkeypatch):
    tokenize_documents([folder], tmp_path / "one" / "d", SETTINGS, processes=1, **QUIET)
    tokenize_documents([folder], tmp_path / "two" / "d", SETTINGS, processes=2, **QUIET)
    monkeypatch.setattr(tokenize_plan, "SMALLEST_SHARD", 1 << 20)
    tokenize_documents([folder], tmp_path / "few" / "d", SETTINGS, processes=1, **QUIET)
    assert files_of(tmp_path / "one" / "d") == files_of(tmp_path / "two" / "d") == files_of(tmp_path / "few" / "d")


def test_seeds_give_orders(tmp_path, folder):
    for seed in (1, 2):
        tokenize_documents([folder], tmp_path / str(seed), replace(SETTINGS, shuffle_seed=seed), processes=1, **QUIET)
    first, second = documents_of(tmp_path / "1"), documents_of(tmp_path / "2")
    assert first != second
    assert sorted(first) == sorted(second)


def test_what_is_up_to_date_is_kept_and_what_changed_is_not(tmp_path, folder):
    output = tmp_path / "d"
    tokenize_documents([folder], output, SETTINGS, processes=1, **QUIET)
    before = output.with_suffix(".bin").stat()
    again = tokenize_documents([folder], output, SETTINGS, processes=1, **QUIET)
    assert again.reused
    assert output.with_suffix(".bin").stat().st_mtime_ns == before.st_mtime_ns
    assert not tokenize_documents([folder], output, replace(SETTINGS, shuffle_seed=9), processes=1, **QUIET).reused
    (folder / "b.jsonl").write_text('{"text": "another"}\n')
    changed = tokenize_documents([folder], output, SETTINGS, processes=1, **QUIET)
    assert not changed.reused
    assert changed.documents < again.documents
    output.with_suffix(".bin").write_bytes(b"")
    assert not tokenize_documents([folder], output, SETTINGS, processes=1, **QUIET).reused
    assert tokenize_documents([folder], output, SETTINGS, processes=1, **QUIET).documents == changed.documents


def test_a_killed_run_continues_with_its_finished_shards(tmp_path):
    """SIGKILL after the first shards; no process outlives it, and the resumed result is that of a run left alone."""
    source = tmp_path / "long.jsonl"
    line = json.dumps({"text": "How many roads must a man walk down? " * 300})
    source.write_text("\n".join(line.replace("How", str(number)) for number in range(1_500)))
    command = [sys.executable, "-m", "megaphi", "tokenize", str(source), "--vocabulary", str(VOCABULARY)]
    command += ["--processes", "2", "--output", str(tmp_path / "killed")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        parts = tmp_path / "killed.parts"
        deadline = time.monotonic() + 60
        while len(list(parts.glob("*.idx"))) < 2:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = [child for child in children_of(process.pid) if is_running(child)]
        process.send_signal(signal.SIGKILL)
    assert children, "it had no workers"
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    assert not (tmp_path / "killed.idx").exists()
    resumed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "shards were finished by an earlier run" in resumed.stderr
    subprocess.run([*command[:-1], str(tmp_path / "alone")], cwd=ROOT, capture_output=True, check=True)
    assert sorted(path.name for path in tmp_path.glob("killed*")) == ["killed.bin", "killed.idx", "killed.json"]
    for ending in (".bin", ".idx", ".json"):
        ours, alone = tmp_path / f"killed{ending}", tmp_path / f"alone{ending}"
        assert ours.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_input_leaves_the_old_result_and_the_finished_shards(tmp_path, folder, processes):
    tokenize_documents([folder], tmp_path / "d", SETTINGS, processes=1, **QUIET)
    old = files_of(tmp_path / "d")
    (folder / "c.jsonl").write_text('{"text": "fine"}\n{"text": 5}\n')
    (tmp_path / "d.parts").mkdir()
    (tmp_path / "d.parts" / ".x.bin.of_a_killed_process.partial").touch()
    with pytest.raises(InputError, match=r"c\.jsonl:2: 'text' is a number, not text"):
        tokenize_documents([folder], tmp_path / "d", SETTINGS, processes=processes, **QUIET)
    assert files_of(tmp_path / "d") == old
    assert not list((tmp_path / "d.parts").glob(".*"))
    (folder / "c.jsonl").write_text('{"text": "fine"}\n')
    assert tokenize_documents([folder], tmp_path / "d", SETTINGS, processes=1, **QUIET).resumed_shards > 0
    assert list(read_documents(folder / "c.jsonl")) == ["fine"]


def test_two_writers_of_one_result(tmp_path, folder):
    plan = subject.plan_tokenizing([folder], tmp_path / "d", SETTINGS)
    with subject._hold_parts(plan, alone=True), pytest.raises(InputError, match="another process is writing"):
        tokenize_documents([folder], tmp_path / "d", SETTINGS, processes=1, **QUIET)


def test_inputs_without_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(InputError, match="there is no text"):
        tokenize_documents([tmp_path / "a.jsonl"], tmp_path / "d", SETTINGS, processes=1, **QUIET)
    assert not (tmp_path / "d.bin").exists()


def test_output_where_no_folder_can_be(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        tokenize_documents([folder], tmp_path / "file" / "d", SETTINGS, processes=1, **QUIET)
