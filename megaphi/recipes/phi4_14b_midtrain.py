"""Phi-4's mid-training: 4,096 to 16,384 tokens, 250B of them, 30 % long documents, 70 % recall (paper, section 3.3).

It starts from the last checkpoint of pretraining, and its recall goes on in the sources of pretraining where that
stopped: pretraining shuffles blocks of 16,384 tokens for it. Long data are academic texts, books and code of more than
8K tokens, each window of one document from its start on, and synthetic data of more than 4K; documents of 16K and more
have sources of their own, so that they can have a larger share (paper). How large is not published.
"""

from __future__ import annotations

from dataclasses import replace

from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import Start, TrainingLength, ValidationPasses
from megaphi.model.architecture import PHI4_14B
from megaphi.parallel.layout import ParallelLayout
from megaphi.recipes.phi4_14b import LONG_CONTEXT, phi4_sources
from megaphi.stages.pretrain import Pretrain

MIDTRAINING_TOKENS = 250_000_000_000
GLOBAL_BATCH = 1_408
"""Sequences: a step's tokens are 2 % below those of pretraining, and 64 replicas (512 ranks) divide it (default)."""
RECALL = 0.7
LONG_SHARES = (
    ("long_acquired", "acquired", 8_192, 0.06),
    ("longest_acquired", "acquired", 16_384, 0.10),
    ("long_code", "code", 8_192, 0.03),
    ("longest_code", "code", 16_384, 0.05),
    ("long_synthetic", "long_synthetic", 4_096, 0.06),
)
"""(name, data set, tokens of the shortest document, share). Shares are defaults; their sum of 0.3 is the paper's."""


def phi4_14b_midtrain() -> RunConfig:
    """10,838 steps of 1,408 sequences of 16,384 tokens at a peak of 3e-5, a tenth of pretraining's (paper)."""
    tokens_per_step = GLOBAL_BATCH * LONG_CONTEXT
    return RunConfig(
        recipe="phi4_14b_midtrain",
        folder="runs/phi4_14b_midtrain",
        training=TrainingLength(steps=-(-MIDTRAINING_TOKENS // tokens_per_step)),
        validation=ValidationPasses(every=500),
        start=Start(initial_checkpoint="runs/phi4_14b", continue_sources=True),
        layout=ParallelLayout(tensor=2, pipeline=4, stage_layers=(11, 10, 10, 9), sequence_parallel=True),
        model=replace(PHI4_14B, rotary_base=250_000.0, loss_chunk_tokens=2_048),
        batch=BatchShape(sequence_length=LONG_CONTEXT, global_batch=GLOBAL_BATCH, micro_batch=1),
        task=Pretrain(mixture=Mixture(sources=(*recall_sources(), *long_sources()))),
        optimizer=Optimizer(learning_rate=3e-5, weight_decay=0.1, warmup_steps=100),
    )


def recall_sources() -> tuple[Source, ...]:
    """The sources of pretraining in its proportions: 70 % of the samples (paper)."""
    return tuple(replace(source, weight=round(source.weight * RECALL, 4)) for source in phi4_sources())


def long_sources(folder: str = "data") -> tuple[Source, ...]:
    """Long documents, those of 16K and more apart: 30 % of the samples (paper)."""
    return tuple(
        Source(
            name=name,
            weight=share,
            paths=(f"{folder}/{data}",),
            windows="documents",
            shortest_document=shortest,
            longest_document=LONG_CONTEXT - 1 if shortest == 8_192 else None,
        )
        for name, data, shortest, share in LONG_SHARES
    )
