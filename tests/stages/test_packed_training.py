"""Packed conversations and preference pairs in every layout: losses and whole gradients.

Packed rows against the same conversations one to a row; preference losses against plain PyTorch on transformers' model
with two passes for each pair, and single tokens against the general path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from megaphi.data.packed.pair_rows import length_of, units_of
from megaphi.data.packed.preference_pairs import PreferencePair
from megaphi.model.weights import OUTPUT
from megaphi.stages.preference import PreferenceObjective
from tests.conversion.random_models import attentive_folder, in_transformers, whole_weights
from tests.gloo_world import run_in_world
from tests.stages.packed_runs import (
    CASES,
    LAYOUTS,
    SHAPE,
    conversations,
    difference,
    gradients,
    packed_and_unpacked,
    pair_batches,
    pairs,
    preference_steps,
    processes_of,
    reference_of,
    single_token_pairs,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attentive_folder(tmp_path_factory.mktemp("packed") / "model", SHAPE)


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> Any:
    return in_transformers(checkpoint)


@pytest.fixture(scope="module")
def tied_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attentive_folder(tmp_path_factory.mktemp("packed") / "tied", SHAPE, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def tied_theirs(tied_checkpoint: Path) -> Any:
    return in_transformers(tied_checkpoint)


def their_gradients(model: Any, loss: Tensor) -> dict[str, np.ndarray]:
    model.zero_grad()
    loss.backward()
    by_name = {name: parameter.grad for name, parameter in model.named_parameters()}
    ours = whole_weights(by_name, SHAPE)
    if model.config.tie_word_embeddings:
        del ours[OUTPUT]
    return {name: values.double().numpy() for name, values in ours.items()}


@pytest.fixture(scope="module")
def expected_sft(theirs: Any) -> tuple[float, dict[str, np.ndarray]]:
    return sft_of(theirs)


def sft_of(theirs: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Mean loss over all trained tokens, each conversation by itself, and its gradients."""
    total, count = torch.zeros(()), 0
    for sample in conversations():
        ids = torch.from_numpy(sample.ids.astype(np.int64))  # pyright: ignore
        log_probability_SV = theirs(ids[None, :-1]).logits[0].log_softmax(-1)
        trained = torch.from_numpy(sample.trained[1:])  # pyright: ignore
        total = total - log_probability_SV.gather(1, ids[1:, None])[trained].sum()
        count += int(trained.sum())
    loss = total / count
    return loss.item(), their_gradients(theirs, loss)


