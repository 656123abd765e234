"""Phi-4 as published: 14,659,507,200 parameters, 10T tokens, the five-source mixture of the technical report.

Numbers marked (paper) are from the report (arXiv 2412.08905, section 3), (card) from the released model; the others
are defaults where both are silent, and documented at their fields. The layout is ours, chosen with `--dry-run` and
benchmarks/mfu.py --model, *not yet run on a GPU*: four stages of five chunks of layers, no tensor ranks.
"""

from __future__ import annotations

from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import TrainingLength, ValidationPasses
from megaphi.model.architecture import PHI4_14B
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.pretrain import Pretrain

PRETRAINING_LAYOUT = ParallelLayout(pipeline=4, virtual_pipeline=5, stage_layers=(*(2,) * 16, 3, 2, 2, 1))
"""Layout for 80 GB devices, 16 or more, at 4,096 tokens without recomputation.

Planned on 512 ranks: 63 GB on the first stage, 52, 50 and 49 GB on the others. Without tensor ranks nothing is
exchanged within a layer. The output matrix costs as much as 1.42 layers: the last chunk has one layer fewer, and the
first stage's last chunk has it instead. Stages then compute in 93.9 % of the time (model, without communication),
89.6 % with equal chunks, 89.1 % as 11/10/10/9 layers without virtual stages. On fewer ranks more of the optimizer
lies on each: 108, 83 and 70 GB on 4, 8 and 16.
"""
LONG_CONTEXT = 16_384
"""Tokens of a sequence in mid-training (paper), and of the blocks that pretraining shuffles to be continued there."""


def phi4_14b_pretrain() -> RunConfig:
    """Pretraining: 424,000 steps of 5,760 sequences of 4,096 tokens (paper: about 10T tokens)."""
    return RunConfig(
        recipe="phi4_14b_pretrain",
        folder="runs/phi4_14b",
        training=TrainingLength(steps=424_000),
        validation=ValidationPasses(every=1_000),
        layout=PRETRAINING_LAYOUT,
        model=PHI4_14B,
        batch=BatchShape(sequence_length=4_096, global_batch=5_760, micro_batch=1),
        task=Pretrain(mixture=Mixture(sources=phi4_sources(), block_tokens=LONG_CONTEXT)),
        optimizer=Optimizer(learning_rate=3e-4, weight_decay=0.1, warmup_steps=2_000),
    )


def phi4_sources(folder: str = "data") -> tuple[Source, ...]:
    """The final mixture and the unique tokens of each source (paper, table 5)."""
    shares = {
        "web": (0.15, 1_300_000_000_000),
        "rewrites": (0.15, 290_000_000_000),
        "synthetic": (0.40, 290_000_000_000),
        "code": (0.20, 820_000_000_000),
        "acquired": (0.10, 580_000_000_000),
    }
    return tuple(
        Source(
            name=name,
            weight=weight,
            paths=(f"{folder}/{name}",),
            validation_paths=(f"{folder}/{name}_validation",),
            unique_tokens=tokens,
        )
        for name, (weight, tokens) in shares.items()
    )
