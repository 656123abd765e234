"""Tasks on packed rows: the common part of conversations, preference pairs, and other units that must not be cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from megaphi.data.order.schedule import StageSpan
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.held_out import HeldOutRows, HeldOutSource
from megaphi.data.packed.rows import MakeBatch, PackedRows, RowOrder, steps_of_epochs
from megaphi.engine.learning_rate import check_schedule
from megaphi.engine.run_config import RunConfig
from megaphi.engine.task import TrainingTask
from megaphi.engine.training_data import RunData
from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.parallel.layout import ParallelLayout
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.phi4 import Phi4Tokenizer

SpelledThink = Literal["token", "text"]
"""The reading of a think token's name in what the assistant or the system says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedTask(TrainingTask):
    """A task on packed rows; `checked` checks their requirements, and a task adds its own."""

    def checked(self, run: RunConfig, layout: ParallelLayout) -> TrainingTask:
        if run.model.kernels != "fused":
            raise InputError(f"model.kernels={run.model.kernels}: packed rows need model.kernels=fused")
        if run.start.continue_sources:
            raise InputError("start.continue_sources=true is for mixtures: conversations and pairs always start over")
        steps, epochs = run.training.steps, run.training.epochs
        if not steps and not epochs > 0:
            raise InputError(f"training.steps=0 and training.epochs={epochs}: give one of them")
        if steps and epochs:
            raise InputError(f"training.steps={steps} and training.epochs={epochs}: set one of them to 0")
        return self


def reading_tokenizer(tokenizer: Tokenizer | None, spelled: SpelledThink) -> Tokenizer | None:
    """The tokenizer for the records of a training set; a name of a think token in them is that token, or text."""
    if not isinstance(tokenizer, Phi4Tokenizer):
        return tokenizer
    return tokenizer.renamed(tokenizer.think, spells_think=spelled == "token")


def padding_token(tokenizer: Tokenizer | None) -> int:
    """The token that fills up rows; it is never trained on."""
    return 0 if tokenizer is None else tokenizer.pad


def open_rows(
    run: RunConfig,
    *,
    name: str,
    lengths: Sequence[int],
    make_batch: MakeBatch,
    content: str,
    held_out: HeldOutRows | None,
) -> tuple[RunConfig, RunData]:
    """Pack the units to train on, and fill in the run's number of steps from the number of rows.

    Raises:
        InputError: the warm-up does not end before the run does.
    """
    batch = run.batch
    packed = PackedEpochs(lengths, capacity=batch.sequence_length, seed=run.seed)
    steps = run.training.steps or steps_of_epochs(
        run.training.epochs, rows_per_epoch=packed.rows_per_epoch, global_batch=batch.global_batch
    )
    logger.info(
        "%s: %d units in %d rows of %d tokens, %.1f %% padding; %d steps are %.2f epochs",
        name,
        len(lengths),
        packed.rows_per_epoch,
        batch.sequence_length,
        100 * (1 - sum(lengths) / (packed.rows_per_epoch * batch.sequence_length)),
        steps,
        steps * batch.global_batch / packed.rows_per_epoch,
    )
    training = PackedRows(
        name=name, epochs=packed, order=row_order(run, name, steps=steps), make_batch=make_batch, content=content
    )
    # Steps replace epochs, so that config.json is the run as it was and can be run again.
    run = replace(run, training=replace(run.training, steps=steps, epochs=0.0))
    check_schedule(run.optimizer, steps=steps)
    return run, RunData(training=training, validation=held_out)


def hold_out(
    sources: Mapping[str, tuple[Sequence[int], MakeBatch]], *, capacity: int, content: str
) -> HeldOutRows | None:
    """Pack the held-out units of each source: their lengths, and the function that makes batches of them."""
    packed = {
        name: HeldOutSource(rows=PackedEpochs(lengths, capacity=capacity, seed=0), make_batch=make) if lengths else None
        for name, (lengths, make) in sources.items()
    }
    return HeldOutRows(sources=packed, content=content) if packed else None


def row_order(run: RunConfig, name: str, *, steps: int) -> RowOrder:
    """The order of a run whose steps all take `batch.global_batch` rows."""
    return RowOrder(
        span=StageSpan(
            name=name,
            sources=(name,),
            weights=(1.0,),
            sequence_length=run.batch.sequence_length,
            global_batch=run.batch.global_batch,
            micro_batch=run.batch.micro_batch,
            first_step=0,
            end_step=steps,
            first_sample=0,
            is_whole_run=True,
        )
    )
