"""Phi-4's post-training: fine-tuning, then two rounds of preference optimisation (paper, section 4); and reasoning.

Each run starts from the last checkpoint of the one before. Where the paper is silent the value is ours and its field
says so. `phi4_14b_sft_reasoning` makes of the result what the Phi-4-reasoning report (arXiv 2504.21318) describes.
"""

from __future__ import annotations

import dataclasses

from megaphi.data.batch import BatchShape
from megaphi.engine.guard.settings import Guard
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import Start, TrainingLength, ValidationPasses
from megaphi.engine.run_tokenizer import RunTokenizer
from megaphi.model.architecture import PHI4_14B
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.finetune import Finetune
from megaphi.stages.prefer import Prefer

MODEL = dataclasses.replace(PHI4_14B, rotary_base=250_000.0, loss_chunk_tokens=2_048)
"""Since mid-training (paper); logits of a whole row of 16,384 tokens never exist."""
LAYOUT = ParallelLayout(tensor=2, pipeline=4, sequence_parallel=True)
PAIRS_GUARD = Guard(deviations=0.0)
"""No loss of preference pairs is a spike: once most are learnt, losses of batches spread over orders of magnitude."""


def phi4_14b_sft() -> RunConfig:
    """About 8B tokens of conversations at a learning rate of 1e-6 (paper); the batch is a default."""
    return RunConfig(
        recipe="phi4_14b_sft",
        folder="runs/phi4_14b_sft",
        training=TrainingLength(epochs=1.0),
        validation=ValidationPasses(every=200),
        start=Start(initial_checkpoint="runs/phi4_14b_midtrain"),
        saving=Saving(every=500),
        layout=LAYOUT,
        model=MODEL,
        batch=BatchShape(sequence_length=16_384, global_batch=64, micro_batch=1),
        task=Finetune(paths=("data/sft",), validation_paths=("data/sft_validation",)),
        optimizer=Optimizer(learning_rate=1e-6, warmup_steps=50, weight_decay=0.1),
    )


def phi4_14b_dpo_pivotal() -> RunConfig:
    """Round 1: 250,297 pairs of pivotal tokens, hallucination and safety (paper); beta, rate and epochs are defaults.

    Single tokens are compared by two logits. Pairs of hallucination data bring their sides cut to five tokens.
    """
    return _dpo("pivotal", after="runs/phi4_14b_sft")


def phi4_14b_dpo_judged() -> RunConfig:
    """Round 2: 841,842 pairs of whole answers, preferred by a judge (paper); beta, rate and epochs are defaults."""
    return _dpo("judged", after="runs/phi4_14b_dpo_pivotal")


def phi4_14b_sft_reasoning() -> RunConfig:
    """About 16,000 steps of 32 sequences of 32,768 tokens, on answers that begin with <think>...</think>.

    From the Phi-4-reasoning report, section 3: steps, batch, length, AdamW at a rate of 1e-5, 450 steps of warm-up,
    decay 1e-4, two placeholders renamed to think tokens, the rotary base doubled. Defaults, where it is silent: the
    schedule after the warm-up, betas, epsilon, clipping, and which placeholders. Whole layers are recomputed: 24 GB a
    rank by the dry run instead of 113.
    """
    return RunConfig(
        recipe="phi4_14b_sft_reasoning",
        folder="runs/phi4_14b_sft_reasoning",
        training=TrainingLength(steps=16_000),
        validation=ValidationPasses(every=500),
        start=Start(initial_checkpoint="runs/phi4_14b_dpo_judged"),
        saving=Saving(every=500),
        layout=LAYOUT,
        recompute="full",
        model=dataclasses.replace(MODEL, rotary_base=500_000.0),
        batch=BatchShape(sequence_length=32_768, global_batch=32, micro_batch=1),
        task=Finetune(paths=("data/sft_reasoning",), validation_paths=("data/sft_reasoning_validation",)),
        tokenizer=RunTokenizer(think_tokens=("<think>", "</think>")),
        optimizer=Optimizer(learning_rate=1e-5, warmup_steps=450, weight_decay=1e-4),
    )


def _dpo(kind: str, *, after: str) -> RunConfig:
    name = f"phi4_14b_dpo_{kind}"
    return RunConfig(
        recipe=name,
        folder=f"runs/{name}",
        training=TrainingLength(epochs=1.0),
        validation=ValidationPasses(every=100),
        start=Start(initial_checkpoint=after),
        saving=Saving(every=250),
        layout=LAYOUT,
        model=MODEL,
        batch=BatchShape(sequence_length=8_192, global_batch=64, micro_batch=1),
        task=Prefer(paths=(f"data/dpo_{kind}",), validation_paths=(f"data/dpo_{kind}_validation",)),
        optimizer=Optimizer(learning_rate=5e-7, warmup_steps=20, weight_decay=0.0),
        guard=PAIRS_GUARD,
    )
