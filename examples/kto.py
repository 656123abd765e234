"""Learning from single answers that were liked or not, in one file: KTO (Ethayarajh et al. 2024, arXiv 2402.01306).

Where DPO needs two answers to the same prompt, KTO needs one and a thumb up or down. Its loss asks how far the model
has moved on the whole from its reference, which it estimates from mismatched answers, those to other prompts, over the
whole batch (equation 8). With r of an answer and z0 of the batch,

    r = log p(answer | prompt) - log q(answer | prompt)         p the model, q the reference
    z0 = max(0, mean of r over mismatched answers)              a number: no gradient goes through it
    loss = w_up (1 - sigmoid(beta (r - z0))) of a liked answer, w_down (1 - sigmoid(beta (z0 - r))) of another

An answer and the mismatched one lie behind their prompt as both sides of a preference pair do, so rows, attention and
the reference's log-probabilities are those of DPO.

Legend: Q answers of a micro-batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megaphi.config import FilePath, Range
from megaphi.conversation import Conversation
from megaphi.data.batch import Batch
from megaphi.data.packed.conversations import as_messages, needed, vocabulary_of
from megaphi.data.packed.held_out import split_by_source
from megaphi.data.packed.pair_rows import PairBatch, PairUnit, Unit, pair_batch
from megaphi.data.packed.preference_pairs import PreferencePair
from megaphi.data.packed.rows import MakeBatch
from megaphi.data.text.training_records import Form, SkipReport, read_each, reason_if_too_long, token_ids
from megaphi.engine.objective import LossFunction, Objective
from megaphi.engine.run_config import RunConfig
from megaphi.engine.task import OpenTask
from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.recipes.quickstart import quickstart_dpo
from megaphi.stages.packed_task import PackedTask
from megaphi.stages.prefer import open_pairs
from megaphi.stages.preference import compared, log_probabilities
from megaphi.tokenizer.interface import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedAnswer(PreferencePair):
    """`chosen` is the answer, whatever was thought of it, and `rejected` the mismatched one."""

    liked: bool

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 that also differs where only the judgement does: a run does not go on with others in silence."""
        return hashlib.sha256(f"{self.liked} {super(JudgedAnswer, self).content_hash}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedBatch(PairBatch):
    """Answers of a micro-batch."""

    liked_Q: NDArray[np.bool_]


def judged_batch(
    units: Sequence[Unit], reference_N2: NDArray[np.float64], *, capacity: int, padding_token: int
) -> MakeBatch:
    """Return the function that makes micro-batches of units of judged answers, marking those that were liked."""
    pairs: Any = {unit.number: unit.pair for unit in units if isinstance(unit, PairUnit)}
    make = pair_batch(units, reference_N2, capacity=capacity, padding_token=padding_token)

    def judged(rows: list[list[int]], numbers_B: NDArray[np.int64]) -> Batch:
        batch: Any = make(rows, numbers_B)
        parts = {part.name: getattr(batch, part.name) for part in fields(batch)}
        return JudgedBatch(
            **parts, liked_Q=np.array([pairs[q].liked for q in batch.numbers_Q.tolist()], dtype=np.bool_)
        )

    return judged


class MismatchedAnswers:
    """Measured before each update: the mean of r over mismatched answers, as `loss`."""

    names: tuple[str, ...] = ()

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        assert isinstance(batch, JudgedBatch)
        return compared(batch, chunk, device), partial(self._summed, batch)

    def _summed(self, batch: JudgedBatch, output: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return summed(ratios(batch, output)[:, 1])


@dataclass(frozen=True, kw_only=True)
class KtoObjective:
    """Mean over answers; fulfils the engine's `WholeBatchObjective`."""

    beta: float
    liked_weight: float
    disliked_weight: float
    z0: float = 0.0
    names: tuple[str, ...] = ("z0", "reward")
    unit: str = "KTO loss of an answer"
    beforehand: Objective = field(default_factory=MismatchedAnswers)

    def knowing(self, means: Mapping[str, float]) -> KtoObjective:
        return replace(self, z0=max(0.0, means["loss"]))

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        assert isinstance(batch, JudgedBatch)
        return compared(batch, chunk, device), partial(self._summed_loss, batch)

    def _summed_loss(self, batch: JudgedBatch, output: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        liked_Q = torch.from_numpy(batch.liked_Q).to(output.device)
        moved_Q = ratios(batch, output)[:, 0] - self.z0
        value_Q = torch.sigmoid(self.beta * torch.where(liked_Q, moved_Q, -moved_Q))
        loss_Q = torch.where(liked_Q, self.liked_weight, self.disliked_weight) * (1 - value_Q)
        return summed(loss_Q, torch.full_like(loss_Q, self.z0), self.beta * moved_Q)


def ratios(batch: PairBatch, output: Tensor) -> Tensor:
    """[Q, 2] r of each answer and of its mismatched one."""
    policy_Q2 = log_probabilities(batch, output)
    return policy_Q2 - torch.from_numpy(batch.reference_Q2).to(policy_Q2.device, policy_Q2.dtype)


def summed(loss_Q: Tensor, *measured: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return a micro-batch's results for the engine: the sum, the count, and both with all that is reported."""
    count = torch.tensor(len(loss_Q), device=loss_Q.device, dtype=torch.int)
    sums = torch.stack([loss_Q.detach().sum(), count, *(values_Q.detach().sum() for values_Q in measured)])
    return loss_Q.sum(), count, {"sums": sums.double()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kto(PackedTask):
    """Learn from answers that were liked or not (config section `task`, kind `kto.py:Kto`)."""

    paths: tuple[FilePath, ...]
    """Files, folders or patterns: JSON or Parquet with `prompt`, `completion` (texts, messages or ids) and `label`."""
    validation_paths: tuple[FilePath, ...] = ()
    """The same, held out."""
    beta: Annotated[float, Range(above=0)] = 0.1
    """Strength of the penalty for leaving the reference model."""
    liked_weight: Annotated[float, Range(above=0)] = 1.0
    """Weight of a liked answer (lambda_D of the paper)."""
    disliked_weight: Annotated[float, Range(above=0)] = 1.0
    """Weight of a disliked answer (lambda_U)."""

    @property
    def has_validation(self) -> bool:
        return bool(self.validation_paths)

    def open(self, run: RunConfig, tokenizer: Tokenizer | None) -> OpenTask:
        objective = KtoObjective(beta=self.beta, liked_weight=self.liked_weight, disliked_weight=self.disliked_weight)
        training, _ = read_answers(self.paths, tokenizer, run)
        held_out = {}
        if self.validation_paths:
            held_out = split_by_source(*read_answers(self.validation_paths, tokenizer, run))
        return open_pairs(
            run,
            tokenizer,
            training,
            held_out,
            objective=objective,
            make_batches=judged_batch,
            single_tokens=False,
            reference_folder=None,
        )


FORM = Form(("prompt", "completion", "label"), answers=("completion",))


def read_answers(
    paths: Sequence[str], tokenizer: Tokenizer | None, run: RunConfig
) -> tuple[list[JudgedAnswer], dict[str, int]]:
    """Judged answers, and how many of them each input had; those that do not fit into a row are left out and counted.

    The mismatched answer is the next one to another prompt, as much of it as fits behind the prompt and the answer.
    """
    report, room = SkipReport(), run.batch.sequence_length

    def make(form: Form, record: dict[str, Any]) -> tuple[NDArray[np.int32], NDArray[np.int32], bool] | str:
        prompt, answer = encoded(record)
        reason = reason_if_too_long(len(prompt) + len(answer), sequence_length=room, too_long="skip")
        return reason or (prompt, answer, record["label"])

    def encoded(record: dict[str, Any]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        if not isinstance(record["label"], bool):
            raise InputError("'label' must be true or false")
        prompt, completion = record["prompt"], record["completion"]
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
            largest = vocabulary_of(tokenizer, run.model.vocabulary)
            ids = [token_ids(record[key], key, vocabulary=largest) for key in ("prompt", "completion")]
            return ids[0], ids[1]
        asked = as_messages(prompt, "prompt", speaker="user")
        answer = as_messages(completion, "completion", speaker="assistant")
        rendered = needed(tokenizer).render(Conversation((*asked, *answer)), train_on="last")
        whole, first = np.array(rendered.ids, dtype=np.int32), int(np.flatnonzero(rendered.trained)[0])
        return whole[:first], whole[first:]

    read = [made for _, made in read_each(paths, (FORM,), make, report, bad_records="error")]
    answers = []
    for at, (prompt, answer, liked) in enumerate(read):
        others = (read[(at + step) % len(read)] for step in range(1, len(read)))
        mismatched = next((other for asked, other, _ in others if not np.array_equal(asked, prompt)), None)
        if mismatched is None:
            raise InputError(f"{', '.join(paths)}: all answers are to one prompt, and KTO needs answers to others")
        mismatched = mismatched[: max(1, room - len(prompt) - len(answer))]
        answers.append(JudgedAnswer(prompt=prompt, chosen=answer, rejected=mismatched, liked=liked))
    for line in report.lines():
        logger.info("%s", line)
    return answers, report.kept_of


def quickstart_kto() -> RunConfig:
    """After the story's fine-tuning: `megaphi train examples/kto.py:quickstart_kto task.paths=judged.jsonl`."""
    return replace(quickstart_dpo(), recipe="quickstart_kto", task=Kto(paths=("runs/story/judged.jsonl",)))
