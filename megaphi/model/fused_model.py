"""Megatron's GPT model with our rotary table at its bottom and our cross-entropy at its top.

Two things that every layer, or every token, would otherwise pay for: cos and sin are computed once for a sequence
length instead of in each layer, and the loss reads the logits once and leaves their gradient in their place. With
`loss_chunk_tokens` the output layer and the loss go through the tokens in chunks, so that logits of a whole micro-batch
never exist. And two that later stages ask for: passes over parts of several texts, and the difference of two tokens'
logits, which needs no softmax.

Legend: S sequence, B batch, T tokens of a flat row, D width, V this rank's part of the vocabulary, K head size, P
pairs, R graded tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region, gather_from_sequence_parallel_region
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from megaphi.kernels.cross_entropy import cross_entropy, linear_cross_entropy
from megaphi.kernels.logit_difference import logit_difference
from megaphi.kernels.rotary import rotary_table
from megaphi.model.honoured import refuse_other_arguments
from megaphi.model.padded_model import PaddedModel
from megaphi.model.paged_cache import CachedPass


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What is wanted of a flat row instead of the loss of every token."""

    rows_R: Tensor
    """Places whose next token is graded."""
    targets_R: Tensor
    """Those tokens."""
    places_P: Tensor
    """Places where the logits of two tokens are compared."""
    accepted_P: Tensor
    rejected_P: Tensor


_HONOURED_ARGUMENTS = (
    "config",
    "transformer_layer_spec",
    "vocabulary",
    "max_sequence_length",
    "pre_process",
    "post_process",
    "parallel_output",
    "share_embeddings_and_output_weights",
    "pg_collection",
    "vp_stage",
)
"""Arguments of Megatron's GPT model that may have any value; the others must be left at their defaults."""


class RotaryTable(RotaryEmbedding):
    """cos and sin of this context rank's positions, where Megatron's own class gives angles to every layer."""

    def __init__(self, config: TransformerConfig, *, base: float, longest: int, context_group: Any) -> None:
        super().__init__(
            config.kv_channels,  # pyright: ignore[reportArgumentType]
            rotary_percent=1.0,
            rotary_base=base,  # pyright: ignore[reportArgumentType]
            use_cpu_initialization=config.use_cpu_initialization,  # pyright: ignore[reportArgumentType]
            cp_group=context_group,
        )
        self.head_size: int = config.kv_channels  # pyright: ignore[reportAttributeAccessIssue]
        self.base, self.longest = base, longest
        self.context_group = context_group
        self.tables: dict[int, Tensor] = {}
        self.positions_T: Tensor | None = None
        """Where each token of the next pass stands in its text; none: the pass is one text from its first token on."""

    def forward(self, max_seq_len: int, **_: Any) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[2, S, K / 2] for a whole sequence of `max_seq_len`; under context parallelism chunks r and 2n-1-r of 2n."""
        if self.positions_T is not None:
            return self._table(self.longest)[:, self.positions_T]
        table = self._table(max_seq_len)
        ranks, rank = self.context_group.size(), self.context_group.rank()
        if ranks == 1:
            return table
        chunks = table.chunk(2 * ranks, dim=1)
        return torch.cat((chunks[rank], chunks[2 * ranks - 1 - rank]), dim=1)

    def _table(self, length: int) -> Tensor:
        if length not in self.tables:
            device: Any = torch.cuda.current_device()
            table = torch.stack(rotary_table(length, self.head_size, base=self.base, device=device))
            self.tables = {length: table}  # lengths rarely change: the newest is enough
        return self.tables[length]


class OutputWithoutLogits(torch.nn.Module):
    """What is computed from the output layer's weight where logits of all tokens are not wanted.

    A module that holds the weight too, because a weight may be used only inside the call of a module that holds it:
    that is where Megatron's data parallelism waits until the weight has been gathered (tests/model/test_gathering.py).
    """

    def __init__(self, weight_VD: torch.nn.Parameter, *, group: Any, vocabulary: int, chunk_tokens: int) -> None:
        super().__init__()
        self.weight = weight_VD
        self.group, self.vocabulary, self.chunk_tokens = group, vocabulary, chunk_tokens

    def forward(self, hidden_TD: Tensor, wanted: Tensor | Comparison) -> Tensor:
        """Losses [T] of labels [T]; or of a comparison losses [R] of graded tokens, and then margins [P]."""
        if isinstance(wanted, Tensor):
            return self._losses(hidden_TD, wanted)
        margins_P = logit_difference(
            hidden_TD[wanted.places_P],
            self.weight,
            wanted.accepted_P,
            wanted.rejected_P,
            group=self.group,
            weight_gradient_VD=self._gradient,
        )
        if not len(wanted.rows_R):
            return margins_P
        return torch.cat((self._losses(hidden_TD[wanted.rows_R], wanted.targets_R), margins_P))

    def _losses(self, hidden_TD: Tensor, labels_T: Tensor) -> Tensor:
        """Losses through the output layer in chunks."""
        return linear_cross_entropy(
            hidden_TD,
            self.weight,
            labels_T,
            group=self.group,
            vocabulary=self.vocabulary,
            chunk_tokens=self.chunk_tokens or len(labels_T),
            weight_gradient_VD=self._gradient,
        )

    @property
    def _gradient(self) -> Tensor | None:
        """In training, Megatron's buffer."""
        return getattr(self.weight, "main_grad", None)


