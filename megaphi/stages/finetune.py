"""Supervised fine-tuning: imitate the assistant of given conversations (paper, section 4.2).

The same engine, loop and checkpoints as pretraining; only the data is another: conversations packed into rows, in which
nothing is seen of a neighbour and only what the assistant says is trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from megaphi.checkpoint.format import CheckpointReader
from megaphi.data.order.schedule import StageSpan
from megaphi.data.packed.conversations import read_conversations
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.held_out import HeldOutRows, HeldOutSource, split_by_source
from megaphi.data.packed.rows import MakeBatch, PackedRows, RowOrder, conversation_batch, steps_of_epochs
from megaphi.engine.learning_rate import check_schedule
from megaphi.engine.model.training_model import build_training_model
from megaphi.engine.own_objective import load_objective
from megaphi.engine.run_config import RunConfig
from megaphi.engine.start.resume import OpenWeights, RunData
from megaphi.engine.start.run_folder import start_run
from megaphi.engine.start.same_run import agree_on_data
from megaphi.engine.training.loop import RunResult, training_loop
from megaphi.log import logger
from megaphi.parallel.agreement import agreed
from megaphi.stages.inheritance import inherit
from megaphi.tokenizer.interface import RenderedConversation, Tokenizer


def finetune(run: RunConfig, *, open_weights: OpenWeights = CheckpointReader) -> RunResult:
    """Train on `run.conversations`. Every rank of the job calls this."""
    assert run.conversations is not None
    world = start_run(run)
    inherited = inherit(run, world, open_weights)
    run, padding_token = inherited.run, inherited.padding_token
    training, held_out = agreed(world, lambda: _read(run, inherited.tokenizer))
    capacity = run.batch.sequence_length
    make_batch = partial(conversation_batch, capacity=capacity, padding_token=padding_token)
    run, data = agreed(
        world,
        lambda: open_rows(
            run,
            name="conversations",
            lengths=lengths_of(training),
            make_batch=make_batch(training),
            content=content_of(training),
            held_out=hold_out(
                {name: (lengths_of(part), make_batch(part)) for name, part in held_out.items()},
                capacity=capacity,
                content=content_of([sample for part in held_out.values() for sample in part]),
            ),
        ),
    )
    objective = agreed(world, lambda: load_objective(run))
    agree_on_data(world, data.training, data.validation)
    model = build_training_model(run, world)
    return training_loop(model, data, open_weights=open_weights, objective=objective)


def _read(
    run: RunConfig, tokenizer: Tokenizer | None
) -> tuple[Sequence[RenderedConversation], dict[str, Sequence[RenderedConversation]]]:
    """The conversations to train on, and those held out, by source."""
    rules = run.conversations
    assert rules is not None

    def read(split: str, paths: Sequence[str]) -> tuple[list[RenderedConversation], dict[str, int]]:
        samples, report = read_conversations(
            paths,
            tokenizer,
            train_on=rules.train_on,
            sequence_length=run.batch.sequence_length,
            too_long=rules.too_long,
            bad_records=rules.bad_records,
            vocabulary=run.model.vocabulary,
        )
        for line in report.lines():
            logger.info("%s: %s", split, line)
        return samples, report.kept_of

    training, _ = read("training", rules.paths)
    held_out = split_by_source(*read("validation", rules.validation_paths)) if rules.validation_paths else {}
    return training, held_out


def lengths_of(samples: Sequence[RenderedConversation]) -> list[int]:
    """Tokens of each."""
    return [len(sample.ids) for sample in samples]


def content_of(samples: Sequence[RenderedConversation]) -> str:
    """SHA-256 over all ids and flags, in order."""
    hashed = hashlib.sha256()
    for sample in samples:
        hashed.update(len(sample.ids).to_bytes(8, "little"))
        hashed.update(bytes(memoryview(sample.ids)) + bytes(memoryview(sample.trained)))  # pyright: ignore
    return hashed.hexdigest()


def open_rows(
    run: RunConfig,
    *,
    name: str,
    lengths: Sequence[int],
    make_batch: MakeBatch,
    content: str,
    held_out: HeldOutRows | None,
) -> tuple[RunConfig, RunData]:
    """Pack the units to train on, and put into the run what follows from how many rows there are.

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
        name=name, epochs=packed, order=_order(run, name, steps=steps), make_batch=make_batch, content=content
    )
    # Without epochs: config.json is the run as it was, and can be run again.
    run = replace(run, training=replace(run.training, steps=steps, epochs=0.0))
    check_schedule(run.optimizer, steps=steps)
    return run, RunData(training=training, validation=held_out)


def hold_out(
    sources: Mapping[str, tuple[Sequence[int], MakeBatch]], *, capacity: int, content: str
) -> HeldOutRows | None:
    """Pack the held-out units of each source, given as their lengths and what makes batches of them."""
    packed = {
        name: HeldOutSource(rows=PackedEpochs(lengths, capacity=capacity, seed=0), make_batch=make) if lengths else None
        for name, (lengths, make) in sources.items()
    }
    return HeldOutRows(sources=packed, content=content) if packed else None


def _order(run: RunConfig, name: str, *, steps: int) -> RowOrder:
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
