"""A Phi-4 small enough for two CPU cores: the same blocks, the same mixture, the same engine, minutes instead of weeks.

Grouped-query attention, SwiGLU, RMSNorm, rotary positions and untied embeddings as in the 14B model; a vocabulary of
4,096 cut from cl100k's first ranks. Tensor parallel 2 with sequence parallelism, in fp32. Mid-training, fine-tuning
and preference optimisation go on from it: `make story`.
"""

from __future__ import annotations

import dataclasses

from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.run_sections import Start, TrainingLength, ValidationPasses
from megaphi.engine.task import TrainingTask
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.recipes.phi4_14b import phi4_sources
from megaphi.recipes.phi4_14b_post_training import PAIRS_GUARD
from megaphi.stages.finetune import Finetune
from megaphi.stages.prefer import Prefer
from megaphi.stages.pretrain import Pretrain

QUICKSTART_MODEL = Architecture(
    layers=4,
    hidden=192,
    feed_forward=512,
    heads=6,
    key_value_groups=2,
    head_size=32,
    vocabulary=4_096,
)
LONG_CONTEXT = 2_048
"""Tokens of a sequence in mid-training, eight times those of pretraining."""


def quickstart_pretrain() -> RunConfig:
    """240 steps of 16 sequences of 256 tokens on the corpus that ships with the repository."""
    sources = tuple(dataclasses.replace(source, unique_tokens=None) for source in phi4_sources("runs/quickstart/data"))
    return RunConfig(
        recipe="quickstart_pretrain",
        folder="runs/quickstart/run",
        training=TrainingLength(steps=240),
        validation=ValidationPasses(every=40, samples=64),
        saving=Saving(every=120),
        layout=ParallelLayout(tensor=2, sequence_parallel=True),
        model=QUICKSTART_MODEL,
        batch=BatchShape(sequence_length=256, global_batch=16, micro_batch=16),
        task=Pretrain(mixture=Mixture(sources=sources)),
        optimizer=Optimizer(learning_rate=2e-3, warmup_steps=24),
        precision=NumericPrecision(parameters="float32"),
    )


def quickstart_midtrain() -> RunConfig:
    """16 steps of 4 sequences of 2,048 tokens: 30 % whole long documents, 70 % of pretraining's sources.

    Pretraining shuffled blocks of 256 tokens, of which no sample of 2,048 can be cut: every source begins a second
    epoch, though only about a third of the first was read (`task.mixture.block_tokens` avoids that, see
    docs/midtraining.md). The learning rate is 0.3 of pretraining's peak, as there are few steps.
    """
    before = quickstart_pretrain()
    sources = {source.name: source for source in phi4_sources("runs/quickstart/data")}
    recall = [
        dataclasses.replace(one, weight=round(one.weight * 0.7, 3), unique_tokens=None) for one in sources.values()
    ]
    long = [
        Source(
            name=f"long_{name}",
            weight=weight,
            paths=sources[name].paths,
            windows="documents",
            shortest_document=LONG_CONTEXT,
        )
        for name, weight in (("code", 0.2), ("acquired", 0.1))
    ]
    return dataclasses.replace(
        before,
        recipe="quickstart_midtrain",
        folder="runs/story/midtrain",
        training=TrainingLength(steps=16),
        validation=ValidationPasses(every=16, samples=8),
        start=Start(initial_checkpoint=before.folder, continue_sources=True),
        saving=Saving(every=16),
        model=dataclasses.replace(QUICKSTART_MODEL, rotary_base=250_000.0),
        batch=BatchShape(sequence_length=LONG_CONTEXT, global_batch=4, micro_batch=2),
        task=Pretrain(mixture=Mixture(sources=(*recall, *long))),
        optimizer=Optimizer(learning_rate=6e-4, warmup_steps=2),
    )


def quickstart_sft() -> RunConfig:
    """A third of an epoch of questions and answers about the corpus, on two pipeline stages."""
    return dataclasses.replace(
        _after(
            "quickstart_sft",
            "runs/quickstart/run",
            Finetune(
                paths=("runs/story/conversations.jsonl",), validation_paths=("runs/story/conversations_held_out.jsonl",)
            ),
            epochs=0.3,
        ),
        layout=ParallelLayout(pipeline=2),
        optimizer=Optimizer(learning_rate=1e-3, warmup_steps=10),
    )


def quickstart_dpo() -> RunConfig:
    """One epoch of solutions that are right over the model's own that are not."""
    return dataclasses.replace(
        _after(
            "quickstart_dpo",
            "runs/story/sft",
            Prefer(
                paths=("runs/story/pairs.jsonl",),
                validation_paths=("runs/story/pairs_held_out.jsonl",),
                sft_weight=0.2,  # so small a model soon says nothing sensible if only differences count
            ),
            epochs=1.0,
        ),
        optimizer=Optimizer(learning_rate=5e-5, warmup_steps=5, weight_decay=0.0),
        guard=PAIRS_GUARD,
    )


def quickstart_sums() -> RunConfig:
    """Three epochs of short sums, worked out step by step: enough to get a part of them right (0.44 of 799 samples)."""
    return dataclasses.replace(
        _after("quickstart_sums", "runs/story/sft", Finetune(paths=("runs/story/sums.jsonl",)), epochs=3.0),
        optimizer=Optimizer(learning_rate=1e-3, warmup_steps=10),
    )


def quickstart_dpo_pivotal() -> RunConfig:
    """Pairs of single tokens that decide whether a sum comes out right, as pivotal token search found them."""
    return dataclasses.replace(
        _after(
            "quickstart_dpo_pivotal",
            "runs/story/sums",
            Prefer(paths=("runs/story/pivotal/pairs.jsonl",), beta=0.3),
            epochs=4.0,
        ),
        batch=BatchShape(sequence_length=256, global_batch=2, micro_batch=2),  # all pairs fit into a few rows
        optimizer=Optimizer(
            learning_rate=1e-5, warmup_steps=2, weight_decay=0.0
        ),  # larger ones lose more than they win
        guard=PAIRS_GUARD,
    )


def _after(name: str, start: str, task: TrainingTask, *, epochs: float) -> RunConfig:
    """The part that both have in common."""
    return RunConfig(
        recipe=name,
        folder=f"runs/story/{name.removeprefix('quickstart_')}",
        training=TrainingLength(epochs=epochs),
        validation=ValidationPasses(every=50),
        start=Start(initial_checkpoint=start),
        saving=Saving(every=100),
        model=QUICKSTART_MODEL,
        batch=BatchShape(sequence_length=256, global_batch=16, micro_batch=4),
        task=task,
        precision=NumericPrecision(parameters="float32"),
    )