class FusedModel(PaddedModel):
    """A pipeline stage's part of the model, all of it on fused kernels."""

    def __init__(self, *, rotary_base: float, loss_chunk_tokens: int, **arguments: Any) -> None:
        refuse_other_arguments(GPTModel.__init__, arguments, _HONOURED_ARGUMENTS, by=type(self).__name__)
        super().__init__(position_embedding_type="rope", rotary_base=rotary_base, **arguments)  # pyright: ignore
        self.loss_chunk_tokens = loss_chunk_tokens
        self.comparison: Comparison | None = None
        if self.post_process:
            tied = self.share_embeddings_and_output_weights
            weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
            self.output_without_logits = OutputWithoutLogits(
                weight,  # pyright: ignore[reportArgumentType]
                group=self.pg_collection.tp,
                vocabulary=self.vocabulary,
                chunk_tokens=loss_chunk_tokens,
            )
        self.rotary_pos_emb = RotaryTable(
            self.config, base=rotary_base, longest=self.max_sequence_length, context_group=self.pg_collection.cp
        )

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        attention_mask: Any,
        *,
        comparison: Comparison | None = None,
        **rest: Any,
    ) -> Tensor:
        """Megatron's, with three additions.

        One row (B = 1) may consist of parts of several texts: then `position_ids` [1, S] says where in its text each
        token stands. In several rows positions count from the start of the row, whatever `position_ids` says: rotary
        positions are relative. With `comparison` the result is [R + P], losses of graded tokens and then margins. Of a
        `CachedPass` logits are [1, W, V], of its `logit_rows_W` only.
        """
        flat = position_ids is not None and len(position_ids) == 1
        self.rotary_pos_emb.positions_T = position_ids[0] if flat else None  # pyright: ignore[reportOptionalSubscript]
        self.comparison = comparison
        return super().forward(input_ids, position_ids, attention_mask, **rest)  # pyright: ignore[reportArgumentType]

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Losses [B, S] of labels [B, S] and this rank's logits [S, B, V], which the gradient will overwrite."""
        labels_T = labels.t().reshape(-1)
        losses_T = cross_entropy(logits.flatten(0, 1), labels_T, group=self.pg_collection.tp, in_place=True)
        return losses_T.view(logits.shape[:2]).t().contiguous()

    def _postprocess(self, hidden_states: Tensor, *arguments: Any, labels: Tensor | None = None, **rest: Any) -> Tensor:
        if not self.post_process:
            return hidden_states
        if self.comparison is not None:
            return self.output_without_logits(self._whole_sequence(hidden_states).squeeze(1), self.comparison)
        if labels is not None and self.loss_chunk_tokens:
            hidden_SBD = self._whole_sequence(hidden_states)
            losses_T = self.output_without_logits(hidden_SBD.flatten(0, 1), labels.t().reshape(-1))
            return losses_T.view(hidden_SBD.shape[:2]).t().contiguous()
        if isinstance(rest["attention_mask"], CachedPass):
            hidden_states = hidden_states[rest["attention_mask"].logit_rows_W]
        return super()._postprocess(hidden_states, *arguments, labels=labels, **rest)

    def _whole_sequence(self, hidden_states: Tensor) -> Tensor:
        """What every tensor rank multiplies with its part of the output matrix."""
        group = self.pg_collection.tp
        if self.config.sequence_parallel:
            return gather_from_sequence_parallel_region(hidden_states, group=group)  # backward: reduce-scatter
        return copy_to_tensor_model_parallel_region(hidden_states, group=group)  # backward: all-reduce
