"""The small twin of a recipe: the same features at a toy size, and the layouts that its ranks can try.

Kept are the variant, tied embeddings, the ratio of query heads to key-value groups, groups that tensor ranks must copy,
a vocabulary that they must pad, kernels, attention and its backend, a loss in chunks, the precision, recomputation,
overlap and its buckets, isolated documents and their positions, uneven and interleaved stages, clipping, the user's
objective. Not kept are sizes, data, and the schedule: the rate is constant and calm, as an unstable run multiplies
rounding until two right layouts look like a defect. All of it is a pure function of the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Literal

from megaphi.config import override
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.run_config import NumericPrecision, RunConfig, check
from megaphi.engine.run_sections import TrainingLength
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.pretrain import Pretrain

HEAD_SIZE, SEQUENCE, VOCABULARY = 16, 64, 256
LEARNING_RATE = 1e-3
MOST_LAYOUTS = 16
"""Layouts that are tried without being asked for; of more than these the simplest."""
BUCKET_PARAMETERS = 50_000
"""So that the twin has several buckets, as the recipe has."""
Parameters = Literal["float32", "bfloat16"]


def twin_of(run: RunConfig, *, world_size: int, steps: int, parameters: Parameters | None = None) -> RunConfig:
    """The twin in one process; `for_layout` gives it another.

    Args:
        world_size: ranks that will share it, all as replicas at most.
        parameters: number format; None: the recipe's.
    """
    micro_batch = min(run.batch.micro_batch, 2)
    precision = run.precision if parameters is None else NumericPrecision(parameters=parameters)
    return RunConfig(
        recipe=f"twin of {run.recipe}",
        seed=run.seed,
        folder="unused",
        training=TrainingLength(steps=steps),
        layout=ParallelLayout(),
        model=_model(run),
        batch=BatchShape(
            sequence_length=SEQUENCE, global_batch=micro_batch * math.lcm(4, world_size), micro_batch=micro_batch
        ),
        task=_task(run),
        optimizer=replace(
            run.optimizer, learning_rate=LEARNING_RATE, warmup_steps=0, schedule="constant", decay_steps=0
        ),
        precision=precision,
        recompute=run.recompute,
        overlap_communication=run.overlap_communication,
        bucket_parameters=BUCKET_PARAMETERS,
        deterministic=run.deterministic,
        patience=run.patience,
    )


def for_layout(twin: RunConfig, layout: ParallelLayout, *, world_size: int) -> RunConfig:
    """The twin under a layout. Raises InputError if it cannot be."""
    return check(replace(twin, layout=layout), world_size=world_size)


def shrunk(layout: ParallelLayout) -> ParallelLayout:
    """The recipe's layout with at most two ranks and two chunks in every dimension; uneven stages stay uneven."""
    two = replace(
        layout,
        tensor=min(layout.tensor, 2),
        pipeline=min(layout.pipeline, 2),
        virtual_pipeline=min(layout.virtual_pipeline, 2),
        context=min(layout.context, 2),
        data=None,
        stage_layers=(),
    )
    return replace(two, stage_layers=_uneven(two.pipeline * two.virtual_pipeline)) if _is_uneven(layout) else two


def default_layouts(run: RunConfig, twin: RunConfig, *, world_size: int) -> tuple[list[ParallelLayout], list[str]]:
    """(layouts to try, those that are left out with the reason).

    The recipe's own comes first, then those of one kind of parallelism, then the mixed ones.
    """
    own = shrunk(run.layout)
    fitting, left_out = [], []
    for layout in dict.fromkeys([own, *_candidates(run, twin, world_size)]):
        try:
            fitting.append(for_layout(twin, layout, world_size=world_size).layout)
        except InputError as error:
            left_out.append(f"{layout}: {error}")
    fitting = list(dict.fromkeys(fitting))
    left_out += [
        f"{layout}: more than {MOST_LAYOUTS} layouts, name it with --layout" for layout in fitting[MOST_LAYOUTS:]
    ]
    return fitting[:MOST_LAYOUTS], left_out


