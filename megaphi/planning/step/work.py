"""Seconds that one micro-batch takes on one rank, by part: forward and backward pass of a layer, and of both ends.

Matrix products by their sizes (`device.product_seconds`), attention by its FLOPs, everything else by the bytes that
have to move. Attention's backward pass computes the scores again: 2.5 times the forward FLOPs, where a model's count
says 2. Of the tensor ranks' collectives those count that nothing hides: with sequence parallelism the four of the
forward pass, and in the backward pass the two in front of a product that needs them; Megatron runs the others beside
the products of weight gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from megaphi.planning.step.device import Device, Precision, group_rate, product_seconds
from megaphi.planning.step.shape import Matrix, StepShape

Parts = Mapping[str, float]
"""Seconds by name."""
BF16, FP32 = 2, 4
ATTENTION_BACKWARD = 2.5


class Passes(NamedTuple):
    """Seconds of a forward and of a backward pass, by part."""

    forward: Parts
    backward: Parts


def total(parts: Parts) -> float:
    return sum(parts.values())


def added(*terms: tuple[float, Parts]) -> Parts:
    """Sum of parts, each times its factor."""
    result: dict[str, float] = {}
    for factor, parts in terms:
        for name, seconds in parts.items():
            if seconds:
                result[name] = result.get(name, 0.0) + factor * seconds
    return result


def layer(step: StepShape, device: Device) -> Passes:
    """One micro-batch in one layer."""
    products = _products(step, device, step.layer_matrices, step.precision)
    moved = _layer_bytes(step)
    attention = {"attention": attention_flops(step) / device.attention}
    sent = _collectives(step, device)
    forward = added((1, products.forward), (1, attention), (1 / device.memory, moved.forward), (1, sent.forward))
    again = {"none": {}, "selective": attention, "full": forward}[step.recompute]
    numbers = sum(matrix.numbers for matrix in step.layer_matrices.values())
    backward = added(
        (1, products.backward),
        (ATTENTION_BACKWARD, attention),
        (1 / device.memory, moved.backward),
        (1, sent.backward),
        (1, _added_gradients(step, device, numbers)),
        (1, {"recomputation": total(again)} if again else {}),
    )
    return Passes(forward, backward)


def _products(step: StepShape, device: Device, matrices: Mapping[str, Matrix], precision: Precision) -> Passes:
    """Products of weights: one in the forward pass, those of both gradients in the backward pass.

    A weight's gradient is added to an fp32 one: read and written, unless a pass of its own adds it.
    """
    added_bytes = 2 * FP32 if step.weight_gradients == "in the product" else BF16
    forward, backward = {}, {}
    for name, (inner, columns) in matrices.items():
        forward[name] = product_seconds(device, rows=step.tokens, inner=inner, columns=columns, precision=precision)
        backward[name] = product_seconds(
            device, rows=step.tokens, inner=columns, columns=inner, precision=precision
        ) + product_seconds(
            device, rows=inner, inner=step.tokens, columns=columns, result_bytes=added_bytes, precision=precision
        )
    return Passes(forward, backward)


def embedding(step: StepShape, device: Device) -> Passes:
    """One micro-batch below the first layer: rows are copied, and their gradients added to fp32 ones."""
    row = step.tokens * step.model.hidden
    forward, backward = 2 * BF16 * row, (BF16 + 2 * FP32) * row
    return Passes({"embedding": forward / device.memory}, {"embedding": backward / device.memory})


def head(step: StepShape, device: Device) -> Passes:
    """One micro-batch above the last layer: the final norm, the output product and the loss."""
    products = _products(step, device, {"output product": step.output_matrix}, "bf16")
    logits = step.tokens * step.vocabulary * BF16
    row = step.tokens * step.model.hidden * BF16 / _sequence_ways(step)
    # The loss reads the logits and, where it needs no second pass over chunks, writes their gradient in their place.
    bytes_forward = {"loss": logits, "norms": 4 * row}
    bytes_backward = {"loss": 2 * logits, "norms": 4 * row}
    again = 1 if step.model.loss_chunk_tokens else 0
    forward = added((1, products.forward), (1 / device.memory, bytes_forward))
    backward = added(
        (1, products.backward),
        (again, products.forward),
        (1 / device.memory, bytes_backward),
        (1, _added_gradients(step, device, step.output_matrix.numbers)),
    )
    return Passes(forward, backward)


def attention_flops(step: StepShape) -> float:
    """FLOPs of one causal layer in the forward pass of a micro-batch: half of both products of whole rows."""
    width = step.model.query_width / step.layout.tensor
    return 4 * step.tokens * step.batch.sequence_length * width / 2


def tensor_bytes(step: StepShape) -> Passes:
    """Bytes that one layer's collectives over the tensor ranks bring each rank: all of them, hidden or not.

    An all-gather or reduce-scatter of a row brings (ranks - 1) / ranks of it, an all-reduce twice that. With sequence
    parallelism the two inputs that were cut are gathered once more for the gradients of their weights.
    """
    ranks = step.layout.tensor
    once = step.tokens * step.model.hidden * BF16 * (ranks - 1) / ranks
    again = 2 if step.layout.sequence_parallel else 0
    return Passes({"tensor collectives": 4 * once}, {"tensor collectives": (4 + again) * once})


def context_bytes(step: StepShape) -> Passes:
    """Bytes that a layer's attention gets from the other context ranks: keys and values, then those and gradients."""
    others = step.layout.context - 1
    once = 2 * step.tokens * step.model.key_value_width / step.layout.tensor * BF16 * others
    return Passes({"context collectives": once}, {"context collectives": 2 * once})


