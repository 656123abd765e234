"""The size dial: from a number of parameters to the shape of a model, and to the length and the batch of its run.

Sizes count the parameters of the layers; embeddings are left out, as they hardly compute. Shapes are Phi-4's: heads of
up to 128, four query heads to a key-value group, a feed-forward of 3.5 widths. Depth follows width by a power law from
2 layers of 64 to Phi-4's 40 layers of 5,120, which passes near the shapes of Pythia and OLMo 2; a constant ratio would
leave small models less than one layer. The surprising fact: a size becomes the nearest shape that kernels and pipeline
stages like, so ask the shape, not the dial, how many parameters there are.

    tokens = tokens per parameter x parameters          batch ~ tokens^0.5          learning rate ~ parameters^-0.25
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from megaphi.engine.run_config import RunConfig
from megaphi.errors import InputError
from megaphi.model.architecture import PHI4_14B, Architecture

LARGEST_HIDDEN = 16_384
SMALLEST = (2, 64)
"""Layers and width at which the depth rule begins; narrower models have two layers, too."""
DEPTH_POWER = math.log(PHI4_14B.layers / SMALLEST[0]) / math.log(PHI4_14B.hidden / SMALLEST[1])
DEPTH_RANGE = 4 / 3
"""Factor by which a shape's depth may differ from the rule, to have shapes between two widths."""
CLOSEST = 1.06
"""Factor within which only one of two sizes stays: the shape that is nearer to the depth rule."""
BATCH_POWER, RATE_POWER = 0.5, -0.25
"""Powers of tokens and parameters. DeepSeek LLM (arXiv 2401.02954) fits the rate as compute^-0.125, which is
parameters^-0.25 where tokens grow with parameters. The ladder only begins there: it fits the rate itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A model of the ladder, with its length and batch."""

    model: Architecture
    parameters: int
    """Parameters of the layers."""
    steps: int
    warmup_steps: int
    global_batch: int
    """Sequences of a step."""
    micro_batch: int
    tokens: int
    """Read in all."""
    usual_rate: float
    """Learning rate by the rule; the sweep is around it."""


def sized(size: float, like: Architecture = PHI4_14B) -> Architecture:
    """The shape nearest to `size` parameters in its layers; everything but the shape is that of `like`.

    Raises:
        InputError: there is no shape so small or so large.
    """
    family = _family()
    if not family[0][0] / 2 <= size <= family[-1][0] * 1.2:
        raise InputError(f"size {size:,.0f}: the ladder has models of {family[0][0]:,} to {family[-1][0]:,} parameters")
    _, layers, hidden = min(family, key=lambda shape: abs(math.log(shape[0] / size)))
    head_size = _head_size(hidden)
    heads = hidden // head_size
    return replace(
        like,
        layers=layers,
        hidden=hidden,
        feed_forward=hidden * 7 // 2,
        heads=heads,
        key_value_groups=heads // 4,
        head_size=head_size,
    )


def layer_parameters(model: Architecture) -> int:
    """Parameters without those of the embedding and the output layer."""
    return model.parameters - (1 if model.tied_embeddings else 2) * model.vocabulary * model.hidden


def rung_of(size: float, base: RunConfig, *, tokens_per_parameter: float, replicas: int = 1) -> Rung:
    """The model of a size, and its run by the rules, which go through `base`.

    Args:
        base: the recipe: its batch and warm-up belong to its tokens, its learning rate to its parameters.
        replicas: data-parallel replicas, which share every batch.

    Raises:
        InputError: the run would be too short to have a warm-up.
    """
    model = sized(size, base.model)
    parameters = layer_parameters(model)
    tokens = tokens_per_parameter * parameters
    length = base.batch.sequence_length
    more = tokens / (base.training.steps * base.batch.tokens_per_step)
    unit = math.lcm(4, replicas)
    global_batch = max(unit, unit * round(base.batch.global_batch * more**BATCH_POWER / unit))
    steps = round(tokens / (global_batch * length))
    if steps < 10:
        raise InputError(
            f"size {parameters:,}: {tokens:,.0f} tokens are {steps} steps of {global_batch} x {length}, too few: give"
            " more --tokens-per-parameter, or a smaller batch.global_batch or batch.sequence_length"
        )
    share = global_batch // replicas
    return Rung(
        model=model,
        parameters=parameters,
        steps=steps,
        warmup_steps=max(1, round(steps * base.optimizer.warmup_steps / base.training.steps)),
        global_batch=global_batch,
        micro_batch=max(size for size in range(1, base.batch.micro_batch + 1) if share % size == 0),
        tokens=steps * global_batch * length,
        usual_rate=base.optimizer.learning_rate * (parameters / layer_parameters(base.model)) ** RATE_POWER,
    )


def usual_depth(hidden: int) -> float:
    """Layers that the rule gives a width, not rounded."""
    return SMALLEST[0] * (max(hidden, SMALLEST[1]) / SMALLEST[1]) ** DEPTH_POWER


def _head_size(hidden: int) -> int:
    """Heads as wide as kernels like them, as far as there can be four to a group."""
    return next((size for least, size in ((2_048, 128), (512, 64), (256, 32), (128, 16)) if hidden >= least), 8)


@cache
def _family() -> list[tuple[int, int, int]]:
    """(parameters, layers, width) of every shape, by size."""
    kept: list[tuple[int, int, int]] = []
    for shape in sorted(_shapes(), key=lambda shape: abs(math.log(shape[1] / usual_depth(shape[2])))):
        if all(max(shape[0] / other[0], other[0] / shape[0]) >= CLOSEST for other in kept):
            kept.append(shape)
    return sorted(kept)


def _shapes() -> Iterator[tuple[int, int, int]]:
    hidden = 32
    while hidden <= LARGEST_HIDDEN:
        usual = usual_depth(hidden)
        for layers in range(2, math.floor(usual * DEPTH_RANGE) + 1):
            multiple = 1 if layers < 8 else 2 if layers < 24 else 4  # equal pipeline stages
            if layers >= usual / DEPTH_RANGE and layers % multiple == 0:
                yield layers * (13 * hidden**2 + 2 * hidden) + hidden, layers, hidden
        hidden += 4 * _head_size(hidden)
