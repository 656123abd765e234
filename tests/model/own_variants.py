"""Variants of attention and a target as a fork would write them, and what the tests' processes compute with them.

Each is one class that says which keys a query may see. Gradients are whole, because the process is alone.

Legend: S sequence, B batch, L keys, H query heads, G key-value groups, K head size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megaphi.data.batch import Batch
from megaphi.engine.objective import NextToken
from megaphi.errors import InputError
from megaphi.model.forward.attention import Attention, Causal, CoreProduct, causally_visible
from megaphi.model.forward.context import ForwardContext
from megaphi.model.forward.segments import CausalAcrossRanks, Segments, row_segments
from megaphi.model.forward.targets import AllLogits, Labels, LogitRows, OutputHead, Targets
from megaphi.parallel.layout import ParallelLayout
from tests.stages.packed_runs import SHAPE, a_step

LENGTH = 24


@dataclass(frozen=True, slots=True)
class SlidingWindow(Attention):
    """Causal, and no further back than `window` tokens, oneself included."""

    window: int

    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        visible_SS = causally_visible(len(query_SBHK), len(key_SBGK), device=query_SBHK.device).triu(1 - self.window)
        return core.product(query_SBHK, key_SBGK, value_SBGK, visible_SS)


class Windowed(NextToken):
    """The fork's objective, which a recipe names: `objective=own_variants.py:Windowed`."""

    def attention(self, batch: Batch, device: torch.device) -> Attention:
        return SlidingWindow(5)


@dataclass(frozen=True, slots=True)
class PrefixVisible(Attention):
    """A prefix LM: the first tokens of every row see each other in both directions, the rest is causal."""

    prefix: int

    def attend(self, query_SBHK: Tensor, key_SBGK: Tensor, value_SBGK: Tensor, core: CoreProduct) -> Tensor:
        visible_SS = causally_visible(len(query_SBHK), len(key_SBGK), device=query_SBHK.device)
        visible_SS[: self.prefix, : self.prefix] = True
        return core.product(query_SBHK, key_SBGK, value_SBGK, visible_SS)


@dataclass(frozen=True, slots=True)
class TeacherDistance(Targets):
    """Another output than ours: squared distance to a teacher's logits [B, S, V], a number for each token."""

    teacher_BSV: Tensor

    def output(self, head: OutputHead, hidden_SBD: Tensor) -> Tensor:
        logits_BSV = head.logits(hidden_SBD).transpose(0, 1)[..., : self.teacher_BSV.shape[2]]
        return (logits_BSV - self.teacher_BSV).square().sum(2)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pass: who sees whom as our object, and written out as a mask."""

    attention: Attention
    visible_BSS: np.ndarray
    positions_S: np.ndarray
    rows: int = 2

    def batch(self) -> tuple[Tensor, Tensor]:
        """Tokens and labels [B, S]."""
        generator = np.random.default_rng(5)
        tokens_BT = torch.from_numpy(generator.integers(SHAPE.vocabulary, size=(self.rows, LENGTH + 1)))
        return tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous()


def _cases() -> dict[str, Case]:
    query, key = np.mgrid[:LENGTH, :LENGTH]
    causal, places = query >= key, np.arange(LENGTH)
    documents_BS = np.stack((places // 7, places >= 23))
    same_document = documents_BS[:, :, None] == documents_BS[:, None]
    table = [[0, 7, 0, 0], [7, 14, 7, 7], [14, 21, 14, 14], [21, 24, 21, 21], [24, 47, 24, 24], [47, 48, 47, 47]]
    # A prompt of 9 tokens and two answers, whose positions go on where the prompt ends.
    answers = [[0, 9, 0, 0], [9, 15, 0, 9], [15, 24, 0, 9]]
    is_prompt, first = places < 9, places < 15
    of_one_text = is_prompt[None] | (first[:, None] == first[None])
    continued = np.where(first, places, places - 6)
    segments = {"segments": (table, causal & same_document, places, 2)}
    segments["prompt and answers"] = (answers, (causal & of_one_text)[None], continued, 1)
    return {
        "causal": Case(attention=Causal(), visible_BSS=np.stack((causal, causal)), positions_S=places),
        "sliding window": Case(
            attention=SlidingWindow(5), visible_BSS=np.stack(2 * [causal & (query - key < 5)]), positions_S=places
        ),
        "prefix LM": Case(
            attention=PrefixVisible(8),
            visible_BSS=np.stack(2 * [causal | ((query < 8) & (key < 8))]),
            positions_S=places,
        ),
        **{
            name: Case(
                attention=Segments.of(np.array(table), length=LENGTH, device=torch.device("cpu")),
                visible_BSS=visible_BSS,
                positions_S=positions_S,
                rows=rows,
            )
            for name, (table, visible_BSS, positions_S, rows) in segments.items()
        },
    }


CASES = _cases()
COMPUTED_BY: dict[str, dict[str, Any]] = {
    "fused": {},
    "softmax": {"attention": "softmax"},
    "loss in chunks": {"loss_chunk_tokens": 5},
    "reference": {"kernels": "reference"},
}
Found = tuple[float, dict[str, np.ndarray]]


def losses_and_gradients(checkpoint: str) -> dict[tuple[str, str, str], Found]:
    """Mean loss and every gradient by (case, what computes it, recompute), from the weights of `checkpoint`."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.model.language_model import build_model
    from megaphi.parallel.world import start_world

    reader, layout, found = open_weights(checkpoint), ParallelLayout(), {}
    start_world(layout, seed=0)
    for computed_by, recompute in product(COMPUTED_BY, ("none", "selective", "full")):
        architecture = replace(SHAPE, **COMPUTED_BY[computed_by])
        (model,) = build_model(architecture, layout, sequence_length=LENGTH, seed=0, recompute=recompute)
        shares = _load(model, reader)
        for name, case in CASES.items():
            if name == "prompt and answers" and computed_by == "reference":
                continue  # Megatron's own positions count from the start of a row
            model.zero_grad()
            loss = _loss(model, case)
            loss.backward()
            found[name, computed_by, recompute] = loss.item(), _gradients(shares)
    return found


