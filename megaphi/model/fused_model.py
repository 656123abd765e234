"""Megatron's GPT model with our rotary table at its bottom and our cross-entropy at its top.

This saves work in every layer and for every token: cos and sin are computed once per sequence length instead of in
each layer, and the loss reads the logits once and overwrites them with their gradient. With `loss_chunk_tokens` the
output layer and the loss process the tokens in chunks, so that logits of a whole micro-batch never exist. Attention and
output of a pass are chosen by its `ForwardContext`.

Legend: S sequence, B batch, T tokens of a flat row, D width, V this rank's part of the vocabulary, K numbers of a head
that rotary positions turn, P pairs, R graded tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import VocabParallelEmbedding
from torch import Tensor

from megaphi.kernels.cross_entropy import cross_entropy, linear_cross_entropy
from megaphi.kernels.embedding import embedding
from megaphi.kernels.logit_difference import logit_difference
from megaphi.kernels.rotary import rotary_table
from megaphi.model.architecture import Architecture
from megaphi.model.forward.context import ForwardContext
from megaphi.model.forward.context_chunks import chunks_of
from megaphi.model.fused_layer import column_parallel_product
from megaphi.model.honoured import refuse_other_arguments
from megaphi.model.padded_model import PaddedModel

_HONOURED_ARGUMENTS = (
    "config",
    "transformer_layer_spec",
    "max_sequence_length",
    "pre_process",
    "post_process",
    "parallel_output",
    "pg_collection",
    "vp_stage",
)
"""Arguments of Megatron's GPT model that may have any value; the others must be left at their defaults."""


class RotaryTable(torch.nn.Module):
    """cos and sin of this context rank's positions; Megatron's own class gives angles, to every layer."""

    def __init__(self, turned: int, *, base: float, longest: int, context_group: Any) -> None:
        """`turned`: numbers of each head that its position turns."""
        super().__init__()
        self.turned, self.base, self.longest = turned, base, longest
        self.context_group = context_group
        self.tables: dict[int, Tensor] = {}

    def forward(self, length: int, positions_BS: Tensor | None) -> Tensor:
        """cos and sin, [2, S, K / 2], of this rank's tokens in rows of `length` tokens.

        A single row has the positions `positions_BS`, if given; otherwise positions count from the start of the row.
        """
        if positions_BS is not None and len(positions_BS) == 1:
            return self._table(self.longest)[:, positions_BS[0]]
        table = self._table(length)
        ranks, rank = self.context_group.size(), self.context_group.rank()
        if ranks == 1:
            return table
        chunks = table.chunk(2 * ranks, dim=1)
        return torch.cat([chunks[number] for number in chunks_of(rank, ranks=ranks)], dim=1)

    def _table(self, length: int) -> Tensor:
        if length not in self.tables:
            device: Any = torch.cuda.current_device()
            table = torch.stack(rotary_table(length, self.turned, base=self.base, device=device))
            # Lengths rarely change: the latest is enough, and the longest, which captured graphs read (decode_step.py).
            self.tables = {kept: self.tables[kept] for kept in self.tables if kept == self.longest} | {length: table}
        return self.tables[length]


class _BesideOutputLayer(torch.nn.Module):
    """A use of the output layer's weight that does not need the logits of all tokens.

    It is a module that holds the weight as well, because Megatron's data parallelism waits for a weight to be gathered
    when a module that holds it is called (tests/model/test_gathering.py).
    """

    def __init__(self, weight_VD: torch.nn.Parameter, *, group: Any) -> None:
        super().__init__()
        self.weight, self.group = weight_VD, group


class LossesInChunks(_BesideOutputLayer):
    """Losses through the output layer, `chunk_tokens` tokens at a time; 0: all at once."""

    def __init__(self, weight_VD: torch.nn.Parameter, *, group: Any, vocabulary: int, chunk_tokens: int) -> None:
        super().__init__(weight_VD, group=group)
        self.vocabulary, self.chunk_tokens = vocabulary, chunk_tokens

    def forward(self, hidden_RD: Tensor, labels_R: Tensor) -> Tensor:
        return linear_cross_entropy(
            hidden_RD,
            self.weight,
            labels_R,
            group=self.group,
            vocabulary=self.vocabulary,
            chunk_tokens=self.chunk_tokens or len(labels_R),
        )


