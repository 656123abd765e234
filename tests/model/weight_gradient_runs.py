"""Ranks of the tests of gradients that are added up in the product: the same steps by the former path, and exact sums.

The former path is Megatron's own function for the embedding and the column-parallel matrices, and autograd's gradients
for all others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from megaphi.data.batch import BatchShape
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, advance, build, step_batches, tiny_run, weights_digest

TENSOR, SEQUENCE = ParallelLayout(tensor=2), ParallelLayout(tensor=2, sequence_parallel=True)
CASES: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "alone": {},
        "loss in one chunk": {"model": dataclasses.replace(TINY, loss_chunk_tokens=64)},
        "full recomputation": {"recompute": "full"},
        "selective recomputation": {"recompute": "selective"},
        "bfloat16 weights": {"precision": NumericPrecision(parameters="bfloat16")},
    },
    2: {
        "tensor 2": {"layout": TENSOR},
        "sequence parallel": {"layout": SEQUENCE},
        "sequence parallel, full recomputation": {"layout": SEQUENCE, "recompute": "full"},
        "pipeline 2, virtual 2": {"layout": ParallelLayout(pipeline=2, virtual_pipeline=2)},
        "data 2, a bucket each": {"layout": ParallelLayout(data=2), "bucket_parameters": 1},
    },
}
"""By processes; the global batch is four micro-batches of 64 tokens."""


def both_ways(processes: int) -> dict[str, list[tuple[Any, ...]]]:
    """(losses, norms, digest of weights after three steps): by the product, then by the former path."""
    found = {}
    for name, fields in CASES[processes].items():
        with formerly():
            former = _curve(tiny_run(**fields))
        found[name] = [_curve(tiny_run(**fields)), former]
    return found


def _curve(run: RunConfig) -> tuple[Any, ...]:
    model = build(run)
    curves = advance(model, first=0, steps=3)
    return curves["losses"], curves["norms"], weights_digest(model)


@contextmanager
def formerly() -> Iterator[None]:
    """The former path, for models that are built inside."""
    from megatron.core.tensor_parallel.layers import (
        VocabParallelEmbedding,
        linear_with_grad_accumulation_and_async_allreduce,
    )

    from megaphi.kernels import linear
    from megaphi.model import fused_layer, fused_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "_buffer_of", lambda weight: None)
        patch.setattr(fused_layer, "linear", functional.linear)
        patch.setattr(fused_model, "_looked_up", VocabParallelEmbedding.forward)
        for module in (fused_layer, fused_model):
            patch.setattr(module, "column_parallel_product", linear_with_grad_accumulation_and_async_allreduce)
        yield


class Errors(NamedTuple):
    """Relative errors against fp64 of the gradients of all matrices of a step of eight micro-batches."""

    ours: float
    one_sum: float
    """Error of one fp32 product over all tokens."""
    former: float
    """Error of bf16 products of each micro-batch, added up in fp32."""


def errors_in_bf16(loss_chunk_tokens: int) -> Errors:
    from megaphi.engine.training.train_step import NEXT_TOKEN, run_schedule
    from megaphi.kernels import cross_entropy, linear

    run = tiny_run(
        model=dataclasses.replace(TINY, loss_chunk_tokens=loss_chunk_tokens),
        batch=BatchShape(sequence_length=256, global_batch=8, micro_batch=1),
        precision=NumericPrecision(parameters="bfloat16"),
    )
    model = build(run)
    factors: dict[int, list[tuple[Tensor, Tensor]]] = {}
    usual = linear.add_product

    def observed(total: Tensor, grad: Tensor, x: Tensor) -> None:
        factors.setdefault(total.data_ptr(), []).append((grad.clone(), x.clone()))
        usual(total, grad, x)

    model.config.finalize_model_grads_func = lambda *_, **__: None  # which would divide them
    with pytest.MonkeyPatch.context() as patch:
        for module in (linear, cross_entropy):
            patch.setattr(module, "add_product", observed)
        run_schedule(model, step_batches(run, step=0, replica=0, replicas=1), NEXT_TOKEN, forward_only=False)
    (module,) = model.modules
    totals: list[Tensor] = [
        parameter.main_grad  # pyright: ignore[reportAttributeAccessIssue]
        for name, parameter in module.named_parameters()
        if parameter.dim() == 2 and "embedding" not in name
    ]
    assert len(totals) == len(factors) == 4 * TINY.layers + 1
    return _errors([(total, factors[total.data_ptr()]) for total in totals])


def _errors(sums: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]]) -> Errors:
    squares = torch.zeros(3, dtype=torch.float64)
    whole = 0.0
    for total, products in sums:
        grad, x = (torch.cat(parts) for parts in zip(*products, strict=True))
        exact = grad.double().t() @ x.double()
        former = sum((grad.t() @ x).float() for grad, x in products)
        found = (total, grad.float().t() @ x.float(), former)
        squares += torch.stack([(part - exact).square().sum() for part in found])
        whole += exact.square().sum().item()
    return Errors(*(squares / whole).sqrt().tolist())
