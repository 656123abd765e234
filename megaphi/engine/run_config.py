"""Everything that defines a run, as one frozen tree.

A recipe is a function that returns a `RunConfig`; the command line overrides single fields; `check` looks at the
fields together once, after all overrides, so that a mistake costs a second on one process and not a minute on 512.
No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from megaphi.config import FilePath, Range, check_values
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture
from megaphi.data.order.schedule import StageSpan, lay_out_stages
from megaphi.data.packed.settings import Conversations, Preferences
from megaphi.data.storage.files.remote import check_remote_reading
from megaphi.engine.boards.wandb_board import Wandb, check_wandb
from megaphi.engine.learning_rate import Optimizer, check_schedule
from megaphi.engine.retention import Saving
from megaphi.engine.run_sections import Start, TrainingLength, ValidationPasses
from megaphi.engine.run_tokenizer import RunTokenizer
from megaphi.engine.time_limit import limit_seconds
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.own_code import digest_of, split_name
from megaphi.parallel.heartbeat import Patience
from megaphi.parallel.layout import ParallelLayout

Kind = Literal["pretrain", "finetune", "prefer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericPrecision:
    """Number formats (config section `precision`); gradients and optimizer state are always fp32."""

    parameters: Literal["float32", "bfloat16"] = "bfloat16"
    fp8: Literal["none", "delayed", "tensorwise", "blockwise", "mxfp8"] = "none"
    """Scaling of inputs of linear layers to 8 bits (needs model.kernels=transformer_engine, Hopper or newer)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One run: the whole truth about it, saved in the run folder and in every checkpoint."""

    recipe: str
    """Name of the recipe function that made this configuration."""
    seed: Annotated[int, Range(minimum=0, maximum=2**64 - 1)] = 1_234
    """Seed of everything random: initial weights, data order."""
    folder: FilePath = "runs/phi4"
    """Run folder: config.json, metrics.jsonl, checkpoints/, boards, loss.png, logs/ and steps/ of every rank."""
    training: TrainingLength = field(default_factory=TrainingLength)
    validation: ValidationPasses = field(default_factory=ValidationPasses)
    start: Start = field(default_factory=Start)
    saving: Saving = field(default_factory=Saving)
    layout: ParallelLayout = field(default_factory=ParallelLayout)
    model: Architecture
    batch: BatchShape
    mixture: Mixture = field(default_factory=lambda: Mixture(sources=()))
    """Data for pretraining; a run has this, or conversations, or preferences."""
    conversations: Conversations | None = None
    """Data for fine-tuning."""
    preferences: Preferences | None = None
    """Pairs to learn preferences from."""
    objective: str | None = None
    """Your own, file.py:Class (engine/objective.py says what it is), not for preferences; none: the next token."""
    tokenizer: RunTokenizer = field(default_factory=RunTokenizer)
    optimizer: Optimizer = field(default_factory=Optimizer)
    precision: NumericPrecision = field(default_factory=NumericPrecision)
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations computed again in the backward pass: none, the attention core, or whole layers."""
    overlap_communication: bool = True
    """Overlap gradient reduction and parameter gathering with compute (several data-parallel replicas only)."""
    bucket_parameters: Annotated[int, Range(minimum=0)] = 0
    """Parameters reduced and gathered together where that overlaps; 0: 40 million, at least 1 million a replica."""
    patience: Patience = field(default_factory=Patience)
    wandb: Wandb = field(default_factory=Wandb)


def check(run: RunConfig, *, world_size: int) -> RunConfig:
    """Cross-field checks; returns the run with the layout's data dimension filled in. Raises InputError."""
    run = check_values(run)
    layout = run.layout.for_world(world_size)
    run.model.check()
    layout.check_model(
        layers=run.model.layers,
        heads=run.model.heads,
        key_value_groups=run.model.key_value_groups,
        feed_forward=run.model.feed_forward,
        sequence_length=run.batch.sequence_length,
    )
    layout.check_batch(global_batch=run.batch.global_batch, micro_batch=run.batch.micro_batch)
    _check_saving(run)
    _check_kernels(run)
    check_wandb(run.wandb)
    if check_kind(run) == "pretrain":
        if run.training.steps < 1:
            raise InputError(f"training.steps={run.training.steps}: must be at least 1")
        _check_stages(run, layout)
    else:
        _check_packed(run, layout)
    if run.training.steps:
        check_schedule(run.optimizer, steps=run.training.steps)
    _check_context(run)
    check_remote_reading(run.mixture.remote)
    if run.training.time_limit is not None:
        limit_seconds(run.training.time_limit)
    if run.mixture.reset_positions and not run.mixture.isolate_documents:
        raise InputError(
            "mixture.reset_positions=true needs mixture.isolate_documents=true: rotary positions are relative, so they"
            " only matter between tokens that attend to each other"
        )
    if run.start.continue_sources and run.start.initial_checkpoint is None:
        raise InputError("start.continue_sources=true needs start.initial_checkpoint, the run whose sources go on")
    if layout.context > 1 and run.mixture.isolate_documents:
        raise InputError(
            "mixture.isolate_documents=true is not available with layout.context > 1: turn one of them off"
        )
    return replace(run, layout=layout, objective=_pinned_objective(run))


