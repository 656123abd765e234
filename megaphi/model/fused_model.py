"""Megatron's GPT model with our rotary table at its bottom and our cross-entropy at its top.

Two things that every layer, or every token, would otherwise pay for: cos and sin are computed once for a sequence
length instead of in each layer, and the loss reads the logits once and leaves their gradient in their place. With
`loss_chunk_tokens` the output layer and the loss go through the tokens in chunks, so that logits of a whole micro-batch
never exist.

Legend: S sequence, B batch, D width, V this rank's part of the vocabulary, K head size.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region, gather_from_sequence_parallel_region
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from megaphi.kernels.cross_entropy import cross_entropy, linear_cross_entropy
from megaphi.kernels.rotary import rotary_table
from megaphi.model.padded_model import PaddedModel


class RotaryTable(RotaryEmbedding):
    """cos and sin of this context rank's positions, where Megatron's own class gives angles to every layer."""

    def __init__(self, config: TransformerConfig, *, base: float, context_group: Any) -> None:
        super().__init__(
            config.kv_channels,  # pyright: ignore[reportArgumentType]
            rotary_percent=1.0,
            rotary_base=base,  # pyright: ignore[reportArgumentType]
            use_cpu_initialization=config.use_cpu_initialization,  # pyright: ignore[reportArgumentType]
            cp_group=context_group,
        )
        self.head_size: int = config.kv_channels  # pyright: ignore[reportAttributeAccessIssue]
        self.base = base
        self.context_group = context_group
        self.tables: dict[int, Tensor] = {}

    def forward(self, max_seq_len: int, **_: Any) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[2, S, K / 2] for a whole sequence of `max_seq_len`; under context parallelism chunks r and 2n-1-r of 2n."""
        if max_seq_len not in self.tables:
            self.tables = {max_seq_len: self._table(max_seq_len)}  # lengths rarely change: the newest is enough
        return self.tables[max_seq_len]

    def _table(self, length: int) -> Tensor:
        device: Any = torch.cuda.current_device()
        table = torch.stack(rotary_table(length, self.head_size, base=self.base, device=device))
        ranks, rank = self.context_group.size(), self.context_group.rank()
        if ranks == 1:
            return table
        chunks = table.chunk(2 * ranks, dim=1)
        return torch.cat((chunks[rank], chunks[2 * ranks - 1 - rank]), dim=1)


class FusedModel(PaddedModel):
    """A pipeline stage's part of the model, all of it on fused kernels."""

    def __init__(self, *, rotary_base: float, loss_chunk_tokens: int, **arguments: Any) -> None:
        super().__init__(position_embedding_type="rope", rotary_base=rotary_base, **arguments)  # pyright: ignore
        self.loss_chunk_tokens = loss_chunk_tokens
        self.rotary_pos_emb = RotaryTable(self.config, base=rotary_base, context_group=self.pg_collection.cp)

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Losses [B, S] of labels [B, S] and this rank's logits [S, B, V], which the gradient will overwrite."""
        labels_T = labels.t().reshape(-1)
        losses_T = cross_entropy(logits.flatten(0, 1), labels_T, group=self.pg_collection.tp, in_place=True)
        return losses_T.view(logits.shape[:2]).t().contiguous()

    def _postprocess(self, hidden_states: Tensor, *arguments: Any, labels: Tensor | None = None, **rest: Any) -> Tensor:
        if labels is None or not self.post_process or not self.loss_chunk_tokens:
            return super()._postprocess(hidden_states, *arguments, labels=labels, **rest)
        group, weight_VD = self.pg_collection.tp, self.output_layer.weight
        assert weight_VD is not None
        if self.config.sequence_parallel:
            hidden_SBD = gather_from_sequence_parallel_region(hidden_states, group=group)  # backward: reduce-scatter
        else:
            hidden_SBD = copy_to_tensor_model_parallel_region(hidden_states, group=group)  # backward: all-reduce
        losses_T = linear_cross_entropy(
            hidden_SBD.flatten(0, 1),
            weight_VD,
            labels.t().reshape(-1),
            group=group,
            vocabulary=self.vocabulary,
            chunk_tokens=self.loss_chunk_tokens,
            weight_gradient_VD=getattr(weight_VD, "main_grad", None),  # in training, Megatron's buffer
        )
        return losses_T.view(hidden_SBD.shape[:2]).t().contiguous()