class Margins(_BesideOutputLayer):
    """Differences between two tokens' logits, from two rows of the weight."""

    def forward(self, hidden_PD: Tensor, tokens_P: Tensor, others_P: Tensor) -> Tensor:
        return logit_difference(hidden_PD, self.weight, tokens_P, others_P, group=self.group)


def _looked_up(layer: VocabParallelEmbedding, tokens_BS: Tensor) -> Tensor:
    """The forward pass of Megatron's embedding by our `embedding`."""
    is_cut = layer.num_embeddings_per_partition < layer.num_embeddings
    rows = embedding(tokens_BS, layer.weight, first=layer.vocab_start_index if is_cut else None)
    if layer.reduce_scatter_embeddings:
        return reduce_scatter_to_sequence_parallel_region(rows.transpose(0, 1).contiguous(), group=layer.tp_group)
    return reduce_from_tensor_model_parallel_region(rows, group=layer.tp_group)


class FusedModel(PaddedModel):
    """A pipeline stage's part of the model on fused kernels; on the last stage also an `OutputHead`."""

    def __init__(self, *, architecture: Architecture, **arguments: Any) -> None:
        refuse_other_arguments(GPTModel.__init__, arguments, _HONOURED_ARGUMENTS, by=type(self).__name__)
        super().__init__(architecture=architecture, **arguments)
        if self.config.recompute_granularity != "full":  # which would keep two tensors between layers
            for layer in self.decoder.layers[:-1]:
                layer.leaves_sum = True  # pyright: ignore[reportArgumentType]
        # Megatron builds the embedding and the output layer without a spec: their products are replaced by ours.
        if self.pre_process:
            embedding_layer: Any = self.embedding.word_embeddings
            embedding_layer.forward = partial(_looked_up, embedding_layer)
        if self.post_process:
            weight: Any = self.output_layer.weight if self._tied_weight is None else self._tied_weight
            group = self.pg_collection.tp
            self.losses_in_chunks = LossesInChunks(
                weight, group=group, vocabulary=self.vocabulary, chunk_tokens=architecture.loss_chunk_tokens
            )
            self.margins = Margins(weight, group=group)
            self.output_layer._forward_impl = column_parallel_product
        self.rotary_pos_emb = RotaryTable(
            architecture.turned_head_size,
            base=architecture.rotary_base,
            longest=self.max_sequence_length,
            context_group=self.pg_collection.cp,
        )

    def forward(self, tokens_BS: Tensor, context: ForwardContext) -> Tensor:
        """Return the output of `context.targets`; on stages before the last, hidden states [S, B, D]."""
        self._check_context(context)
        length = tokens_BS.shape[1] * self.config.context_parallel_size
        hidden_SBD = self.decoder(
            hidden_states=self.embedding(input_ids=tokens_BS, position_ids=None) if self.pre_process else None,
            attention_mask=None,
            rotary_pos_emb=self.rotary_pos_emb(length, context.positions_BS),
            attention_bias=context.attention,
        )
        return context.targets.output(self, hidden_SBD) if self.post_process else hidden_SBD

    def logits(self, hidden_SBD: Tensor) -> Tensor:
        return self.output_layer(hidden_SBD, weight=self._tied_weight)[0]

    def losses(self, hidden_SBD: Tensor, labels_BS: Tensor) -> Tensor:
        """Losses of the labels; the backward pass overwrites the logits, where they exist, with their gradient."""
        labels_T = labels_BS.t().reshape(-1)
        if self.losses_in_chunks.chunk_tokens:
            losses_T = self.losses_in_chunks(self.whole_sequence(hidden_SBD).flatten(0, 1), labels_T)
        else:
            logits_TV = self.logits(hidden_SBD).flatten(0, 1)
            losses_T = cross_entropy(logits_TV, labels_T, group=self.pg_collection.tp, in_place=True)
        return losses_T.view(labels_BS.t().shape).t().contiguous()

    def whole_sequence(self, hidden_SBD: Tensor) -> Tensor:
        """Hidden states of all tokens, which every tensor rank multiplies with its part of the output matrix."""
        group = self.pg_collection.tp
        if self.config.sequence_parallel:
            return gather_from_sequence_parallel_region(hidden_SBD, group=group)  # backward: reduce-scatter
        return copy_to_tensor_model_parallel_region(hidden_SBD, group=group)  # backward: all-reduce

    @property
    def _tied_weight(self) -> Tensor | None:
        """The output layer's weight if it is the embedding's, else None."""
        return self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