def _layer_bytes(step: StepShape) -> Passes:
    """Bytes of a layer's memory-bound kernels: every tensor read or written once (benchmarks/operators.py)."""
    model, tensor = step.model, step.layout.tensor
    row = step.tokens * model.hidden * BF16 / _sequence_ways(step)
    turned = step.tokens * (model.query_width + model.key_value_width) / tensor * BF16
    wide = step.tokens * model.feed_forward / tensor * BF16
    # Norm with the residual addition before it, twice; what the FFN adds is a pass of its own; SwiGLU's result is
    # made again in the backward pass, beside its gradients.
    forward = {"norms": 8 * row, "residual addition": 3 * row, "rotary": 2 * turned, "SwiGLU": 3 * wide}
    backward = {"norms": 8 * row, "rotary": 2 * turned, "SwiGLU": 6 * wide}
    if step.precision == "fp8":  # what a product takes is read in bf16, and written in FP8 as it is and transposed
        matrices = step.layer_matrices.values()
        forward["FP8 casts"] = step.tokens * sum(matrix.inner for matrix in matrices) * 2 * BF16
        backward["FP8 casts"] = step.tokens * sum(matrix.columns for matrix in matrices) * 2 * BF16
    return Passes(forward, backward)


def _sequence_ways(step: StepShape) -> int:
    """Ranks that share the tensors of the model's width."""
    return step.layout.tensor if step.layout.sequence_parallel else 1


def _added_gradients(step: StepShape, device: Device, numbers: int) -> Parts:
    """A pass that reads a bf16 gradient and adds it to the fp32 one, where the product does not."""
    if step.weight_gradients == "in the product":
        return {}
    return {"adding gradients": numbers * (BF16 + 2 * FP32) / device.memory}


def _collectives(step: StepShape, device: Device) -> Passes:
    """Seconds of a layer's collectives that no product hides."""
    layout = step.layout
    sent, shared = tensor_bytes(step), context_bytes(step)
    exposed = 2 / 6 if layout.sequence_parallel else 0.0  # of the backward pass
    waited = (1 - step.tensor_overlap) / group_rate(device, ranks=layout.tensor, stride=1)
    context = 1 / group_rate(device, ranks=layout.context, stride=layout.tensor)
    forward = added((waited, sent.forward), (context, shared.forward))
    return Passes(forward, added((exposed * waited, sent.backward), (context, shared.backward)))
