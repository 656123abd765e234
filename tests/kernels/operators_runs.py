"""Operator tests in processes of their own: a compiled layer, and a megaphi that was not compiled.

python -m tests.kernels.operators_runs _C|_T     prints numbers computed without that module
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any


def compiled_and_eager_layer() -> tuple[list[Any], list[Any]]:
    """Output and gradients of the last fused decoder layer, which adds twice, compiled as one graph and as it is."""
    import torch

    from megaphi.kernels.rotary import rotary_table
    from megaphi.model.forward.attention import Causal
    from megaphi.model.language_model import build_model
    from megaphi.parallel.layout import ParallelLayout
    from megaphi.parallel.world import start_world
    from tests.engine.layout_runs import TINY
    from tests.kernels.exactness import numbers

    start_world(ParallelLayout(), seed=0)
    (model,) = build_model(TINY, ParallelLayout(), sequence_length=16, seed=3)
    layer: Any = model.decoder.layers[-1]
    table = torch.stack(rotary_table(16, TINY.head_size, base=10_000.0))
    weights = list(layer.parameters())
    expanded, residual = (numbers(16, 2, TINY.hidden, dtype=torch.float32, seed=seed) for seed in (0, 1))

    def outcome(function: Any) -> list[Any]:
        given = [part.clone().requires_grad_() for part in (expanded, residual)]
        output, _ = function(given[0], context=given[1], rotary_pos_emb=table, attention_bias=Causal())
        upstream = numbers(*output.shape, dtype=torch.float32, seed=5)
        return [output.detach(), *torch.autograd.grad(output, [*given, *weights], upstream)]

    eager = outcome(layer.forward)
    return outcome(torch.compile(layer.forward, fullgraph=True, dynamic=False)), eager


def outputs_without_kernels() -> list[float]:
    """One number of every operator."""
    import torch

    from megaphi.kernels.cross_entropy import cross_entropy, linear_cross_entropy
    from megaphi.kernels.paged_attention import paged_attention
    from megaphi.kernels.rms_norm import add_rms_norm, rms_norm
    from megaphi.kernels.rotary import rotary, rotary_table
    from megaphi.kernels.softmax import causal_softmax, masked_softmax
    from megaphi.kernels.swiglu import swiglu, swiglu_linear
    from tests.kernels.exactness import numbers

    x, weight, labels = numbers(3, 8, dtype=torch.float32), numbers(8, dtype=torch.float32), torch.tensor([1, -100, 6])
    packed, scores = numbers(2, 2, 2, 3, 6, dtype=torch.float32), numbers(1, 2, 3, 5, dtype=torch.float32)
    tables = rotary_table(4, 6, base=100.0)
    cache, blocks = numbers(3, 2, 2, 6, dtype=torch.float32), torch.tensor([[2, 0], [1, 7]]).int()
    outputs = [
        rms_norm(x, weight, 1e-5),
        add_rms_norm(x, x, weight, 1e-5)[0],
        rotary(packed, *tables, rotated=2),
        rotary(packed.clone(), *tables, rotated=2, in_place=True),
        causal_softmax(scores, 0.7),
        causal_softmax(scores.clone(), 0.7, in_place=True),
        masked_softmax(scores, scores[:, :1] > 0, 0.7),
        masked_softmax(scores.clone(), scores[:, :1] > 0, 0.7, in_place=True),
        paged_attention(packed[0, :, 0, :2], cache, cache * 2, blocks, torch.tensor([3, 2]).int(), scale=0.7),
        swiglu(x),
        swiglu_linear(x, numbers(5, 4, dtype=torch.float32)),
        cross_entropy(x, labels),
        linear_cross_entropy(x, numbers(7, 8, dtype=torch.float32), labels),
    ]
    return [(output * torch.arange(1, output.numel() + 1).view(output.shape)).sum().item() for output in outputs]


class _Hide(importlib.abc.MetaPathFinder):
    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == self.name:
            raise ImportError(f"{fullname} is hidden")


def _without(module: str) -> None:
    from megaphi.kernels import loading

    if module == "_C":
        sys.meta_path.insert(0, _Hide("megaphi._C"))
    else:
        loading.sysconfig.get_config_var = lambda name: ".nowhere"  # pyright: ignore[reportAttributeAccessIssue]
    print(*outputs_without_kernels())


if __name__ == "__main__":
    _without(sys.argv[1])
