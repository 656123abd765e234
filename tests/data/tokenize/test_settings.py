"""Other settings of `megaphi tokenize`: fill in the middle, a dry run; the effect of corrupted files and full disks."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from dataclasses import replace

import pytest

from megaphi.cli import main
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.text import input_identity
from megaphi.data.tokenize import plan as tokenize_plan
from megaphi.data.tokenize.fill_in_the_middle import FillInTheMiddle, rearrange
from megaphi.data.tokenize.pipeline import plan_tokenizing, tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.errors import InputError
from megaphi.parallel.rendezvous.folder_worker import FolderWorker
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.test_house import ROOT

SETTINGS = TokenizeSettings(vocabulary_size=1_024)
QUIET = {"show_progress": False, "processes": 1}


@pytest.fixture
def texts():
    draw = random.Random(0)
    words = ["def ", "x", "\n    ", "return ", "<|fim_middle|>", "語", "(", ")"]
    return ["".join(draw.choices(words, k=draw.randrange(1, 60))) for _ in range(200)]


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(tokenize_plan, "SMALLEST_SHARD", 2_000)


@pytest.mark.parametrize("vocabulary", [1_024, 100_352])
def test_fill_in_the_middle_of_each_document(tmp_path, source, texts, vocabulary):
    """Sentinels only where a part begins: a text that spells one stays text, in a small vocabulary too."""
    tokenizer = load_tokenizer(vocabulary)
    fill = FillInTheMiddle(rate=0.6, spm_rate=0.4, seed=3)
    given = TokenizeSettings(vocabulary_size=vocabulary, shuffle_seed=None, fill_in_the_middle=fill)
    summary = tokenize_documents([source], tmp_path / "d", given, **QUIET)
    dataset = IndexedDataset(tmp_path / "d")
    specials = {tokenizer.special_ids[name] for name in ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")}
    for number, text in enumerate(texts):
        ids = dataset.document(number).tolist()
        expected = []
        for part in rearrange(text, fill):
            expected += [tokenizer.special_ids[part.sentinel]] if part.sentinel else []
            expected += tokenizer.encode(part.text)
        assert ids == [*expected, tokenizer.end_of_text]
        assert sum(token in specials for token in ids) in (0, 3)
        assert sorted(tokenizer.decode([token for token in ids[:-1] if token not in specials])) == sorted(text)
    assert summary.documents == len(texts)
    assert dataset.description["fill_in_the_middle"] == {"rate": 0.6, "spm_rate": 0.4, "seed": 3}
    assert tokenize_documents([source], tmp_path / "d", given, **QUIET).reused
    given = replace(given, fill_in_the_middle=replace(fill, seed=4))
    assert not tokenize_documents([source], tmp_path / "d", given, **QUIET).reused


def test_fill_in_the_middle_depends_neither_on_shards_nor_on_members(tmp_path, source, monkeypatch):
    given = replace(SETTINGS, fill_in_the_middle=FillInTheMiddle(rate=0.5))
    tokenize_documents([source], tmp_path / "one" / "d", given, **QUIET)
    monkeypatch.setattr(tokenize_plan, "SMALLEST_SHARD", 500)
    for rank in range(2):
        tokenize_documents([source], tmp_path / "many" / "d", given, worker=FolderWorker(rank=rank, world=2), **QUIET)
    for ending in (".bin", ".idx", ".json"):
        assert (tmp_path / "one" / f"d{ending}").read_bytes() == (tmp_path / "many" / f"d{ending}").read_bytes()


def test_the_options_of_the_verb(tmp_path, source, texts, capsys):
    words = ["tokenize", str(source), "--vocabulary", "1024", "--processes", "1", "--no-shuffle"]
    assert main([*words, "--output", str(tmp_path / "d"), "--fim-rate", "1", "--fim-spm-rate", "1"]) == 0
    first = IndexedDataset(tmp_path / "d").document(0).tolist()
    tokenizer = load_tokenizer(1_024)
    assert first[:2] == [tokenizer.special_ids["<|fim_prefix|>"], tokenizer.special_ids["<|fim_suffix|>"]]
    assert main([*words, "--output", str(tmp_path / "d"), "--fim-rate", "2"]) == 2
    assert "rate 2.0 is not a share between 0 and 1" in capsys.readouterr().err


def test_a_plan_to_look_at_writes_nothing(tmp_path, source, texts, capsys):
    words = ["tokenize", str(source), "--vocabulary", "1024", "--output", str(tmp_path / "d")]
    assert main([*words, "--dry-run", "--rank", "1", "--world", "3"]) == 0
    text = capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    assert "1 files, " in text
    assert "1 shards of up to " in text
    assert "worker 0 of 3 (--rank): 1 shards" in text
    assert "worker 1 of 3 (--rank): 0 shards" in text
    assert "joined by whoever finishes last, shuffled with seed 0" in text
    tokens = int(text.partition("about ")[2].partition(" tokens")[0].replace(",", ""))
    written = tokenize_documents([source], tmp_path / "d", SETTINGS, **QUIET).tokens
    assert 0.8 < tokens / written < 1.25
    assert main([*words, "--dry-run"]) == 0
    assert "up to date: nothing would be done" in capsys.readouterr().out


def test_large_inputs_are_known_by_samples_and_their_time(tmp_path, source, monkeypatch):
    """Beyond 1 GiB in all: an edit in the middle, which no sample sees, changes the time of modification."""
    path = tmp_path / "large.jsonl"
    line = b'{"text": "%s"}\n' % (b"a" * 1_000)
    path.write_bytes(line * 1_000)
    monkeypatch.setattr(input_identity, "HASHED_WHOLE", 1_000)

    def names():
        return [shard.prefix.name for shard in plan_tokenizing([path], tmp_path / "d", SETTINGS).shards]

    before, status = names(), path.stat()
    assert names() == before
    with open(path, "r+b") as file:
        file.seek(400_000)
        file.write(b"b")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert names() != before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert names() == before  # what the name, the size and the time say is believed
    with open(path, "r+b") as file:
        file.write(b'{"text":  "')
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert names() != before


def test_shards_do_not_depend_on_what_is_around(tmp_path, source):
    """The name of a shard is its content and the settings, wherever it lies."""
    names = [
        [shard.prefix.name for shard in plan_tokenizing([source], tmp_path / where, SETTINGS).shards]
        for where in ("here", "there")
    ]
    assert names[0] == names[1]
    other = plan_tokenizing([source], tmp_path / "here", TokenizeSettings(vocabulary_size=2_048)).shards
    assert [shard.prefix.name for shard in other] != names[0]


def test_large_totals_are_cut_into_a_bounded_number_of_shards(tmp_path):
    """40 TiB as holes in sparse files, which nobody reads to make a plan."""
    for number in range(4):
        with open(tmp_path / f"{number}.jsonl", "wb") as file:
            os.truncate(file.fileno(), 10 << 40)
    plan = plan_tokenizing([tmp_path], tmp_path / "d", SETTINGS)
    assert 4_000 < len(plan.shards) <= tokenize_plan.MOST_SHARDS + 4
    assert sum(shard.size_bytes for shard in plan.shards) == plan.input_bytes == 40 << 40


def test_shards_that_cannot_be_read(tmp_path, source, small_shards, caplog):
    """A folder where a shard's index should be: one message that names it."""
    plan = plan_tokenizing([source], tmp_path / "d", SETTINGS)
    plan.shards[1].prefix.with_suffix(".idx").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"cannot write .*{plan.shards[1].prefix.name}"):
        tokenize_documents([source], tmp_path / "d", SETTINGS, **QUIET)
    assert not (tmp_path / "d.idx").exists()


