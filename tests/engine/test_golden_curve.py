"""One loss curve for every layout: 20 calm steps in fp32, followed within 1e-5.

The curve in tests/golden/tiny_pretrain.txt was written by one process in plain PyTorch, before there were kernels. The
learning rate is small, because an unstable run multiplies rounding until two correct layouts look like a bug.
Micro-batches hold unequal numbers of trained tokens, so a mean of means instead of the global mean would show at once.

    python -m tests.engine.test_golden_curve      rewrites the curve
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.data.batch import BatchShape
from megaphi.files import write_text
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, contents, tiny_run, train
from tests.gloo_world import run_in_new_world, run_in_world

CURVE = Path(__file__).parent.parent / "golden" / "tiny_pretrain.txt"
STEPS = 20
TRAINED_TOKENS = [8 * 32 - sum(number % 5 for number in range(8 * step, 8 * step + 8)) for step in range(STEPS)]
"""Tokens that count: of eight sequences of 32 in a step, number n has its first n mod 5 masked (`layout_runs.py`)."""

LAYOUTS = {
    "one process": {},
    "tensor 2": {"tensor": 2},
    "tensor 2, sequence parallel": {"tensor": 2, "sequence_parallel": True},
    "pipeline 2": {"pipeline": 2},
    "pipeline 2, virtual 2": {"pipeline": 2, "virtual_pipeline": 2},
    "pipeline 4": {"pipeline": 4},
    "pipeline 2, 3 and 1 layers": {"pipeline": 2, "stage_layers": (3, 1)},
    "tensor 2 x pipeline 2, 1 and 3 layers": {"tensor": 2, "pipeline": 2, "stage_layers": (1, 3)},
    "data 2": {"data": 2},
    "context 2": {"context": 2},
    "tensor 2 x pipeline 2": {"tensor": 2, "pipeline": 2, "sequence_parallel": True},
    "tensor 2 x context 2": {"tensor": 2, "context": 2, "sequence_parallel": True},
    "tensor 2 x data 2": {"tensor": 2, "data": 2},
    "pipeline 2 x data 2, virtual 2": {"pipeline": 2, "data": 2, "virtual_pipeline": 2},
}


def curve_of(layout: ParallelLayout, *, steps: int = STEPS, **fields: Any) -> list[dict[str, list[float]]]:
    """Curve that every rank saw."""
    ranks = layout.model_ranks * (layout.data or 1)
    return run_in_world(partial(train, tiny_run(layout=layout, **fields), steps=steps), processes=ranks)


def assert_golden(results: list[dict[str, list[float]]], *, steps: int = STEPS) -> None:
    golden = np.loadtxt(CURVE)[:steps]
    for result in results:
        found = np.stack((result["losses"], result["norms"]), axis=1)
        np.testing.assert_allclose(found, golden, rtol=0, atol=1e-5)
        assert result["tokens"] == TRAINED_TOKENS[:steps]


def follows_its_beginning(name: str, **fields: Any) -> None:
    """Half of the curve, for other ways to compute the same gradients: a wrong one shows in the first step's norm."""
    assert_golden(curve_of(ParallelLayout(**LAYOUTS[name]), steps=STEPS // 2, **fields), steps=STEPS // 2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_follows_the_golden_curve(name: str) -> None:
    assert_golden(curve_of(ParallelLayout(**LAYOUTS[name])))


SIX = dataclasses.replace(TINY, layers=6)
SIX_LAYERS = {
    "pipeline 2, virtual 3": {"pipeline": 2, "virtual_pipeline": 3},
    "pipeline 3, virtual 2": {"pipeline": 3, "virtual_pipeline": 2},
    "pipeline 2, virtual 2 of 1, 2, 2, 1 layers": {"pipeline": 2, "virtual_pipeline": 2, "stage_layers": (1, 2, 2, 1)},
}


@pytest.mark.parametrize("name", SIX_LAYERS)
def test_groups_of_micro_batches_of_any_size_follow_one_process(name: str) -> None:
    """Seven micro-batches, of which neither two nor three stages make equal groups: four, and three."""
    fields = {"model": SIX, "batch": BatchShape(sequence_length=32, global_batch=7, micro_batch=1)}
    layout = ParallelLayout(**SIX_LAYERS[name])
    assert layout.micro_batch_group(7) == 4
    (alone,) = curve_of(ParallelLayout(), steps=STEPS // 2, **fields)
    for result in curve_of(layout, steps=STEPS // 2, **fields):
        for measured in ("losses", "norms"):
            np.testing.assert_allclose(result[measured], alone[measured], rtol=0, atol=1e-5)


def test_two_and_three_virtual_stages_save_and_export_the_same_bits(tmp_path: Path) -> None:
    """Weights and moments of two steps in one process, loaded in every layout and saved again."""
    (trained,) = run_in_world(
        partial(train, tiny_run(model=SIX, folder=str(tmp_path)), steps=2, save=True), processes=1
    )
    exported = to_huggingface(trained["checkpoint"], tmp_path / "expected")
    for name, fields in SIX_LAYERS.items():
        run = tiny_run(model=SIX, layout=ParallelLayout(**fields), folder=str(tmp_path / name))
        again = partial(train, run, steps=0, load=trained["checkpoint"], save=True)
        saved = run_in_world(again, processes=run.layout.pipeline)[0]["checkpoint"]
        assert contents(saved) == contents(trained["checkpoint"]), name
        out = to_huggingface(saved, tmp_path / f"{name}, exported")
        for file in exported.iterdir():
            assert (out / file.name).read_bytes() == file.read_bytes(), (name, file.name)


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("name", ["one process", "tensor 2 x pipeline 2", "pipeline 2, 3 and 1 layers"])
def test_recomputing_activations_changes_nothing(name: str, recompute: str) -> None:
    follows_its_beginning(name, recompute=recompute)


@pytest.mark.parametrize(
    ("name", "computed_by"),
    [
        ("one process", {"kernels": "reference"}),
        ("tensor 2 x pipeline 2", {"kernels": "reference"}),
        ("context 2", {"kernels": "reference"}),
        ("one process", {"attention": "softmax"}),
        ("context 2", {"attention": "softmax"}),
        ("one process", {"attention": "softmax", "kernels": "reference"}),
        ("one process", {"loss_chunk_tokens": 5}),
        ("tensor 2", {"loss_chunk_tokens": 32}),
        ("pipeline 2", {"loss_chunk_tokens": 10}),
        ("data 2", {"loss_chunk_tokens": 24}),
    ],
    ids=str,
)
def test_whatever_computes_the_model_follows_the_golden_curve(name: str, computed_by: dict[str, Any]) -> None:
    """Megatron's own layers in plain PyTorch, attention by its definition, the loss in chunks."""
    follows_its_beginning(name, model=dataclasses.replace(TINY, **computed_by))


@pytest.mark.parametrize(
    ("name", "chunk"),
    [("data 2", 0), ("data 2", 24), ("tensor 2 x data 2", 24), ("pipeline 2 x data 2, virtual 2", 0)],
)
def test_a_bucket_for_every_parameter_changes_nothing(name: str, chunk: int) -> None:
    """Each gradient reduced and each weight gathered by itself, while the model computes."""
    model = dataclasses.replace(TINY, loss_chunk_tokens=chunk)
    follows_its_beginning(name, model=model, bucket_parameters=1)


@pytest.mark.parametrize("name", ["tensor 2 x context 2", "pipeline 2 x data 2, virtual 2"])
def test_gloo_follows_the_golden_curve(name: str) -> None:
    """Collectives of users' ranks on a CPU; the ranks above share memory."""
    run = tiny_run(layout=ParallelLayout(**LAYOUTS[name]), bucket_parameters=1)
    assert_golden(run_in_new_world(partial(train, run, steps=STEPS // 2), processes=4), steps=STEPS // 2)


def test_one_sequence_at_a_time_follows_the_golden_curve_which_goes_down() -> None:
    """As the engine computes it, whatever the file says: one that a broken engine has rewritten would be followed."""
    (result,) = curve_of(ParallelLayout(), batch=BatchShape(sequence_length=32, global_batch=8, micro_batch=1))
    assert_golden([result])
    losses = result["losses"]
    assert losses[0] == pytest.approx(np.log(256), abs=0.1)  # untrained: as good as guessing among 256 tokens
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


if __name__ == "__main__":
    (result,) = curve_of(ParallelLayout())
    rows = zip(result["losses"], result["norms"], strict=True)
    write_text(CURVE, "# loss, gradient norm\n" + "".join(f"{loss:.9f} {norm:.9f}\n" for loss, norm in rows))