@pytest.mark.parametrize("name", LAYOUTS)
def test_packed_conversations_are_as_if_alone(
    name: str, checkpoint: Path, expected_sft: tuple[float, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    layout = LAYOUTS[name]
    loss, expected = expected_sft
    found = run_in_world(packed_and_unpacked, str(tmp_path), str(checkpoint), layout, processes=processes_of(layout))
    for packed, alone in found:
        assert packed == pytest.approx(alone, rel=1e-6)
        assert packed == pytest.approx(loss, rel=1e-6)
    packed_gradients = gradients(tmp_path / "packed")
    assert difference(packed_gradients, gradients(tmp_path / "alone")) < 1e-6
    assert difference(packed_gradients, expected) < 1e-5


@pytest.mark.parametrize("name", ["1", "TP2xPP2"])
def test_a_tied_model_is_fine_tuned_and_compared_as_plain_pytorch_does(
    name: str, tied_checkpoint: Path, tied_theirs: Any, tmp_path: Path
) -> None:
    """Losses and whole gradients; of two single tokens the output layer's rows are read one by one."""
    layout, folder, source = LAYOUTS[name], str(tmp_path), str(tied_checkpoint)
    loss, expected = sft_of(tied_theirs)
    for packed, _ in run_in_world(packed_and_unpacked, folder, source, layout, processes=processes_of(layout)):
        assert packed == pytest.approx(loss, rel=1e-6)
    assert difference(gradients(tmp_path / "packed"), expected) < 1e-5
    cases = {case: CASES[case] for case in ("smooth, sft", "single tokens")}
    found = run_in_world(preference_steps, folder, source, layout, cases, processes=processes_of(layout))
    for case, (rules, chosen, _) in cases.items():
        loss = plain_loss(tied_theirs, rules, chosen)
        for rank in found:
            assert rank[case] == pytest.approx(loss.item(), rel=1e-5), case
        assert difference(gradients(tmp_path / case), their_gradients(tied_theirs, loss)) < 1e-5, case


def side_log_probabilities(model: Any, prompt: np.ndarray, side: np.ndarray) -> Tensor:
    ids = torch.from_numpy(np.concatenate((prompt, side)).astype(np.int64))
    log_probability_SV = model(ids[None, :-1]).logits[0].log_softmax(-1)
    return log_probability_SV.gather(1, ids[1:, None])[len(prompt) - 1 :].sum()


def plain_loss(model: Any, rules: PreferenceObjective, chosen: Sequence[PreferencePair]) -> Tensor:
    """The formulas of the papers, pair by pair, two passes each, nothing packed or shared."""
    losses = []
    for pair, (reference_chosen, reference_rejected) in zip(chosen, reference_of(len(chosen)), strict=True):
        log_chosen = side_log_probabilities(model, pair.prompt, pair.chosen)
        rejected = side_log_probabilities(model, pair.prompt, pair.rejected)
        won, lost = log_chosen - reference_chosen, rejected - reference_rejected
        if rules.loss == "ipo":
            step = won / len(pair.chosen) - lost / len(pair.rejected) - 1 / (2 * rules.beta)
            losses.append(step**2)
            continue
        probability = torch.sigmoid(rules.beta * (won - lost))
        smooth = rules.label_smoothing
        loss = -(1 - smooth) * torch.log(probability) - smooth * torch.log(1 - probability)
        losses.append(loss - rules.sft_weight * log_chosen / len(pair.chosen))
    return torch.stack(losses).mean()


@pytest.fixture(scope="module")
def expected_preferences(theirs: Any) -> dict[str, tuple[float, dict[str, np.ndarray]]]:
    found = {}
    for name, (rules, chosen, _) in CASES.items():
        loss = plain_loss(theirs, rules, chosen)
        found[name] = (loss.item(), their_gradients(theirs, loss))
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_preferences_are_what_plain_pytorch_computes(
    name: str, checkpoint: Path, expected_preferences: dict[str, Any], tmp_path: Path
) -> None:
    layout = LAYOUTS[name]
    arguments = (str(tmp_path), str(checkpoint), layout, CASES)
    for losses in run_in_world(preference_steps, *arguments, processes=processes_of(layout)):
        for case, (loss, _) in expected_preferences.items():
            assert losses[case] == pytest.approx(loss, rel=1e-5), case
    for case, (_, expected) in expected_preferences.items():
        found = gradients(tmp_path / case)
        assert difference(found, expected) < 1e-5, case


def test_two_logits_are_the_general_path(checkpoint: Path, tmp_path: Path) -> None:
    """The engine's two ways for single tokens, over the same pairs: one loss, one gradient."""
    ways = [("sigmoid", "general"), ("single tokens", "single tokens, general")]
    cases = {name: CASES[name] for way in ways for name in way}
    (losses,) = run_in_world(preference_steps, str(tmp_path), str(checkpoint), LAYOUTS["1"], cases, processes=1)
    for one, other in ways:
        assert losses[one] == pytest.approx(losses[other], rel=1e-6)
        assert difference(gradients(tmp_path / one), gradients(tmp_path / other)) < 1e-6


def test_every_pair_is_in_the_batches_once_and_where_it_says() -> None:
    chosen = pairs()
    batches = pair_batches(chosen, single_tokens=True)
    numbers = np.concatenate([batch.numbers_Q for batch in batches])
    assert sorted(numbers.tolist()) == list(range(len(chosen)))
    for batch in batches:
        for place, number in enumerate(batch.numbers_Q.tolist()):
            pair = chosen[number]
            np.testing.assert_array_equal(batch.lengths_Q2[place], [len(pair.chosen), len(pair.rejected)])
            np.testing.assert_array_equal(batch.reference_Q2[place], reference_of(len(chosen))[number])
            for side, tokens in enumerate((pair.chosen, pair.rejected)):
                graded = batch.targets_R[batch.sides_R == 2 * place + side]
                single = batch.pairs_P == place
                assert graded.tolist() == tokens.tolist() or single.sum() == 1
        segments = batch.segments_N4
        assert segments[0, 0] == 0
        assert segments[-1, 1] == batch.tokens_BS.size
        np.testing.assert_array_equal(segments[1:, 0], segments[:-1, 1])


def test_a_prompt_is_computed_once() -> None:
    """Places of a row against two passes over prompt and side; pivotal tokens of one text share it."""
    chosen = pairs()
    naive = sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in chosen)
    assert sum(map(length_of, units_of(chosen, single_tokens=True))) < 0.45 * naive
    single = single_token_pairs()
    assert sum(map(length_of, units_of(single, single_tokens=True))) == 30 + 11


def test_losses_of_a_model_that_is_its_own_reference() -> None:
    from megaphi.stages.losses import ipo_loss, loss_before_the_first_update, sigmoid_loss

    zero_Q = torch.zeros(3)
    for smooth in (0.0, 0.3):
        assert sigmoid_loss(zero_Q, beta=0.1, label_smoothing=smooth).tolist() == pytest.approx([math.log(2)] * 3)
    assert loss_before_the_first_update("sigmoid", beta=0.1) == math.log(2)
    assert ipo_loss(zero_Q, beta=0.25).tolist() == [loss_before_the_first_update("ipo", beta=0.25)] * 3 == [4.0] * 3
