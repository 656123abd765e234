"""Everything that defines a run, as one frozen tree.

A recipe is a function that returns a `RunConfig`, and the command line overrides single fields. `check` checks the
fields together once, after all overrides, so that a mistake costs a second on one process and not a minute on 512.
No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from megaphi.config import FilePath, Range, check_values
from megaphi.data.batch import BatchShape
from megaphi.engine.boards.wandb_board import Wandb, check_wandb
from megaphi.engine.guard.settings import Guard
from megaphi.engine.guard.step_ranges import parse_ranges
from megaphi.engine.learning_rate import Optimizer, check_schedule
from megaphi.engine.retention import Saving
from megaphi.engine.run_sections import (
    EvaluationPasses,
    ProfilerWindow,
    Start,
    TrainingLength,
    ValidationPasses,
    profiled_steps,
)
from megaphi.engine.run_tokenizer import RunTokenizer
from megaphi.engine.task import TrainingTask
from megaphi.engine.time_limit import limit_seconds
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.liveness.patience import Patience


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericPrecision:
    """Number formats (config section `precision`); gradients and optimizer state are always fp32."""

    parameters: Literal["float32", "bfloat16"] = "bfloat16"
    fp8: Literal["none", "delayed", "tensorwise", "blockwise", "mxfp8"] = "none"
    """Recipe for 8-bit inputs of linear layers (needs model.kernels=transformer_engine, Hopper or newer)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Complete configuration of one run, saved in the run folder and in every checkpoint."""

    recipe: str
    """Name of the recipe function that made this configuration."""
    seed: Annotated[int, Range(minimum=0, maximum=2**64 - 1)] = 1_234
    """Seed of everything random: initial weights, data order."""
    folder: FilePath = "runs/phi4"
    """Run folder: config.json, metrics.jsonl, events.jsonl, checkpoints/, boards, loss.png; logs/, steps/ by rank."""
    training: TrainingLength = field(default_factory=TrainingLength)
    validation: ValidationPasses = field(default_factory=ValidationPasses)
    evaluation: EvaluationPasses = field(default_factory=EvaluationPasses)
    start: Start = field(default_factory=Start)
    saving: Saving = field(default_factory=Saving)
    guard: Guard = field(default_factory=Guard)
    layout: ParallelLayout = field(default_factory=ParallelLayout)
    model: Architecture
    batch: BatchShape
    task: TrainingTask
    """The kind of training, with its data and its objective."""
    tokenizer: RunTokenizer = field(default_factory=RunTokenizer)
    optimizer: Optimizer = field(default_factory=Optimizer)
    precision: NumericPrecision = field(default_factory=NumericPrecision)
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations recomputed in the backward pass: none, the core attention's (selective), or whole layers' (full)."""
    overlap_communication: bool = True
    """Overlap gradient reduction and parameter gathering with compute (several data-parallel replicas only)."""
    bucket_parameters: Annotated[int, Range(minimum=0)] = 0
    """Parameters per bucket of overlapped communication; 0: 40 million, at least 1 million a replica."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time: on GPUs a resumed run then repeats the uninterrupted one."""
    patience: Patience = field(default_factory=Patience)
    profile: ProfilerWindow = field(default_factory=ProfilerWindow)
    wandb: Wandb = field(default_factory=Wandb)


def check(run: RunConfig, *, world_size: int) -> RunConfig:
    """Cross-field checks; returns the run with the layout's data dimension filled in. Raises InputError."""
    run = check_values(run)
    layout = run.layout.for_world(world_size)
    run.model.check()
    layout.check_model(
        layers=run.model.layers,
        heads=run.model.heads,
        feed_forward=run.model.feed_forward,
        sequence_length=run.batch.sequence_length,
    )
    layout.check_batch(global_batch=run.batch.global_batch, micro_batch=run.batch.micro_batch)
    _check_saving(run)
    parse_ranges(run.guard.skip_steps, where="guard.skip_steps")
    _check_kernels(run)
    _check_delayed_scales(run)
    _check_copied_groups(run)
    _check_evaluation(run)
    _check_profile(run, world_size=world_size)
    check_wandb(run.wandb)
    task = run.task.checked(run, layout)
    if run.training.steps:
        check_schedule(run.optimizer, steps=run.training.steps)
    _check_context(run)
    if run.training.time_limit is not None:
        limit_seconds(run.training.time_limit)
    if run.start.continue_sources and run.start.initial_checkpoint is None:
        raise InputError("start.continue_sources=true needs start.initial_checkpoint, the run whose sources go on")
    return replace(run, layout=layout, task=task)


