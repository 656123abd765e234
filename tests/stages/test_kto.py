"""KTO, as a fork adds it in one file (`examples/kto.py`): unpaired answers, and a statistic of the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conversion.random_models import random_folder
from tests.gloo_world import run_in_world
from tests.stages.kto_runs import OBJECTIVE, a_kto_step, judged_answers
from tests.stages.packed_runs import LAYOUTS, SHAPE, difference, gradients, processes_of
from tests.stages.test_packed_training import side_log_probabilities, their_gradients


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kto") / "model"
    random_folder(folder, SHAPE, scale=0.2, pad_token_id=None)
    return folder


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def plain_kto(model: Any, chosen: slice) -> tuple[Tensor, float]:
    """(loss, z0) by the paper's equations 7 and 8, two passes for each answer, nothing packed."""
    answers, reference_N2 = judged_answers()
    ratios_N2 = torch.stack(
        [
            torch.stack(
                [
                    side_log_probabilities(model, answer.prompt, side) - reference
                    for side, reference in zip((answer.chosen, answer.rejected), references, strict=True)
                ]
            )
            for answer, references in zip(answers[chosen], reference_N2[chosen], strict=True)
        ]
    )
    z0 = max(0.0, ratios_N2[:, 1].mean().item())
    losses = []
    for answer, ratio in zip(answers[chosen], ratios_N2[:, 0], strict=True):
        if answer.liked:
            losses.append(OBJECTIVE.liked_weight * (1 - torch.sigmoid(OBJECTIVE.beta * (ratio - z0))))
        else:
            losses.append(OBJECTIVE.disliked_weight * (1 - torch.sigmoid(OBJECTIVE.beta * (z0 - ratio))))
    return torch.stack(losses).mean(), z0


@pytest.fixture(scope="module")
def expected(theirs: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of all answers as one batch, whose z0 is far from that of a part of it."""
    loss, z0 = plain_kto(theirs, slice(None))
    assert z0 > 1
    assert abs(plain_kto(theirs, slice(4))[1] - z0) > 0.1
    return loss.item(), their_gradients(theirs, loss)


@pytest.mark.parametrize("name", ["1", "TP2+SP", "PP2", "DP2"])
def test_a_step_is_what_plain_pytorch_computes(
    name: str, checkpoint: Path, expected: tuple[float, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    layout = LAYOUTS[name]
    found = run_in_world(a_kto_step, str(tmp_path), str(checkpoint), layout, processes=processes_of(layout))
    loss, slopes = expected
    assert found == [pytest.approx(loss, rel=1e-5)] * len(found)
    assert difference(gradients(tmp_path), slopes) < 1e-5
