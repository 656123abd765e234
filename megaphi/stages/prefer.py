"""Direct preference optimisation: prefer chosen answers over rejected ones (paper, section 4.3; Rafailov et al. 2023).

A run reads and packs the pairs, loads the initial weights, computes the reference model's log-probabilities where they
are not known yet, and trains. The first step's loss must be ln 2 a pair, because nothing has been learnt yet: a run
whose log-probabilities are not those of its initial weights stops with a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from megaphi.config import FilePath, Range
from megaphi.data.packed.held_out import split_by_source
from megaphi.data.packed.pair_rows import Unit, content_of, length_of, pair_batch, units_of
from megaphi.data.packed.preference_pairs import PreferencePair, read_pairs
from megaphi.data.packed.rows import MakeBatch
from megaphi.data.text.bad_records import OnBadRecords
from megaphi.data.text.training_records import TooLong
from megaphi.engine.run_config import RunConfig
from megaphi.engine.task import CheckStep, OpenTask, no_check
from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.packed_task import (
    PackedTask,
    SpelledThink,
    hold_out,
    open_rows,
    padding_token,
    reading_tokenizer,
)
from megaphi.tokenizer.interface import Tokenizer

if TYPE_CHECKING:
    from megaphi.engine.model.training_model import TrainingModel
    from megaphi.engine.objective import Objective

TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""Tolerance of the first loss, by precision: neighbours in a row differ, and so does rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefer(PackedTask):
    """Train on pairs of a chosen and a rejected answer (config section `task`, kind Prefer)."""

    paths: tuple[FilePath, ...]
    """Files, folders or patterns: JSON or Parquet with `prompt`, `accepted`, `rejected`, or Hugging Face's names."""
    validation_paths: tuple[FilePath, ...] = ()
    """The same, held out."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """sigmoid: DPO (Rafailov et al. 2023); ipo: Azar et al. 2023."""
    beta: Annotated[float, Range(above=0)] = 0.1
    """Strength of the penalty for leaving the reference model (our default; the paper gives none)."""
    label_smoothing: Annotated[float, Range(minimum=0, below=0.5)] = 0.0
    """Assumed probability that the sides of a pair are swapped (sigmoid only)."""
    sft_weight: Annotated[float, Range(minimum=0)] = 0.0
    """Weight of an additional cross-entropy of the chosen side, a mean over its tokens."""
    append_eos: bool = False
    """End both sides of pairs of token ids with <|im_end|>; off for single pivotal tokens."""
    max_completion_tokens: Annotated[int, Range(minimum=1)] | None = None
    """Number of first tokens of each side that count (5 for hallucination data, paper section 4.4); none: all."""
    too_long: TooLong = "skip"
    """A pair whose prompt and two answers exceed batch.sequence_length: skip and count it, or stop with an error."""
    bad_records: OnBadRecords = "error"
    """Unusable records, such as equal answers: stop and name all of them, or skip and count them."""
    spelled_think: SpelledThink = "token"
    """<think> in an answer or a system message, where the tokenizer has think tokens: the token, or ordinary text."""
    reference_folder: FilePath | None = None
    """Folder for the reference model's log-probabilities, for this and later runs; none: in the run folder."""

    @property
    def has_validation(self) -> bool:
        return bool(self.validation_paths)

    def checked(self, run: RunConfig, layout: ParallelLayout) -> Prefer:
        PackedTask.checked(self, run, layout)
        if self.label_smoothing and self.loss != "sigmoid":
            raise InputError(f"task.label_smoothing={self.label_smoothing} needs task.loss=sigmoid")
        return self

    def open(self, run: RunConfig, tokenizer: Tokenizer | None) -> OpenTask:
        from megaphi.stages.preference import PreferenceObjective

        training, held_out = self._read(run, tokenizer)
        return open_pairs(
            run,
            tokenizer,
            training,
            held_out,
            objective=PreferenceObjective(
                loss=self.loss, beta=self.beta, label_smoothing=self.label_smoothing, sft_weight=self.sft_weight
            ),
            # With a cross-entropy in the loss the softmax is needed anyway; two logits are not enough then.
            single_tokens=self.sft_weight == 0,
            reference_folder=self.reference_folder,
            check_step=partial(check_first_loss, self, run.precision.parameters),
        )

    def _read(
        self, run: RunConfig, tokenizer: Tokenizer | None
    ) -> tuple[Sequence[PreferencePair], dict[str, Sequence[PreferencePair]]]:
        """The pairs to train on, and those held out, by source."""

        def read(split: str, paths: Sequence[str]) -> tuple[list[PreferencePair], dict[str, int]]:
            pairs, report = read_pairs(
                paths,
                reading_tokenizer(tokenizer, self.spelled_think),
                sequence_length=run.batch.sequence_length,
                append_eos=self.append_eos,
                max_completion_tokens=self.max_completion_tokens,
                too_long=self.too_long,
                bad_records=self.bad_records,
                vocabulary=run.model.vocabulary,
            )
            for line in report.lines():
                logger.info("%s: %s", split, line)
            return pairs, report.kept_of

        training, _ = read("training", self.paths)
        held_out = split_by_source(*read("validation", self.validation_paths)) if self.validation_paths else {}
        return training, held_out


