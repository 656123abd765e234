"""Ranks of the tests of fine-tuning and preferences: one step each, and what it did to every weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megaphi.data.batch import BatchShape
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.pair_rows import PairBatch, length_of, pair_batch, units_of
from megaphi.data.packed.preference_pairs import PreferencePair
from megaphi.data.packed.rows import conversation_batch
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import RunConfig
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.preference import PreferenceObjective
from megaphi.tokenizer.interface import RenderedConversation
from tests.engine.layout_runs import tiny_run

if TYPE_CHECKING:
    from megaphi.engine.training.train_step import StepResult

SHAPE = Architecture(
    layers=4, hidden=48, feed_forward=80, heads=6, key_value_groups=2, head_size=8, vocabulary=363
)  # an odd vocabulary: two tensor ranks need padding
LAYOUTS = {
    "1": ParallelLayout(),
    "TP2+SP": ParallelLayout(tensor=2, sequence_parallel=True),
    "PP2": ParallelLayout(pipeline=2),
    "PP4": ParallelLayout(pipeline=4),
    "DP2": ParallelLayout(data=2),
    "TP2xPP2": ParallelLayout(tensor=2, pipeline=2),
    "CP2": ParallelLayout(context=2),
    "TP2xCP2": ParallelLayout(tensor=2, context=2, sequence_parallel=True),
}
SEQUENCE = 48


def processes_of(layout: ParallelLayout) -> int:
    return layout.model_ranks * (layout.data or 1)


def conversations(count: int = 22) -> list[RenderedConversation]:
    """Random tokens and flags of many lengths."""
    generator = np.random.default_rng(4)
    samples = []
    for length in generator.integers(3, SEQUENCE - 5, size=count).tolist():
        trained = generator.random(length) < 0.5
        trained[0], trained[-1] = False, True
        samples.append(
            RenderedConversation(generator.integers(SHAPE.vocabulary, size=length).astype(np.int32), trained)
        )
    return samples


def a_step(folder: str, checkpoint: str, layout: ParallelLayout, batches: Sequence[Any], objective: Any) -> float:
    """The loss of `a_whole_step`."""
    return a_whole_step(folder, checkpoint, layout, batches, objective).loss


def a_whole_step(
    folder: str, checkpoint: str, layout: ParallelLayout, batches: Sequence[Any], objective: Any, **fields: Any
) -> StepResult:
    """One update from `checkpoint`'s weights on these micro-batches, shared by the replicas; saved in `folder`.

    Nothing is clipped, so that the first moment is a tenth of the gradient.

    `fields`: of the model, and the run's `recompute`.
    """
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.saving.saver import save_checkpoint
    from megaphi.engine.saving.shards import load_weights
    from megaphi.engine.training.train_step import NEXT_TOKEN, train_step
    from tests.engine.layout_runs import build

    reader = open_weights(checkpoint)
    recompute = fields.pop("recompute", "none")
    model = build(replace(step_run(folder, layout, replace(reader.architecture, **fields)), recompute=recompute))
    load_weights(model, reader)
    world = model.world
    own = list(batches)[world.replica :: world.replicas]
    result = train_step(model, own, learning_rate=1e-9, objective=objective or NEXT_TOKEN)
    save_checkpoint(model, {"step": 1})
    return result


def step_run(folder: str, layout: ParallelLayout, model: Architecture = SHAPE) -> RunConfig:
    return tiny_run(
        folder=folder,
        layout=layout,
        model=model,
        batch=BatchShape(sequence_length=SEQUENCE, global_batch=8, micro_batch=1),
        optimizer=Optimizer(learning_rate=1e-9, warmup_steps=0, clip_gradient_norm=0.0, weight_decay=0.0),
        saving=Saving(asynchronous=False, verify=False),
    )


def gradients(folder: Path | str) -> dict[str, np.ndarray]:
    """Whole gradients by name, from the first moments of the only checkpoint."""
    from megaphi.checkpoint.format import CheckpointReader

    reader = CheckpointReader(Path(folder) / "checkpoints" / "step_00000001")
    prefix = "optimizer/exp_avg/"
    return {
        key.removeprefix(prefix): reader.whole(key).double().numpy() * 10
        for key in reader.tensors
        if key.startswith(prefix)
    }


def difference(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> float:
    """The largest over the weights of |left - right| / |right|, norms."""
    assert left.keys() == right.keys()
    return max(
        float(np.linalg.norm(left[name] - right[name].reshape(left[name].shape)) / np.linalg.norm(right[name]))
        for name in right
    )


def packed_and_unpacked(folder: str, checkpoint: str, layout: ParallelLayout) -> tuple[float, float]:
    """Losses of the same conversations, several to a row and each in a row of its own."""
    samples = conversations()
    make = conversation_batch(samples, capacity=SEQUENCE, padding_token=0)
    rows = PackedEpochs([len(sample.ids) for sample in samples], capacity=SEQUENCE, seed=1)
    assert rows.rows_per_epoch < 0.7 * len(samples)
    even = rows.rows_per_epoch + rows.rows_per_epoch % 2
    packed = [
        make([rows.row(number) if number < rows.rows_per_epoch else []], np.array([number])) for number in range(even)
    ]
    alone = [make([[number]], np.array([number])) for number in range(len(samples))]
    loss = a_step(f"{folder}/packed", checkpoint, layout, packed, None)
    return loss, a_step(f"{folder}/alone", checkpoint, layout, alone, None)


def pairs() -> list[PreferencePair]:
    """Sides of many lengths, some with a beginning in common, some that begin the other, single tokens of one text."""
    generator = np.random.default_rng(8)

    def tokens(count: int) -> np.ndarray:
        return generator.integers(SHAPE.vocabulary, size=count).astype(np.int32)

    found = []
    for prompt, shared, chosen, rejected in ((9, 0, 5, 7), (3, 4, 1, 6), (12, 2, 8, 1), (1, 0, 1, 2), (20, 6, 3, 3)):
        beginning = tokens(shared)
        sides = [np.concatenate((beginning, tokens(count))) for count in (chosen, rejected)]
        found.append(PreferencePair(prompt=tokens(prompt), chosen=sides[0], rejected=sides[1]))
    whole = found[0].chosen
    found.append(PreferencePair(prompt=tokens(6), chosen=whole, rejected=whole[:3]))
    return [*found, *single_token_pairs()]


def single_token_pairs() -> list[PreferencePair]:
    generator = np.random.default_rng(9)
    text = generator.integers(SHAPE.vocabulary, size=30).astype(np.int32)
    other = generator.integers(SHAPE.vocabulary, size=11).astype(np.int32)
    prompts = [text, text[:4], text[:17], other, text[:4]]
    sides = generator.choice(SHAPE.vocabulary, size=(len(prompts), 2), replace=False).astype(np.int32)
    return [
        PreferencePair(prompt=prompt, chosen=side[:1], rejected=side[1:])
        for prompt, side in zip(prompts, sides, strict=True)
    ]


def reference_of(count: int) -> np.ndarray:
    """Log-probabilities that are not the model's, so that there is something to learn."""
    return -np.random.default_rng(10).random((count, 2)) * 30