def named_layouts(twin: RunConfig, words: Sequence[str], *, world_size: int) -> list[ParallelLayout]:
    """Layouts such as `tensor=2,pipeline=2`; stage_layers=4/2. Raises InputError."""
    layouts = []
    for word in words:
        fields = [f"layout.{part.replace('/', ',')}" for part in word.split(",")]
        layouts.append(for_layout(override(twin, fields), override(twin, fields).layout, world_size=world_size).layout)
    return list(dict.fromkeys(layouts))


def _model(run: RunConfig) -> Architecture:
    model, layout = run.model, run.layout
    groups = 1 if layout.tensor > 1 and model.key_value_groups % layout.tensor else 2
    heads = groups * model.heads // model.key_value_groups
    if layout.tensor > 1 and heads % 2:
        heads, groups = 2 * heads, 2 * groups
    hidden = heads * HEAD_SIZE
    return replace(
        model,
        layers=sum(_uneven(shrunk(layout).pipeline * shrunk(layout).virtual_pipeline)) if _is_uneven(layout) else 4,
        hidden=hidden,
        feed_forward=max(16, round(hidden * model.feed_forward / model.hidden / 16) * 16),
        heads=heads,
        key_value_groups=groups,
        head_size=HEAD_SIZE,
        vocabulary=VOCABULARY - (model.vocabulary % layout.tensor > 0),
        context=0,
        loss_chunk_tokens=min(model.loss_chunk_tokens, 24),
    )


def _task(run: RunConfig) -> Pretrain:
    """Next tokens of made text, or the user's objective, with documents as the recipe treats them."""
    mixture = run.task.mixture if isinstance(run.task, Pretrain) else None
    return Pretrain(
        mixture=Mixture(
            sources=(Source(name="made", weight=1.0, paths=("made",)),),
            isolate_documents=mixture is None or mixture.isolate_documents,
            reset_positions=mixture is None or mixture.reset_positions,
        ),
        objective=getattr(run.task, "objective", None),
    )


def _is_uneven(layout: ParallelLayout) -> bool:
    return len(set(layout.stage_layers)) > 1


def _uneven(chunks: int) -> tuple[int, ...]:
    """Layers of chunks of which the first and the last have fewer than the others, or the last of two."""
    return (4, 2) if chunks == 2 else (1, *(2,) * (chunks - 2), 1)


def _spread(layers: int, stages: int) -> tuple[int, ...]:
    """Layers over stages, the first ones with one more; none if they do not suffice."""
    return tuple((layers - stage - 1) // stages + 1 for stage in range(stages)) if layers >= stages else ()


def _candidates(run: RunConfig, twin: RunConfig, world_size: int) -> Iterator[ParallelLayout]:
    sequence_parallel = run.layout.sequence_parallel
    ways = [size for size in range(1, world_size + 1) if world_size % size == 0]
    cut = [one for one in product(ways, repeat=3) if world_size % math.prod(one) == 0]
    for tensor, pipeline, context in sorted(cut, key=lambda one: _mixed(one, world_size)):
        uneven = _spread(twin.model.layers, pipeline) if twin.model.layers % pipeline else ()
        layout = ParallelLayout(tensor=tensor, pipeline=pipeline, context=context, stage_layers=uneven)
        yield replace(layout, sequence_parallel=sequence_parallel and tensor > 1)
        if tensor == world_size > 1:
            yield replace(layout, sequence_parallel=not sequence_parallel)
        if pipeline == world_size > 1 and twin.model.layers % (2 * pipeline) == 0:
            yield replace(layout, virtual_pipeline=2)


def _mixed(cut: tuple[int, ...], world_size: int) -> tuple[int, tuple[int, ...]]:
    """Order: few kinds of parallelism first, and of these the larger tensor, pipeline, context size."""
    kinds = (*cut, world_size // math.prod(cut))
    return sum(size > 1 for size in kinds), tuple(-size for size in kinds)
