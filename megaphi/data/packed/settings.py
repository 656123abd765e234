"""Data of supervised fine-tuning and preference optimisation: two sections of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from megaphi.config import FilePath, Range
from megaphi.data.text.bad_records import OnBadRecords
from megaphi.data.text.training_records import TooLong
from megaphi.errors import InputError
from megaphi.tokenizer.chat_format import TrainOn


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversations:
    """Conversations to imitate (config section `conversations`)."""

    paths: tuple[FilePath, ...]
    """Files, folders or patterns: JSON or Parquet with `messages`, `prompt` and `response`, `ids` or other names."""
    validation_paths: tuple[FilePath, ...] = ()
    """The same, held out."""
    train_on: TrainOn = "assistant"
    """Answers to train on: assistant (all of them) or last."""
    too_long: TooLong = "skip"
    """Treatment of a conversation longer than batch.sequence_length: skip (and count) it, or stop with an error."""
    bad_records: OnBadRecords = "error"
    """Treatment of unusable records, such as empty answers: name all and stop, or skip and count them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferences:
    """Pairs of answers and how to learn from them (config section `preferences`)."""

    paths: tuple[FilePath, ...]
    """Files, folders or patterns: JSON or Parquet with `prompt`, `accepted`, `rejected`, or the hub's names."""
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
    """End both sides of pairs of token ids with <|im_end|>; not for single pivotal tokens."""
    max_completion_tokens: Annotated[int, Range(minimum=1)] | None = None
    """Number of first tokens of each side that count (5 for hallucination data, paper section 4.4); none: all."""
    too_long: TooLong = "skip"
    """Treatment of a pair whose prompt and two answers do not fit into batch.sequence_length."""
    bad_records: OnBadRecords = "error"
    """Treatment of unusable records, such as equal answers: name all and stop, or skip and count them."""
    reference_folder: FilePath | None = None
    """Folder for log-probabilities of the reference model, for this and later runs (none: in the run folder)."""

    def check(self) -> None:
        """Raises InputError that names the field."""
        if self.label_smoothing and self.loss != "sigmoid":
            raise InputError(f"preferences.label_smoothing={self.label_smoothing} needs preferences.loss=sigmoid")
