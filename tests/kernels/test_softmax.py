"""Causal and masked softmax: exactness, any number of queries and keys, masks that broadcast, rows that see nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from megaphi.kernels import definitions
from megaphi.kernels.softmax import causal_softmax, masked_softmax
from tests.kernels.exactness import assert_error_at_most_twice, numbers, results

SHAPES = [(1, 1, 5, 123), (2, 3, 1, 1), (1, 2, 0, 7), (1, 10, 33, 33), (2, 1, 3, 1027), (1, 1, 2, 17_001)]
FORMATS = [torch.float32, torch.bfloat16]
SCALE = 0.37


def torch_causal(x):
    queries, keys = x.shape[-2:]
    hidden = torch.ones(queries, keys, dtype=torch.bool, device=x.device).triu(keys - queries + 1)
    return (x * SCALE).masked_fill(hidden, -torch.inf).softmax(-1)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_causal_softmax_is_as_exact_as_pytorch(shape, dtype, device):
    assert_error_at_most_twice(
        lambda x: causal_softmax(x, SCALE),
        torch_causal,
        lambda x: definitions.causal_softmax(x, SCALE),
        lambda seed: [numbers(*shape, dtype=dtype, device=device, spread=4.0, seed=seed)],
    )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("broadcast", [(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0), (1, 1, 1), (0, 1, 1)], ids=str)
def test_masked_softmax_is_as_exact_as_pytorch(broadcast, dtype, device):
    full = (2, 3, 5, 123)
    shape = [1 if one else size for one, size in zip((*broadcast, 0), full, strict=True)]
    hidden = numbers(*shape, dtype=torch.float32, device=device, seed=1) > 0.5
    hidden[..., 0] = False
    assert_error_at_most_twice(
        lambda x: masked_softmax(x, hidden, SCALE),
        lambda x: (x * SCALE).masked_fill(hidden, -torch.inf).softmax(-1),
        lambda x: definitions.masked_softmax(x, hidden, SCALE),
        lambda seed: [numbers(*full, dtype=dtype, device=device, spread=4.0, seed=seed)],
    )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("keys", [33, 1027, 17_001])
def test_in_place_is_the_same_and_is_in_place(keys, dtype, device):
    """With gradients; 17,001 keys go through a CUDA kernel of their own."""
    x = numbers(1, 2, 3, keys, dtype=dtype, device=device)
    hidden = numbers(1, 1, 3, keys, dtype=torch.float32, device=device, seed=1) > 0.5
    for function in (partial(causal_softmax, scale=SCALE), partial(masked_softmax, hidden=hidden, scale=SCALE)):
        addresses = []

        def in_place(x, function=function, addresses=addresses):
            scores = (x * 1).view(1, 2, 3, keys)  # as the product of two matrices: no leaf
            out = function(scores, in_place=True)
            addresses.extend((scores.data_ptr(), out.data_ptr()))
            return out

        for found, wanted in zip(results(in_place, [x]), results(function, [x]), strict=True):
            assert torch.equal(found, wanted)
        assert addresses[0] == addresses[1]


def test_in_place_on_a_non_contiguous_tensor(device):
    x = numbers(7, 5, 3, 2, dtype=torch.float32, device=device).permute(3, 2, 1, 0)
    expected = causal_softmax(x, SCALE)
    assert causal_softmax(x, SCALE, in_place=True) is x
    assert torch.equal(x, expected)


def test_a_query_that_sees_nothing_gets_zeros_and_passes_no_gradient(device):
    x = numbers(1, 1, 3, 40, dtype=torch.float32, device=device).requires_grad_()
    hidden = torch.zeros(1, 1, 3, 40, dtype=torch.bool, device=device)
    hidden[0, 0, 1] = True
    y = masked_softmax(x, hidden, 1.0)
    assert (y[0, 0, 1] == 0).all()
    torch.testing.assert_close(y.sum(-1)[0, 0], torch.tensor([1.0, 0.0, 1.0], device=device))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert (gradient[0, 0, 1] == 0).all()
    assert gradient.isfinite().all()


def test_what_is_beyond_the_diagonal_is_never_looked_at(device):
    x = numbers(1, 2, 9, 9, dtype=torch.float32, device=device)
    poisoned = x.masked_fill(torch.ones(9, 9, dtype=torch.bool, device=device).triu(1), torch.nan)
    torch.testing.assert_close(causal_softmax(poisoned, SCALE), causal_softmax(x, SCALE), rtol=0, atol=0)


def test_large_scores_do_not_overflow_and_minus_infinity_hides(device):
    x = torch.tensor([[[[1e4, 1e4, -torch.inf, -1e4]]]], device=device)
    expected = torch.tensor([0.5, 0.5, 0.0, 0.0], device=device)
    torch.testing.assert_close(causal_softmax(x, 1.0)[0, 0, 0], expected)


@pytest.mark.parametrize("bad", [slice(0, 1), slice(0, 40), slice(39, 40)], ids=str)
def test_a_nan_is_never_hidden(bad, device):
    x = numbers(1, 1, 2, 40, dtype=torch.float32, device=device)
    x[0, 0, 1, bad] = torch.nan
    hidden = torch.zeros(1, 1, 1, 40, dtype=torch.bool, device=device)
    for y in (causal_softmax(x, SCALE), masked_softmax(x, hidden, SCALE)):
        assert y[0, 0, 1].isnan().all()
        assert y[0, 0, 0, :39].isfinite().all()


def test_a_negative_scale(device):
    x = numbers(1, 1, 4, 50, dtype=torch.float32, device=device)
    torch.testing.assert_close(causal_softmax(x, -2.0), definitions.causal_softmax(x, -2.0))


def test_non_contiguous_inputs(device):
    x = numbers(7, 5, 3, 2, dtype=torch.float32, device=device).permute(3, 2, 1, 0)
    torch.testing.assert_close(causal_softmax(x, SCALE), definitions.causal_softmax(x, SCALE))
    hidden = (numbers(7, 5, 3, 2, dtype=torch.float32, device=device, seed=1) > 0.3).permute(3, 2, 1, 0)
    torch.testing.assert_close(masked_softmax(x, hidden, SCALE), definitions.masked_softmax(x, hidden, SCALE))


X = torch.ones(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("hidden", "named"),
    [
        (torch.zeros(2, 3, 4, 5), "hidden is torch.float32"),
        (torch.zeros(2, 2, 4, 5, dtype=torch.bool), r"hidden is torch.bool \(2, 2, 4, 5\)"),
        (torch.zeros(2, 3, 4, 1, dtype=torch.bool), r"hidden is torch.bool \(2, 3, 4, 1\)"),
        (torch.zeros(4, 5, dtype=torch.bool), r"hidden is torch.bool \(4, 5\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(hidden, named):
    with pytest.raises(ValueError, match=named):
        masked_softmax(X, hidden, 1.0)


def test_scores_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="x has 3 keys for 4 queries"):
        causal_softmax(torch.ones(1, 1, 4, 3), 1.0)
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\)"):
        causal_softmax(torch.ones(4, 3), 1.0)
    with pytest.raises(ValueError, match=r"x is torch\.int32"):
        causal_softmax(torch.ones(1, 1, 3, 3, dtype=torch.int32), 1.0)