def _pinned_objective(run: RunConfig) -> str | None:
    """The name of the user's objective with the digest of its file, which must be the one that the name carries."""
    if run.objective is None:
        return None
    if run.preferences is not None:
        raise InputError(f"objective={run.objective} is for a mixture or conversations: preferences.loss names theirs")
    before_at, _, pinned = run.objective.rpartition("@")
    name = before_at or run.objective
    path, _ = split_name(name, what="objective")
    digest = digest_of(path)
    if before_at and pinned != digest:
        raise InputError(
            f"objective={run.objective}: {path} is not the file that this run was trained with (its digest is "
            f"{digest}): put that back, or set objective={name} to take this one"
        )
    return f"{name}@{digest}"


def _check_context(run: RunConfig) -> None:
    longest = max(shape.sequence_length for shape in batch_shapes(run))
    if run.model.context and longest > run.model.context:
        raise InputError(
            f"model.context={run.model.context}: the run has sequences of {longest} tokens; raise it to {longest}, or"
            " leave it out, and the model's context becomes the longest sequence"
        )


def check_kind(run: RunConfig) -> Kind:
    """The training task of a run, by the data that it names. Raises InputError if that is not exactly one kind."""
    given: list[Kind] = []
    if run.mixture.sources:
        given.append("pretrain")
    if run.conversations is not None:
        given.append("finetune")
    if run.preferences is not None:
        given.append("prefer")
    if len(given) != 1:
        raise InputError(
            f"a run has a mixture, conversations or preferences, exactly one of them; this one has {len(given)}"
        )
    return given[0]


def _check_packed(run: RunConfig, layout: ParallelLayout) -> None:
    """Requirements of rows of packed units."""
    if layout.context > 1:
        raise InputError(f"layout.context={layout.context}: packed rows are not available under context parallelism")
    if run.model.kernels != "fused":
        raise InputError(f"model.kernels={run.model.kernels}: packed rows need model.kernels=fused")
    if run.start.continue_sources:
        raise InputError("start.continue_sources=true is for mixtures: conversations and pairs always start over")
    if not run.training.steps and not run.training.epochs > 0:
        raise InputError(f"training.steps=0 and training.epochs={run.training.epochs}: give one of them")
    if run.training.steps and run.training.epochs:
        raise InputError(
            f"training.steps={run.training.steps} and training.epochs={run.training.epochs}: set one of them to 0"
        )
    if run.preferences is not None:
        run.preferences.check()


def stages_of(run: RunConfig) -> tuple[StageSpan, ...]:
    """The run's stages, laid out in steps and samples."""
    return lay_out_stages(
        run.mixture,
        steps=run.training.steps,
        sequence_length=run.batch.sequence_length,
        global_batch=run.batch.global_batch,
        micro_batch=run.batch.micro_batch,
    )


def batch_shapes(run: RunConfig) -> list[BatchShape]:
    """The global batch of every stage of the run."""
    if check_kind(run) != "pretrain":
        return [run.batch]
    return [
        BatchShape(sequence_length=span.sequence_length, global_batch=span.global_batch, micro_batch=span.micro_batch)
        for span in stages_of(run)
    ]


def _check_stages(run: RunConfig, layout: ParallelLayout) -> None:
    """Every stage must fit the layout as the batch shape of the run does."""
    for span in stages_of(run) if run.mixture.stages else ():
        try:
            layout.check_sequence(span.sequence_length)
            layout.check_batch(global_batch=span.global_batch, micro_batch=span.micro_batch)
        except InputError as error:
            raise InputError(f"mixture stage {span.name!r}: {error}") from None
    if run.mixture.stages and run.mixture.order == "megatron":
        raise InputError(
            "mixture.order=megatron has no mixture stages: remove mixture.stages, or use mixture.order=keyed"
        )


def _check_kernels(run: RunConfig) -> None:
    """Features that only some values of model.kernels support."""
    if run.precision.fp8 != "none" and run.model.kernels != "transformer_engine":
        raise InputError(
            f"precision.fp8={run.precision.fp8} needs model.kernels=transformer_engine, not {run.model.kernels}"
        )
    if run.precision.fp8 != "none" and run.precision.parameters != "bfloat16":
        raise InputError(f"precision.fp8={run.precision.fp8} needs precision.parameters=bfloat16")
    if run.mixture.isolate_documents and run.model.kernels == "transformer_engine":
        raise InputError("mixture.isolate_documents=true needs model.kernels=fused or reference")


def _check_saving(run: RunConfig) -> None:
    saving = run.saving
    validated = run.validation.every > 0 and saving.every % run.validation.every == 0
    if saving.keep_best and not (validated and has_validation(run)):
        raise InputError(
            f"saving.keep_best={saving.keep_best} needs a validation loss at every checkpoint: validation_paths of a "
            f"source, and a validation.every that divides saving.every={saving.every}"
        )


def has_validation(run: RunConfig) -> bool:
    """Return whether the run names held-out data."""
    sections = [*run.mixture.sources, run.conversations, run.preferences]
    return any(section is not None and section.validation_paths for section in sections)