def pair_batches(chosen: Sequence[PreferencePair], *, single_tokens: bool) -> list[PairBatch]:
    """Packed rows of all pairs, an even number of them."""
    units = units_of(chosen, single_tokens=single_tokens)
    make = pair_batch(units, reference_of(len(chosen)), capacity=SEQUENCE, padding_token=0)
    rows = PackedEpochs([length_of(unit) for unit in units], capacity=SEQUENCE, seed=2)
    even = rows.rows_per_epoch + rows.rows_per_epoch % 2
    return [  # pyright: ignore[reportReturnType]
        make([rows.row(number) if number < rows.rows_per_epoch else []], np.array([number])) for number in range(even)
    ]


def preference_steps(folder: str, checkpoint: str, layout: ParallelLayout, cases: dict[str, Any]) -> dict[str, float]:
    """The loss of every case: (preferences, pairs, whether single tokens take two logits)."""
    return {
        name: a_step(
            f"{folder}/{name}",
            checkpoint,
            layout,
            pair_batches(chosen, single_tokens=single_tokens),
            rules,
        )
        for name, (rules, chosen, single_tokens) in cases.items()
    }


SIGMOID = PreferenceObjective()
CASES = {
    "sigmoid": (SIGMOID, pairs(), True),
    "general": (SIGMOID, pairs(), False),
    "ipo": (replace(SIGMOID, loss="ipo", beta=0.3), pairs(), True),
    "smooth, sft": (replace(SIGMOID, label_smoothing=0.2, sft_weight=0.7), pairs(), False),
    "single tokens": (SIGMOID, single_token_pairs(), True),
    "single tokens, general": (SIGMOID, single_token_pairs(), False),
}
