"""Output of `inspect`, `doctor` and `train --dry-run`, on real files and on this machine."""

from __future__ import annotations

import dataclasses
import re
import shutil
from hashlib import sha256

import numpy as np
import pytest
import torch

from megaphi.checkpoint.box import whole_box
from megaphi.checkpoint.format import TensorPiece, finish_checkpoint, rank_file, write_rank_file
from megaphi.cli import main
from megaphi.config import to_plain
from megaphi.data.order.ledger import UNREAD, Cursor, DatasetRecord, Ledger, Origin, SourceRecord
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.files import write_json
from megaphi.model.architecture import Architecture
from megaphi.model.weights import weights_of
from megaphi.recipes import load_recipe
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.warm_megaphi import run_megaphi


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
        text = shown("inspect", "dataset", tmp_path / name)
        assert re.search(r"documents +2\n", text)
        assert re.search(r"vocabulary_size 400\n", text)
    assert shown("inspect", "dataset", tmp_path / "d", "--document", 1) == "second text<|endoftext|>\n"


MODEL = Architecture(
    layers=1, hidden=8, feed_forward=12, heads=2, key_value_groups=1, head_size=4, vocabulary=352
)  # fmt: skip
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


def write_checkpoint(folder, *, save_id="first", change=0.0):
    """Two ranks' pieces of every weight of a small model, and of one moment."""
    folder.mkdir(parents=True)
    files = {}
    for rank in range(2):
        pieces = []
        for weight in weights_of(MODEL):
            flat = torch.arange(weight.numel, dtype=torch.float32) + change
            start, end = (weight.numel * part // 2 for part in (rank, rank + 1))
            for key in (f"model/{weight.name}", f"optimizer/exp_avg/{weight.name}"):
                box = whole_box(weight.shape)
                pieces.append(
                    TensorPiece(key=key, whole_shape=weight.shape, box=box, start=start, values=flat[start:end].clone())
                )
        files[rank_file(rank)] = write_rank_file(folder, pieces, rank=rank, save_id=save_id, step=3)
    config = dataclasses.replace(load_recipe("quickstart_pretrain"), model=MODEL)
    state = {"step": 3, "tokens_by_source": {"web": 5}, "ledger": LEDGER.to_json()}
    finish_checkpoint(folder, to_plain(config), state, files, save_id=save_id)
    (folder.parent / "latest").write_text(folder.name)
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "run" / "checkpoints" / "step_00000003")


def test_a_checkpoint(shown, checkpoint):
    text = shown("inspect", "checkpoint", checkpoint.parents[1], "--tensors", "--files")
    assert re.search(r"step +3\n", text)
    assert re.search(r"save id +first\n", text)
    assert re.search(r"layout +tensor 2 x pipeline 1 x data auto, sequence parallel\n", text)
    assert re.search(r"tokens_by_source web 5\n", text)
    assert re.search(r"data +keyed order, seed 7, this plan from step 0 on\n", text)
    assert re.search(r"web +50 tokens drawn of 40: 1.250 epochs\n", text)
    assert re.search(rf"parameters +{MODEL.parameters:,} in 9 tensors\n", text)
    assert re.search(rf"  model \(float32\) +{4 * MODEL.parameters:,} bytes\n", text)
    assert re.search(rf"  optimizer/exp_avg \(float32\) +{4 * MODEL.parameters:,} bytes\n", text)
    assert re.search(r"model/output_layer.weight +float32 +\[352, 8\] +2 pieces\n", text)
    digest = sha256((checkpoint / "rank_00001.safetensors").read_bytes()).hexdigest()
    assert re.search(rf"rank_00001.safetensors +[\d,]+  {digest}\n", text)


def test_differences_of_two_runs(shown, checkpoint, tmp_path):
    run = dataclasses.replace(load_recipe("quickstart_pretrain"), model=MODEL)
    write_json(tmp_path / "other" / "config.json", to_plain(dataclasses.replace(run, seed=7)))
    assert shown("inspect", "diff", checkpoint, tmp_path / "other") == "seed: 1234 -> 7\n"
    assert shown("inspect", "diff", checkpoint, checkpoint.parents[1]) == "nothing differs\n"


def test_differences_of_two_checkpoints(shown, checkpoint, tmp_path):
    other = write_checkpoint(tmp_path / "other", change=0.5)
    text = shown("inspect", "diff", checkpoint, other, "--weights")
    assert "numbers: 0 of 18 tensors are equal" in text
    assert re.search(r"numbers model/decoder.final_layernorm.weight: differ by up to 5.000e-01, relative norm \d", text)
    same = shown("inspect", "diff", checkpoint, checkpoint, "--weights")
    assert same == "numbers: 18 of 18 tensors are equal\n"