def _check_context(run: RunConfig) -> None:
    longest = max(shape.sequence_length for shape in run.task.batch_shapes(run))
    if run.model.context and longest > run.model.context:
        raise InputError(
            f"model.context={run.model.context}: the run has sequences of {longest} tokens; raise it to {longest}, or"
            " leave it out, and the model's context becomes the longest sequence"
        )


def _check_kernels(run: RunConfig) -> None:
    """Features that only some values of model.kernels support."""
    if run.precision.fp8 != "none" and run.model.kernels != "transformer_engine":
        raise InputError(
            f"precision.fp8={run.precision.fp8} needs model.kernels=transformer_engine, not {run.model.kernels}"
        )
    if run.precision.fp8 != "none" and run.precision.parameters != "bfloat16":
        raise InputError(f"precision.fp8={run.precision.fp8} needs precision.parameters=bfloat16")
    if run.deterministic and run.model.attention_backend in ("cudnn", "efficient", "flash3"):
        raise InputError(
            f"deterministic=true needs model.attention_backend=flash, math or auto, not {run.model.attention_backend}, "
            "whose backward pass adds up in any order"
        )


def _check_delayed_scales(run: RunConfig) -> None:
    """Refuse what needs FP8's scales not to remember passes: delayed ones do, and no checkpoint holds them."""
    if run.precision.fp8 != "delayed":
        return
    refused = (
        (run.evaluation.every, "evaluation.every", "evaluating would change the training"),
        (run.guard.skip_steps, "guard.skip_steps", "they remember a step that the other run computed and left out"),
        (run.deterministic, "deterministic=true", "no checkpoint holds them, and a resumed run begins without"),
    )
    for is_set, what, reason in refused:
        if is_set:
            raise InputError(
                f"{what} is not available with precision.fp8=delayed: its scales are made from the largest values of"
                f" every pass, so {reason}. Use another kind of fp8, or leave {what} out"
            )


def _check_copied_groups(run: RunConfig) -> None:
    """Megatron's own attention needs tensor ranks that divide the groups."""
    groups, tensor = run.model.key_value_groups, run.layout.tensor
    if run.model.kernels == "transformer_engine" and groups % tensor:
        raise InputError(
            f"layout.tensor={tensor} does not divide model.key_value_groups={groups}, and"
            " model.kernels=transformer_engine does not share groups between ranks: use model.kernels=fused, or another"
            " layout.tensor"
        )


def _check_evaluation(run: RunConfig) -> None:
    """The section by itself; `megaphi.evaluation` knows the tasks, and checks their names and files."""
    section = run.evaluation
    if not section.every:
        return
    if not section.tasks or section.data is None:
        missing = "evaluation.data, the manifest of their files" if section.tasks else "evaluation.tasks"
        raise InputError(f"evaluation.every={section.every} needs {missing}")
    if twice := [name for name in section.tasks if section.tasks.count(name) > 1]:
        raise InputError(f"evaluation.tasks names {twice[0]} twice")


def _check_profile(run: RunConfig, *, world_size: int) -> None:
    profiled_steps(run.profile)
    if wrong := [rank for rank in run.profile.ranks if not 0 <= rank < world_size]:
        raise InputError(f"profile.ranks={wrong[0]}: this job has the ranks 0 to {world_size - 1}")


def _check_saving(run: RunConfig) -> None:
    saving = run.saving
    validated = run.validation.every > 0 and saving.every % run.validation.every == 0
    if saving.keep_best and not (validated and run.task.has_validation):
        raise InputError(
            f"saving.keep_best={saving.keep_best} needs a validation loss at every checkpoint: validation_paths of a "
            f"source, and a validation.every that divides saving.every={saving.every}"
        )
