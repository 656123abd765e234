"""The golden curve once more without our engine: transformers' Phi3, a loop in plain torch, torch's own AdamW.

Only the initial weights (exported) and the batches are shared. Loss, gradient norm, clipping, warm-up, decay, weight
decay on matrices alone and the mean over all trained tokens are written out here from their definitions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, step_batches, tiny_run, train
from tests.engine.test_golden_curve import CURVE, STEPS, curve_of
from tests.gloo_world import run_in_world

CLIPPED = Optimizer(learning_rate=3e-3, warmup_steps=2, clip_gradient_norm=0.5, weight_decay=1.0)
"""Settings under which clipping and weight decay change every step."""
TIED = replace(TINY, tied_embeddings=True)


def plain_torch(run: RunConfig, folder: Path, *, steps: int, train: Callable[..., Any] = train) -> np.ndarray:
    """(loss, gradient norm) of each step, from the initial weights that `train` makes."""
    run_in_world(partial(train, run, steps=0, save=True), processes=1)
    exported = to_huggingface(run.folder, folder, tokenizer=False)
    model: Any = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).train()
    model.model.embed_tokens.padding_idx = None  # tokens here are numbers, and none of them is padding
    settings = run.optimizer
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    norms = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), eps=settings.eps)
    rows = []
    for step in range(1, steps + 1):
        rising = step / settings.warmup_steps
        falling = 1 - 0.9 * (step - settings.warmup_steps) / (run.training.steps - settings.warmup_steps)
        for group in adam.param_groups:
            group["lr"] = settings.learning_rate * min(rising, falling)
        adam.zero_grad()
        loss = mean_loss(model, run, step=step - 1)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_gradient_norm)
        adam.step()
        rows.append((loss.item(), norm.item()))
    return np.array(rows)


def mean_loss(model: PreTrainedModel, run: RunConfig, *, step: int) -> torch.Tensor:
    """Mean over the trained tokens of all micro-batches of a step."""
    losses, masks = [], []
    for batch in step_batches(run, step=step, replica=0, replicas=1):
        logits_BSV = model(torch.from_numpy(batch.tokens_BS)).logits
        labels_N = torch.from_numpy(batch.labels_BS).flatten()
        losses.append(functional.cross_entropy(logits_BSV.flatten(0, 1), labels_N, reduction="none"))
        masks.append(torch.from_numpy(batch.loss_mask_BS).flatten())
    mask = torch.cat(masks)
    return (torch.cat(losses) * mask).sum() / mask.sum()


def test_the_golden_curve_is_that_of_plain_torch(tmp_path: Path) -> None:
    curve = plain_torch(tiny_run(folder=str(tmp_path / "run")), tmp_path / "hf", steps=STEPS)
    np.testing.assert_allclose(curve, np.loadtxt(CURVE), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", [ParallelLayout(), ParallelLayout(tensor=2, pipeline=2)], ids=str)
def test_clipping_and_weight_decay_are_those_of_plain_torch(layout: ParallelLayout, tmp_path: Path) -> None:
    run = tiny_run(folder=str(tmp_path / "run"), optimizer=CLIPPED)
    curve = plain_torch(run, tmp_path / "hf", steps=6)
    assert (curve[:, 1] > CLIPPED.clip_gradient_norm).all()
    ours = run_in_world(
        partial(train, tiny_run(layout=layout, optimizer=CLIPPED), steps=6), processes=layout.model_ranks
    )
    found = np.stack((ours[0]["losses"], ours[0]["norms"]), axis=1)
    np.testing.assert_allclose(found, curve, rtol=0, atol=1e-5)


TIED_LAYOUTS = [ParallelLayout(), ParallelLayout(tensor=2, pipeline=2), ParallelLayout(pipeline=2, virtual_pipeline=2)]


@pytest.fixture(scope="module")
def tied_curve(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The curve of transformers' own tied model."""
    folder = tmp_path_factory.mktemp("tied")
    run = tiny_run(folder=str(folder / "run"), optimizer=CLIPPED, model=TIED)
    return plain_torch(run, folder / "hf", steps=6)


@pytest.mark.parametrize("layout", TIED_LAYOUTS, ids=str)
def test_a_tied_model_is_that_of_plain_torch(layout: ParallelLayout, tied_curve: np.ndarray) -> None:
    """The gradient is the sum of both uses', it counts once in the norm, and the weight decays once."""
    run = tiny_run(layout=layout, optimizer=CLIPPED, model=TIED)
    for rank in run_in_world(partial(train, run, steps=6), processes=layout.model_ranks):
        found = np.stack((rank["losses"], rank["norms"]), axis=1)
        np.testing.assert_allclose(found, tied_curve, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", [ParallelLayout(), ParallelLayout(tensor=2, data=2)], ids=str)
def test_bfloat16_stays_near_the_golden_curve(layout: ParallelLayout) -> None:
    """Weights and activations of 8 bits of precision, gradients and moments in fp32."""
    (first, *_) = curve_of(layout, precision=NumericPrecision(parameters="bfloat16"))
    golden = np.loadtxt(CURVE)
    np.testing.assert_allclose(first["losses"], golden[:, 0], rtol=0, atol=0.02)
    np.testing.assert_allclose(first["norms"], golden[:, 1], rtol=0.03)
