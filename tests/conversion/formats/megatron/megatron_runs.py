"""Ranks of the Megatron tests: a GPT model as Megatron-LM builds it, saved by Megatron's own functions.

The layer specification is Megatron's local one, not ours. Saving takes in-process writers: Megatron's default starts a
manager process, which cannot start from a forked rank.
"""

from __future__ import annotations

import argparse
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from megaphi.parallel.layout import ParallelLayout

LAYERS, HIDDEN, FEED_FORWARD, HEADS, GROUPS, HEAD_SIZE, ROWS = 4, 48, 80, 6, 2, 8, 128
ARGUMENTS = {
    "num_attention_heads": HEADS, "rotary_base": 250_000, "norm_epsilon": 1e-5, "normalization": "RMSNorm",
    "swiglu": True, "position_embedding_type": "rope", "add_bias_linear": False, "seq_length": 64, "lr": 3e-4,
}  # fmt: skip


def build(layout: ParallelLayout, *, tied: bool = False) -> Any:
    import torch
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    from megaphi.parallel.world import start_world

    start_world(layout, seed=1)
    config = TransformerConfig(
        num_layers=LAYERS, hidden_size=HIDDEN, num_attention_heads=HEADS, num_query_groups=GROUPS,
        ffn_hidden_size=FEED_FORWARD, kv_channels=HEAD_SIZE, gated_linear_unit=True,
        activation_func=torch.nn.functional.silu, add_bias_linear=False, normalization="RMSNorm",
        tensor_model_parallel_size=layout.tensor, pipeline_model_parallel_size=layout.pipeline,
        pipeline_dtype=torch.float32, masked_softmax_fusion=False, bias_dropout_fusion=False,
        bias_activation_fusion=False, gradient_accumulation_fusion=False, apply_rope_fusion=False,
        persist_layer_norm=False, attention_dropout=0.0, hidden_dropout=0.0,
    )  # fmt: skip
    return GPTModel(
        config,
        get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=ROWS,
        max_sequence_length=64,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=tied,
        position_embedding_type="rope",
        rotary_base=250_000,
    )


def save_alone(folder: str, tokens_BS: np.ndarray, *, tied: bool = False) -> dict[str, Any]:
    """Save a random model from one process; returns its weights by our names, and its logits."""
    import torch

    module = build(ParallelLayout(), tied=tied).eval()
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(module.named_parameters())):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        _save(module, folder)
        length = tokens_BS.shape[1]
        hidden = torch.triu(torch.ones(1, 1, length, length, dtype=torch.bool), 1)
        positions = torch.arange(length).expand(tokens_BS.shape)
        logits = module(torch.from_numpy(tokens_BS), positions, hidden)
    weights = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    return {"weights": weights, "logits": logits.numpy()}


def save_again(source: str, folder: str, layout: ParallelLayout, *, own_norms: bool = False) -> None:
    """Load a checkpoint under another layout and save it, all by Megatron; norms by their own names or by TE's."""
    from megatron.core import dist_checkpointing

    module = build(layout)
    loaded = dist_checkpointing.load({"model": module.sharded_state_dict()}, source)
    module.load_state_dict(loaded["model"])  # pyright: ignore[reportCallIssue, reportArgumentType]
    _save(module, folder, own_norms=own_norms, optimizer=True)


def save_counted(folder: str) -> None:
    """Save a model of one layer whose weights are `counted`, as that of tests/conversion/formats/megatron/of_0_19."""
    import torch

    with mock.patch.multiple(__name__, LAYERS=1, HIDDEN=12, FEED_FORWARD=10, HEAD_SIZE=2, ROWS=24):
        module = build(ParallelLayout())
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(counted(name, tuple(parameter.shape))))
    _save(module, folder)


def counted(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """fp32 numbers that depend on a weight's name."""
    first = sum(name.encode())
    return np.arange(first, first + np.prod(shape), dtype=np.float32).reshape(shape)


def _save(module: Any, folder: str, *, own_norms: bool = False, optimizer: bool = False) -> None:
    import torch
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing import ShardedTensor

    state = module.sharded_state_dict()
    renamed = {"linear_qkv.layer_norm_weight": "input_layernorm.weight", "linear_fc1.layer_norm_weight": ""}
    for tensor in state.values() if own_norms else ():
        if tensor.key.endswith(tuple(renamed)):
            tensor.key = tensor.key.replace("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight")
            tensor.key = tensor.key.replace("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight")
    common = {"args": argparse.Namespace(**ARGUMENTS), "checkpoint_version": 3.0, "iteration": 7}
    if optimizer:
        moment = torch.zeros(LAYERS, HIDDEN)
        key = "optimizer.state.exp_avg.decoder.layers.mlp.linear_fc2.weight"
        replica = torch.distributed.get_rank()
        common["optimizer"] = ShardedTensor.from_rank_offsets(key, moment, replica_id=replica)  # pyright: ignore
    if torch.distributed.get_rank() == 0:
        Path(folder).mkdir(parents=True)
    torch.distributed.barrier()
    with _in_process_writers():
        dist_checkpointing.save({**common, "model": state}, folder)


@contextmanager
def _in_process_writers() -> Iterator[None]:
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    writer = filesystem_async.FileSystemWriterAsync
    if not hasattr(writer, "write_preloaded_data_multiproc"):  # 0.19 writes with threads, but has the manager still
        with mock.patch.object(filesystem_async, "get_write_results_queue", return_value=queue.Queue()):
            yield
        return

    class Count:
        def get(self) -> None: ...

        def task_done(self) -> None: ...

    def write(transforms: Any, use_msc: bool, rank: int, buckets: Any, results: Any) -> None:
        found = {}
        for number, bucket in enumerate(buckets):
            own: queue.SimpleQueue[Any] = queue.SimpleQueue()
            writer.write_preloaded_data(transforms, number, bucket, own, Count(), True)  # pyright: ignore
            _, found[number] = own.get()
        results.put(found)

    with (
        mock.patch.object(filesystem_async, "_get_write_results_queue", queue.Queue),
        mock.patch.object(writer, "write_preloaded_data_multiproc", staticmethod(write)),
    ):
        yield