class MakePairBatches(Protocol):
    """The function that makes batches: `pair_batch`, or one that adds what a task needs to know of its pairs."""

    def __call__(
        self, units: Sequence[Unit], reference_N2: NDArray[np.float64], *, capacity: int, padding_token: int
    ) -> MakeBatch: ...


def open_pairs(
    run: RunConfig,
    tokenizer: Tokenizer | None,
    training: Sequence[PreferencePair],
    sources: Mapping[str, Sequence[PreferencePair]],
    *,
    objective: Objective,
    single_tokens: bool,
    reference_folder: str | None,
    make_batches: MakePairBatches = pair_batch,
    check_step: CheckStep = no_check,
) -> OpenTask:
    """Open a task on pairs whose objective compares the model with its reference model, the initial one.

    Args:
        sources: pairs held out, by source.
        single_tokens: compare pairs of single tokens by two logits.
        reference_folder: for the reference model's log-probabilities; None: in the run folder.
    """
    held_out = [pair for part in sources.values() for pair in part]
    pairs = [*training, *held_out]
    reference_N2 = np.zeros((len(pairs), 2))
    references = np.split(reference_N2, np.cumsum([len(training), *map(len, sources.values())])[:-1])
    split_units = partial(units_of, single_tokens=single_tokens)
    units = split_units(training)
    parts = {name: split_units(part) for name, part in sources.items()}
    capacity = run.batch.sequence_length
    make = partial(make_batches, capacity=capacity, padding_token=padding_token(tokenizer))
    run, data = open_rows(
        run,
        name="pairs",
        lengths=[length_of(unit) for unit in units],
        make_batch=make(units, references[0]),
        content=content_of(training),
        held_out=hold_out(
            {
                name: ([length_of(unit) for unit in part], make(part, reference))
                for (name, part), reference in zip(parts.items(), references[1:], strict=True)
            },
            capacity=capacity,
            content=content_of(held_out),
        ),
    )

    def fill_in(model: TrainingModel) -> None:
        from megaphi.stages.reference_log_probabilities import fill_reference_log_probabilities, reference_model_key

        key = reference_model_key(model, tokenizer_fingerprint=run.tokenizer.fingerprint)
        folder = Path(reference_folder or f"{run.folder}/reference") / key[:32]
        computed = fill_reference_log_probabilities(
            model, pairs, split_units(pairs), reference_N2, folder=folder, padding_token=padding_token(tokenizer)
        )
        logger.info("reference log-probabilities: %d pairs computed, %d looked up", computed, len(pairs) - computed)

    return OpenTask(run=run, data=data, objective=objective, before_training=fill_in, check_step=check_step)


def check_first_loss(task: Prefer, precision: str, step: int, means: Mapping[str, float]) -> str | None:
    """Return the reason to stop if the loss of the run's first step is not the expected one, or None."""
    from megaphi.stages.losses import loss_before_the_first_update

    if step != 1:
        return None
    expected = loss_before_the_first_update(task.loss, beta=task.beta)
    found, allowed = means["preference_loss"], TOLERANCE[precision] * max(1.0, expected)
    if abs(found - expected) <= allowed:
        return None
    return (
        f"the first preference loss is {found:.6f} and not {expected:.6f} (within {allowed:g}): the reference "
        "log-probabilities are not those of the weights that training began with"
    )
