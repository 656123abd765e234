"""Supervised fine-tuning: imitate the assistant of given conversations (paper, section 4.2).

Engine, loop and checkpoints are those of pretraining; only the data differ: conversations packed into rows, in which
each attends to itself alone and only the assistant's tokens are trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from megaphi.config import FilePath
from megaphi.data.packed.conversations import read_conversations
from megaphi.data.packed.held_out import split_by_source
from megaphi.data.packed.rows import conversation_batch
from megaphi.data.text.bad_records import OnBadRecords
from megaphi.data.text.training_records import TooLong
from megaphi.engine.run_config import RunConfig
from megaphi.engine.task import OpenTask
from megaphi.log import logger
from megaphi.own_code import pinned
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.packed_task import (
    PackedTask,
    SpelledThink,
    hold_out,
    open_rows,
    padding_token,
    reading_tokenizer,
)
from megaphi.tokenizer.interface import RenderedConversation, Tokenizer, TrainOn


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetune(PackedTask):
    """Train on the answers of conversations (config section `task`, kind Finetune)."""

    paths: tuple[FilePath, ...]
    """Files, folders or patterns: JSON or Parquet with `messages`, `prompt` and `response`, `ids` or other names."""
    validation_paths: tuple[FilePath, ...] = ()
    """The same, held out."""
    train_on: TrainOn = "assistant"
    """Answers to train on: assistant (all of them) or last."""
    too_long: TooLong = "skip"
    """A conversation longer than batch.sequence_length: skip and count it, or stop with an error."""
    bad_records: OnBadRecords = "error"
    """Unusable records, such as empty answers: stop and name all of them, or skip and count them."""
    spelled_think: SpelledThink = "token"
    """<think> in an answer or a system message, where the tokenizer has think tokens: the token, or ordinary text."""
    objective: str | None = None
    """Your own objective, file.py:Class (see engine/objective.py); none: the cross-entropy of the next token."""

    @property
    def has_validation(self) -> bool:
        return bool(self.validation_paths)

    def checked(self, run: RunConfig, layout: ParallelLayout) -> Finetune:
        PackedTask.checked(self, run, layout)
        return replace(self, objective=pinned(self.objective, what="objective", where="task.objective"))

    def rehearse(self) -> None:
        from megaphi.engine.own_objective import load_objective

        load_objective(self.objective)

    def open(self, run: RunConfig, tokenizer: Tokenizer | None) -> OpenTask:
        from megaphi.engine.own_objective import load_objective

        training, held_out = self._read(run, tokenizer)
        capacity = run.batch.sequence_length
        make_batch = partial(conversation_batch, capacity=capacity, padding_token=padding_token(tokenizer))
        run, data = open_rows(
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
        )
        return OpenTask(run=run, data=data, objective=load_objective(self.objective))

    def _read(
        self, run: RunConfig, tokenizer: Tokenizer | None
    ) -> tuple[Sequence[RenderedConversation], dict[str, Sequence[RenderedConversation]]]:
        """The conversations to train on, and those held out, by source."""

        def read(split: str, paths: Sequence[str]) -> tuple[list[RenderedConversation], dict[str, int]]:
            samples, report = read_conversations(
                paths,
                reading_tokenizer(tokenizer, self.spelled_think),
                train_on=self.train_on,
                sequence_length=run.batch.sequence_length,
                too_long=self.too_long,
                bad_records=self.bad_records,
                vocabulary=run.model.vocabulary,
            )
            for line in report.lines():
                logger.info("%s: %s", split, line)
            return samples, report.kept_of

        training, _ = read("training", self.paths)
        held_out = split_by_source(*read("validation", self.validation_paths)) if self.validation_paths else {}
        return training, held_out


def lengths_of(samples: Sequence[RenderedConversation]) -> list[int]:
    """Number of tokens of each sample."""
    return [len(sample.ids) for sample in samples]


def content_of(samples: Sequence[RenderedConversation]) -> str:
    """Hex SHA-256 of all ids and trained flags, in order."""
    hashed = hashlib.sha256()
    for sample in samples:
        hashed.update(len(sample.ids).to_bytes(8, "little"))
        hashed.update(bytes(memoryview(sample.ids)) + bytes(memoryview(sample.trained)))  # pyright: ignore
    return hashed.hexdigest()