def test_a_full_disk_leaves_finished_shards_and_nothing_half_written(tmp_path, texts):
    """The joined .bin is over the limit, the shards are not."""
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": text * 400}) + "\n" for text in texts))
    limit = 1_500_000
    command = [sys.executable, "-m", "megaphi", "tokenize", str(source), "--vocabulary", "1024", "--processes", "1"]

    def run(name, *, limited):
        limits = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limited else None
        words = [*command, "--output", str(tmp_path / name / "d")]
        return subprocess.run(words, cwd=ROOT, preexec_fn=limits, capture_output=True, text=True, check=False)

    ended = run("limited", limited=True)
    assert ended.returncode == 2
    assert "larger than this process may write (ulimit -f)" in ended.stderr
    assert [path.name for path in (tmp_path / "limited").iterdir()] == ["d.parts"]
    assert not [path for path in (tmp_path / "limited").rglob("*") if path.suffix == ".partial"]
    resumed = run("limited", limited=False)
    assert resumed.returncode == 0
    assert "were finished by an earlier run" in resumed.stderr
    assert run("alone", limited=False).returncode == 0
    for ending in (".bin", ".idx", ".json"):
        assert (tmp_path / "limited" / f"d{ending}").read_bytes() == (tmp_path / "alone" / f"d{ending}").read_bytes()
