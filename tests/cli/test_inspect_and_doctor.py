"""What `inspect`, `doctor` and `train --dry-run` print, on real files and on this machine."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from megaphi.cli import main
from megaphi.config import to_plain
from megaphi.data.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.data.ledger import UNREAD, Cursor, DatasetRecord, Ledger, Origin, SourceRecord
from megaphi.engine.checkpoint_files import Box, Piece, build_index, write_pieces
from megaphi.files import write_json
from megaphi.recipes import load_recipe
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.test_house import ROOT


@pytest.fixture
def shown(capsys):
    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return run


def test_a_dataset_and_one_of_its_documents(shown, tmp_path):
    tokenizer = load_tokenizer(400)
    with IndexedDatasetWriter(tmp_path / "d", "uint16") as writer:
        for text in ("first", "second text"):
            writer.add_document(np.array([*tokenizer.encode(text), tokenizer.end_of_text]))
        writer.finish({"vocabulary_size": 400})
    for name in ("d", "d.bin", "d.idx"):
        text = shown("inspect", tmp_path / name)
        assert re.search(r"documents +2\n", text)
        assert re.search(r"vocabulary_size 400\n", text)
    assert shown("inspect", tmp_path / "d", "--document", 1) == "second text<|endoftext|>\n"


LEDGER = Ledger(
    order="keyed",
    order_version=1,
    seed=7,
    origin=Origin(),
    segments=(),
    sources=(
        SourceRecord(
            name="web",
            datasets=(DatasetRecord(name="data/web", tokens=40, documents=2, fingerprint="f"),),
            at_origin=UNREAD,
            now=Cursor(block_tokens=10, blocks=4, first_epoch=0, tokens=50, drawn=50),
        ),
    ),
)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "run" / "checkpoints" / "step_00000003"
    folder.mkdir(parents=True)
    entries = []
    for rank in range(2):
        piece = Piece(key="model/w", whole_shape=(4, 3), box=Box((2 * rank, 0), (2, 3)), start=0, values=torch.zeros(6))
        entries += write_pieces(folder, [piece], rank=rank)
    write_json(folder / "index.json", build_index(entries))
    write_json(folder / "state.json", {"step": 3, "tokens_by_source": {"web": 5}, "ledger": LEDGER.to_json()})
    write_json(folder / "config.json", to_plain(load_recipe("quickstart_pretrain")))
    (folder.parent / "latest").write_text(folder.name)
    return folder


def test_a_checkpoint(shown, checkpoint):
    text = shown("inspect", checkpoint.parents[1], "--tensors")
    assert re.search(r"step +3\n", text)
    assert re.search(r"tokens_by_source web 5\n", text)
    assert re.search(r"data +keyed order, seed 7, this plan from step 0 on\n", text)
    assert re.search(r"web +50 tokens drawn of 40: 1.250 epochs\n", text)
    assert re.search(r"parameters +12 in 1 tensors\n", text)
    assert re.search(r"model/w +float32 +\[4, 3\] +2 pieces\n", text)


def test_differences_of_two_runs(shown, checkpoint, tmp_path):
    run = load_recipe("quickstart_pretrain")
    other = dataclasses.replace(run, seed=7)
    write_json(tmp_path / "other" / "config.json", to_plain(other))
    assert shown("inspect", checkpoint, tmp_path / "other") == "seed: 1234 -> 7\n"
    assert shown("inspect", checkpoint, checkpoint) == "no field differs\n"


def run_megaphi(*words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: counting parameters starts Megatron, which a test process must not keep."""
    return subprocess.run([sys.executable, "-m", "megaphi", *words], capture_output=True, text=True, cwd=ROOT)


def test_the_dry_run_of_the_14b_recipe_is_the_papers():
    words = "train phi4_14b_pretrain --dry-run layout.tensor=2 layout.pipeline=4 --world-size 512"
    result = run_megaphi(*words.split())
    assert result.returncode == 0, result.stderr
    for line in (
        r"parameters +14,659,507,200",
        r"tokens per step +23,592,960",
        r"micro-batches +90 of 1 on each of 64 replicas",
        r"steps +424,000",
        r"tokens +10,003,415,040,000",
        r"web .* 1\.2 ",
        r"rewrites .* 5\.2 ",
        r"synthetic .* 13\.8 ",
        r"code .* 2\.4 ",
        r"acquired .* 1\.7 ",
        r"layout\.data +64",
        r"optimizer\.learning_rate +0\.0003",
    ):
        assert re.search(line, result.stdout), line


def test_doctor_tells_what_fits():
    small = run_megaphi("doctor", "quickstart_pretrain")
    assert small.returncode == 0, small.stdout
    assert "this machine can train" in small.stdout
    assert re.search(r"tokenizer +100,352 tokens, rank file verified", small.stdout)
    for operation in ("attention", "linear layers", "optimizer", "collectives"):
        assert re.search(rf"^{operation} +\S", small.stdout, re.MULTILINE)
    for operator in ("rms_norm", "add_rms_norm", "rotary", "causal_softmax", "swiglu", "cross_entropy"):
        assert re.search(rf"^{operator} +fp32 and bf16 compiled \(\w+\)$", small.stdout, re.MULTILINE), operator
    huge = run_megaphi("doctor", "phi4_14b_pretrain", "model.layers=4000", "layout.pipeline=1", "layout.tensor=1")
    assert huge.returncode == 1
    assert re.search(r"problem: phi4_14b_pretrain needs [\d.]+ GB", huge.stdout)
