"""Megatron's GPT model of a vocabulary that the tensor ranks need not divide, called with a `ForwardContext`.

Each rank holds equally many rows of the embedding and of the output matrix, and the last rows of the last ranks are
padding: zeros that belong to no token. Their logits are set to the lowest number there is, so that their share of the
softmax, and with it every gradient to and from them, is exactly zero: training leaves them zero.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from megaphi.kernels.cross_entropy import cross_entropy, hide_padding
from megaphi.model.architecture import Architecture
from megaphi.model.forward.attention import Causal
from megaphi.model.forward.context import ForwardContext
from megaphi.model.forward.targets import AllLogits, Labels
from megaphi.parallel.layout import padded_vocabulary


class PaddedModel(GPTModel):
    """A pipeline stage's part of the model; padding has no influence on the loss."""

    def __init__(self, *, architecture: Architecture, **arguments: Any) -> None:
        ranks = parallel_state.get_tensor_model_parallel_world_size()
        super().__init__(
            vocab_size=padded_vocabulary(architecture.vocabulary, ranks),
            share_embeddings_and_output_weights=architecture.tied_embeddings,
            position_embedding_type="rope",
            rotary_percent=architecture.turned_head_size / architecture.head_size,
            rotary_base=architecture.rotary_base,  # pyright: ignore[reportArgumentType]
            **arguments,
        )
        self.architecture = architecture
        self.attends_by_itself = architecture.kernels == "transformer_engine"
        """True where the layers are not ours: they compute causal attention and no other."""
        self.vocabulary = architecture.vocabulary
        """Number of tokens; Megatron's `vocab_size` counts the padding too."""
        if self.post_process and self.vocab_size > self.vocabulary:
            self.output_layer.register_forward_hook(self._hide_padding)

    def forward(self, tokens_BS: Tensor, context: ForwardContext) -> Tensor:  # pyright: ignore
        """Run Megatron's own forward pass, in which positions always count from the start of a row."""
        self._check_context(context)
        targets = context.targets
        if not isinstance(targets, Labels | AllLogits):
            name = type(targets).__name__
            raise ValueError(f"model.kernels=reference gives losses of labels or all logits, no {name}")
        arguments: dict[str, Any] = {
            "input_ids": tokens_BS,
            "position_ids": context.positions_BS,
            "attention_mask": None,
            "labels": targets.labels_BS if isinstance(targets, Labels) else None,
        }
        if not self.attends_by_itself:
            # Not as the mask: recomputation saves the mask as a tensor, and passes this on unchanged.
            arguments["extra_block_kwargs"] = {"attention_bias": context.attention}
        return super().forward(**arguments)

    def _check_context(self, context: ForwardContext) -> None:
        """Refuse attention or targets that would silently be computed as something else."""
        ranks, attention = self.config.context_parallel_size, context.attention
        name = type(attention).__name__
        if attention.context_ranks != ranks:
            seen = f"{attention.context_ranks} context rank{'s' * (attention.context_ranks > 1)}"
            raise ValueError(f"{name} sees {seen} of a sequence on {ranks}")
        if context.targets.picks_tokens and self.config.sequence_parallel:
            raise ValueError(
                f"{type(context.targets).__name__} picks tokens of a row, of which sequence parallelism gives every"
                " tensor rank a share: use layout.sequence_parallel=false"
            )
        if self.attends_by_itself and not isinstance(attention, Causal):
            raise ValueError(f"model.kernels=transformer_engine computes causal attention, no {name}")

    def _is_in_embd_group(self) -> bool:
        """Keep Megatron from copying a tied embedding to the last stage: both stages draw or load it themselves."""
        return False

    def _hide_padding(self, _: torch.nn.Module, __: tuple[Any, ...], output: tuple[Tensor, Tensor | None]) -> None:
        hide_padding(output[0], vocabulary=self.vocabulary, group=self.pg_collection.tp)


class TransformerEngineModel(PaddedModel):
    """A pipeline stage's part of the model on Transformer Engine's layers, with our loss at its top.

    Megatron's own loss keeps a copy of the logits in fp32; ours overwrites them with their gradient.
    """

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Losses `[B, S]` of labels `[B, S]`, from logits `[S, B, V]`; called by Megatron's forward pass."""
        losses_T = cross_entropy(
            logits.flatten(0, 1), labels.t().reshape(-1), group=self.pg_collection.tp, in_place=True
        )
        return losses_T.view(labels.t().shape).t().contiguous()