def test_a_whole_checkpoint_is_verified(shown, checkpoint):
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    for words in ([checkpoint], [checkpoint.parents[1], "--all"], [checkpoint, "--values"]):
        assert shown("verify", *words) == f"{checkpoint}: whole ({size:,} bytes)\n"


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("rank_00000.safetensors", "rank_00000.safetensors is corrupted (SHA-256"),
        ("index.json", "index.json is corrupted (SHA-256"),
        ("state.json", "state.json is corrupted (SHA-256"),
        ("config.json", "config.json is corrupted (SHA-256"),
        ("manifest.json", "manifest"),
    ],
)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_one_flipped_bit_anywhere_is_found(capsys, checkpoint, name, finding, place):
    content = bytearray((checkpoint / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (checkpoint / name).write_bytes(content)
    assert main(["verify", str(checkpoint)]) in (1, 2)
    said = capsys.readouterr()
    assert finding in said.out + said.err
    assert "Traceback" not in said.err


def test_what_does_not_belong_together_is_found(capsys, checkpoint, tmp_path):
    other = write_checkpoint(tmp_path / "other", save_id="second")
    shutil.copy(other / "rank_00001.safetensors", checkpoint)
    (checkpoint / "rank_00002.safetensors").write_bytes(b"?")
    assert main(["verify", str(checkpoint)]) == 1
    text = capsys.readouterr().out
    assert "rank_00001.safetensors is not part of this checkpoint: another save (second) wrote it at step 3" in text
    assert "rank_00002.safetensors is not part of it" in text


def test_numbers_that_are_not_finite_are_found(capsys, tmp_path):
    folder = write_checkpoint(tmp_path / "spoilt", change=float("nan"))
    assert main(["verify", str(folder)]) == 0
    assert main(["verify", str(folder), "--values"]) == 1
    expected = f"model/output_layer.weight holds {352 * 8:,} numbers that are not finite"
    assert expected in capsys.readouterr().out


def test_the_dry_run_says_what_ranks_hold_copies_of():
    words = "train phi4_14b_pretrain --dry-run layout.tensor=8 layout.pipeline=4 --world-size 32".split()
    result = run_megaphi(*words)
    assert result.returncode == 0, result.stderr
    assert re.search(
        r"parameters +14,659,507,200\n +key-value groups +10, of which each tensor rank holds 2", result.stdout
    )
    refused = run_megaphi(*words, "model.kernels=transformer_engine")
    assert refused.returncode == 2
    assert "layout.tensor=8 does not divide model.key_value_groups=10" in refused.stderr


def test_the_dry_run_of_the_14b_recipe_is_the_papers():
    words = "train phi4_14b_pretrain --dry-run --world-size 512"
    result = run_megaphi(*words.split())
    assert result.returncode == 0, result.stderr
    for line in (
        r"parameters +14,659,507,200",
        r"tokens per step +23,592,960",
        r"micro-batches +45 of 1 on each of 128 replicas, interleaved in groups of 5",
        r"steps +424,000",
        r" 0 +4,262,574,080 .* 63\.03 GB",
        r"layers per stage +2\+2\+2\+2\+3, 2\+2\+2\+2\+2, 2\+2\+2\+2\+2, 2\+2\+2\+2\+1\n",
        r"93\.9% with the bubble",
        r"tokens +10,003,415,040,000",
        r"web .* 1\.2 ",
        r"rewrites .* 5\.2 ",
        r"synthetic .* 13\.8 ",
        r"code .* 2\.4 ",
        r"acquired .* 1\.7 ",
        r"layout\.data +128",
        r"optimizer\.learning_rate +0\.0003",
    ):
        assert re.search(line, result.stdout), line


def test_doctor_tells_what_fits():
    small = run_megaphi("doctor", "quickstart_pretrain")
    assert small.returncode == 0, small.stdout
    assert "this machine can train" in small.stdout
    assert re.search(r"tokenizer +100,352 tokens, rank file verified", small.stdout)
    assert re.search(r"^attention +flash attention of torch$", small.stdout, re.MULTILINE)
    assert re.search(r"^  cudnn +no: model\.attention_backend=cudnn cannot compute", small.stdout, re.MULTILINE)
    for operation in ("linear layers", "optimizer", "collectives"):
        assert re.search(rf"^{operation} +\S", small.stdout, re.MULTILINE)
    for operator in (
        "rms_norm",
        "add_rms_norm",
        "rotary",
        "causal_softmax",
        "swiglu",
        "cross_entropy",
        "paged_attention",
    ):
        assert re.search(rf"^{operator} +fp32 and bf16 compiled \(\w+\)$", small.stdout, re.MULTILINE), operator
    huge = run_megaphi(
        "doctor",
        "phi4_14b_pretrain",
        "model.feed_forward=1792000",
        "layout.pipeline=1",
        "layout.virtual_pipeline=1",
        "layout.stage_layers=",
    )
    assert huge.returncode == 1
    assert re.search(r"problem: phi4_14b_pretrain needs [\d.]+ GB", huge.stdout)