def _load(model: Any, reader: Any) -> list[Any]:
    """The shares of the model's parameters, filled."""
    from megaphi.engine.saving.shards import fill_parameters
    from megaphi.model.initialize import parameter_shares

    fill_parameters([model], reader)
    return list(parameter_shares(model))


def _gradients(shares: list[Any]) -> dict[str, np.ndarray]:
    return {share.name: share.parameter.grad.double().numpy() for share in shares}


def _loss(model: Any, case: Case) -> Tensor:
    tokens_BS, labels_BS = case.batch()
    positions_BS = torch.from_numpy(case.positions_S)[None] if case.rows == 1 else None
    context = ForwardContext(attention=case.attention, targets=Labels(labels_BS), positions_BS=positions_BS)
    return model(tokens_BS, context).mean()


def teacher_logits() -> Tensor:
    return torch.from_numpy(np.random.default_rng(6).standard_normal((2, LENGTH, SHAPE.vocabulary), dtype=np.float32))


def distance_and_gradients(checkpoint: str) -> Found:
    """Mean distance to the teacher, and every gradient."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.model.language_model import build_model
    from megaphi.parallel.world import start_world

    start_world(ParallelLayout(), seed=0)
    (model,) = build_model(SHAPE, ParallelLayout(), sequence_length=LENGTH, seed=0)
    shares = _load(model, open_weights(checkpoint))
    tokens_BS, _ = CASES["causal"].batch()
    loss = model(tokens_BS, ForwardContext(attention=Causal(), targets=TeacherDistance(teacher_logits()))).mean()
    loss.backward()
    return loss.item(), _gradients(shares)


def windowed_step(folder: str, checkpoint: str, layout: ParallelLayout) -> float:
    """The loss of one update by the fork's objective, in any layout; its gradients are in `folder`."""
    tokens_BS, labels_BS = (part.numpy() for part in CASES["sliding window"].batch())
    rows = [
        Batch(
            tokens_BS=tokens_BS[row : row + 1],
            labels_BS=labels_BS[row : row + 1],
            loss_mask_BS=np.ones((1, LENGTH), dtype=np.float32),
            document_ids_BS=None,
            sample_numbers_B=np.array([row]),
        )
        for row in range(len(tokens_BS))
    ]
    return a_step(folder, checkpoint, layout, rows, Windowed())


def refusals() -> dict[str, str]:
    """Refusal of each model of a pass that it would compute as something else."""
    from megaphi.model.language_model import build_model
    from megaphi.model.padded_model import PaddedModel
    from megaphi.parallel.world import pretended_world

    tokens_BS = torch.zeros(1, 8, dtype=torch.int64)
    device = torch.device("cpu")
    table = Segments.of(row_segments(1, length=8), length=8, device=device)

    def said(model: PaddedModel, attention: Attention, targets: Targets) -> str:
        try:
            model(tokens_BS, ForwardContext(attention=attention, targets=targets))
        except (InputError, ValueError) as error:
            return str(error)
        return ""

    found: dict[str, str] = {}
    spread = ParallelLayout(context=2, data=1)
    with pretended_world(spread, rank=1):
        for kernels in ("fused", "reference"):
            (model,) = build_model(replace(SHAPE, kernels=kernels), spread, sequence_length=16, seed=0)  # pyright: ignore
            for attention in (Causal(), table, SlidingWindow(3)):
                found[f"{kernels}, {type(attention).__name__}"] = said(model, attention, AllLogits())
            shared = Segments.of(row_segments(1, length=16), length=16, device=device, group=model.pg_collection.cp)
            for attention in (shared, CausalAcrossRanks(shared)):
                assert said(model, attention, AllLogits()) == ""
    split = ParallelLayout(tensor=2, data=1, sequence_parallel=True)
    with pretended_world(split, rank=1):
        (model,) = build_model(SHAPE, split, sequence_length=16, seed=0)
        found["sequence parallel, rows"] = said(model, Causal(), LogitRows(torch.tensor([3])))
        assert said(model, Causal(), AllLogits()) == ""
    with pretended_world(ParallelLayout(data=1), rank=0):
        (model,) = build_model(replace(SHAPE, kernels="reference"), ParallelLayout(), sequence_length=16, seed=0)
        found["reference, rows"] = said(model, Causal(), LogitRows(torch.tensor([3])))
        model.attends_by_itself = True  # as layers of Transformer Engine do, which are not installed here
        found["transformer_engine"] = said(model, table, AllLogits())
    return found
