"""The sides that mfu.py measures, each of which trains the same slice of the 14B: megaphi, plain Megatron-Core (its
local spec, as far as it needs neither Transformer Engine nor Apex), and transformers with SDPA and torch.compile.

All in bf16 with AdamW, one device, gradients of many micro-batches added up before an update. megaphi and Megatron-Core
keep fp32 gradients and main weights; transformers is as a user would have it, everything in bf16, which is less work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from megaphi.data.batch import Batch, BatchShape
from megaphi.engine.run_config import NumericPrecision, RunConfig, check
from megaphi.model.architecture import PHI4_14B, Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.world import World
from megaphi.recipes.phi4_14b import phi4_14b_pretrain

RATE = 1e-5
Step = Callable[[Sequence[Batch]], float]
"""Train one step on these micro-batches, return its loss."""


@dataclass(frozen=True)
class Slice:
    """A part of the 14B that one device holds, with optimizer state."""

    name: str
    model: Architecture
    sequence_length: int = 4_096


SLICES = (
    Slice("6 layers, whole vocabulary", replace(PHI4_14B, layers=6)),
    Slice("8 layers, vocabulary of 8,192", replace(PHI4_14B, layers=8, vocabulary=8_192)),
)
_TINY = replace(PHI4_14B, layers=2, hidden=64, feed_forward=192, heads=4, key_value_groups=2, head_size=16)
TINY_SLICES = (
    Slice("tiny, larger vocabulary", replace(_TINY, vocabulary=2_048), sequence_length=64),
    Slice("tiny, smaller vocabulary", replace(_TINY, layers=3, vocabulary=256), sequence_length=64),
)


def run_of(part: Slice, *, micro_batch: int, micro_batches: int) -> RunConfig:
    """The 14B's pretraining run, cut down to the slice on one device."""
    run = replace(
        phi4_14b_pretrain(),
        layout=ParallelLayout(),
        model=part.model,
        batch=BatchShape(
            sequence_length=part.sequence_length, global_batch=micro_batch * micro_batches, micro_batch=micro_batch
        ),
        precision=NumericPrecision(parameters="bfloat16"),
    )
    return check(run, world_size=1)


def megaphi_side(run: RunConfig, world: World) -> Step:
    """Our engine as `megaphi train` runs it."""
    from megaphi.engine.model.training_model import build_training_model, check_machine
    from megaphi.engine.training.train_step import train_step

    print(f"attention by {check_machine(run, world)}")
    model = build_training_model(run, world)
    return lambda batches: train_step(model, batches, learning_rate=RATE).loss


def megatron_side(run: RunConfig, world: World) -> Step:
    """Megatron-Core's own layers, loss and schedule, under its DistributedDataParallel and distributed optimizer."""
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from megaphi.engine.model.optimizer import build_optimizer, set_rates

    config: Any = _megatron_config(run.model)
    module = GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=run.model.vocabulary,
        max_sequence_length=run.batch.sequence_length,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    )
    settings = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
    model = DistributedDataParallel(config, settings, module.bfloat16().to(world.device))
    config.finalize_model_grads_func = finalize_model_grads
    optimizer = build_optimizer(run.optimizer, [model], parameters="bfloat16", overlap=False)

    def forward_step(batches: Any, chunk: torch.nn.Module) -> tuple[torch.Tensor, Callable[..., Any]]:
        tokens, labels = (values.to(world.device, non_blocking=True) for values in next(batches))
        positions = torch.arange(tokens.shape[1], device=world.device).expand_as(tokens)
        return chunk(tokens, positions, None, labels=labels), lambda losses: (losses.mean(), {"loss": losses.mean()})

    def step(batches: Sequence[Batch]) -> float:
        model.zero_grad_buffer()
        optimizer.zero_grad()
        reports = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter([_tensors(batch) for batch in batches]),
            model=model,
            num_microbatches=len(batches),
            seq_length=run.batch.sequence_length,
            micro_batch_size=batches[0].tokens_BS.shape[0],
            forward_only=False,
        )
        set_rates(optimizer, learning_rate=RATE, weight_decay=run.optimizer.weight_decay)
        optimizer.step()
        return torch.stack([report["loss"].detach() for report in reports]).mean().item()

    return step


def _megatron_config(model: Architecture) -> Any:
    """Megatron's configuration of the slice, with those fusions that need no extension."""
    from megatron.core.transformer import TransformerConfig

    return TransformerConfig(
        num_layers=model.layers,
        hidden_size=model.hidden,
        ffn_hidden_size=model.feed_forward,
        num_attention_heads=model.heads,
        num_query_groups=model.key_value_groups,
        kv_channels=model.head_size,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bf16=True,
        params_dtype=torch.bfloat16,
        pipeline_dtype=torch.bfloat16,
        bias_activation_fusion=True,
        bias_dropout_fusion=True,
        cross_entropy_loss_fusion=True,
        masked_softmax_fusion=False,  # these three want Apex or Transformer Engine
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
    )


def transformers_side(run: RunConfig, world: World) -> Step:
    """Phi3ForCausalLM in bf16 with SDPA, compiled on a GPU, and torch's fused AdamW."""
    from transformers import Phi3ForCausalLM

    config = huggingface_config(run.model, context=run.batch.sequence_length)
    with torch.device(world.device):
        module: Any = Phi3ForCausalLM(config).bfloat16().train()
    adam = torch.optim.AdamW(module.parameters(), lr=RATE, fused=True)
    # Each micro-batch of its own shape is compiled for it: otherwise the second would get slower, general code.
    forward = torch.compile(module, dynamic=False) if world.device.type == "cuda" else module

    def step(batches: Sequence[Batch]) -> float:
        adam.zero_grad()
        total = torch.zeros((), device=world.device)
        for batch in batches:
            tokens, labels = (values.to(world.device, non_blocking=True) for values in _tensors(batch))
            logits = forward(tokens, use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) / len(batches)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(module.parameters(), run.optimizer.clip_gradient_norm)
        adam.step()
        return total.item()

    return step


def huggingface_config(model: Architecture, *, context: int) -> Any:
    """transformers' configuration of a model without tokens that begin or end a text."""
    from transformers import Phi3Config

    return Phi3Config(
        vocab_size=model.vocabulary,
        hidden_size=model.hidden,
        intermediate_size=model.feed_forward,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.key_value_groups,
        max_position_embeddings=context,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
    )


def _tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(batch.tokens_BS), torch.from_numpy(batch.labels_BS)


DETERMINISTIC = "deterministic"
"""Ours with `deterministic=true`, in a world that was started so: what it costs is seen on one case."""
SIDES = {
    "megaphi": megaphi_side,
    "megatron-core": megatron_side,
    "transformers": transformers_side,
    DETERMINISTIC: megaphi_side,
}
