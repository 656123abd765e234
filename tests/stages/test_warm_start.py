"""A run that starts from a Hugging Face folder: its weights are those that transformers loads, its files travel on.

The first step's loss, before any update, is compared with the loss that `transformers` computes for the same batch; a
vocabulary, kernels and layout of our own change nothing. The checkpoint alone then exports what was imported.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_tokenizer import RunTokenizer
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.pretrain import Pretrain, open_data
from megaphi.tokenizer.open_tokenizer import open_path
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.conversion.random_models import random_folder
from tests.engine.layout_runs import TINY, tiny_run
from tests.gloo_world import run_in_world
from tests.stages.mixture_runs import pretrain_here
from tests.stages.stage_runs import with_sections
from tests.stages.test_mixture_changes import VOCABULARY, write_tokens

SHAPE = replace(TINY, vocabulary=VOCABULARY, rotary_base=250_000.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of random weights, with the files of its own tokenizer."""
    random_folder(tmp_path / "hf", SHAPE, scale=0.1)  # an initial model's size: a standard normal loses a hundred nats
    (tmp_path / "hf" / "tokenizer_config.json").write_text('{"of": "this model"}')
    return tmp_path / "hf"


@pytest.fixture
def run(tmp_path: Path, folder: Path) -> RunConfig:
    write_tokens(tmp_path / "data", 20_000)
    mixture = Mixture(sources=(Source(name="text", weight=1.0, paths=(str(tmp_path / "data"),)),))
    run = tiny_run(
        folder=str(tmp_path / "run"),
        task=Pretrain(mixture=mixture),
        model=replace(SHAPE, kernels="reference"),
        layout=ParallelLayout(tensor=2, sequence_parallel=True),
        saving=Saving(every=2),
        tokenizer=RunTokenizer(path="phi4"),  # which the data is made with, and the folder does not say
    )
    return replace(
        run,
        training=replace(run.training, steps=8, stop_after=2),
        start=replace(run.start, initial_checkpoint=str(folder)),
    )


def their_loss(run: RunConfig, folder: Path) -> float:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    training, _ = open_data(run, open_weights=open_weights)
    batch = training.batch(np.arange(run.batch.global_batch))
    with torch.no_grad():
        logits_BSV = model(torch.from_numpy(batch.tokens_BS)).logits
    mask_BS = torch.from_numpy(batch.loss_mask_BS)
    losses_BS = cross_entropy(logits_BSV.transpose(1, 2), torch.from_numpy(batch.labels_BS), reduction="none")
    return float((losses_BS * mask_BS).sum() / mask_BS.sum())


def go(run: RunConfig, **fields: Any) -> dict[str, Any]:
    return run_in_world(partial(pretrain_here, with_sections(run, **fields)), processes=2)[0]


def test_a_run_starts_from_a_hugging_face_folder_and_its_checkpoint_is_enough(
    run: RunConfig, folder: Path, tmp_path: Path
) -> None:
    result = go(run)
    assert result["message"] is None
    assert result["records"][0]["loss"] == pytest.approx(their_loss(run, folder), abs=2e-5)
    folder.rename(tmp_path / "gone")
    resumed = go(run, stop_after=4)
    assert resumed["message"] is None
    exported = to_huggingface(tmp_path / "run", tmp_path / "out")
    assert open_path(str(exported)).fingerprint == load_tokenizer(SHAPE.vocabulary).fingerprint
    before, after = (json.loads((at / "config.json").read_text()) for at in (tmp_path / "gone", exported))
    assert {name: before[name] for name in ("eos_token_id", "pad_token_id", "rope_theta")} == {
        name: after.get(name, after.get("rope_parameters", {}).get(name))
        for name in ("eos_token_id", "pad_token_id", "rope_theta")
    }
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(exported).num_parameters() == SHAPE.parameters


def test_what_is_not_in_the_folder_is_said(run: RunConfig, folder: Path) -> None:
    assert (
        "the model came without one: name the model's in tokenizer.path"
        in go(replace(run, tokenizer=RunTokenizer()))["message"]
    )
    message = go(run, continue_sources=True)["message"]
    assert "does not know what its weights have read; set it to false" in message
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert "model.norm_eps is 0.001, the run has 1e-05" in go(run)["message"]
