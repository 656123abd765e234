"""RMSNorm and its fusion with the residual addition: exactness, gradients, shapes where nothing divides, bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from megaphi.kernels import definitions
from megaphi.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_beside
from tests.kernels.exactness import assert_error_at_most_twice, numbers

SHAPES = [(5, 123), (1, 5120), (0, 64), (2, 3, 192), (70, 3), (130, 96)]
FORMATS = [torch.float32, torch.bfloat16]
EPS = 1e-5


def torch_norm(x, weight):
    return functional.rms_norm(x, weight.shape, weight, EPS)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rms_norm_is_as_exact_as_pytorch(shape, dtype, device):
    def draw(seed):
        return [numbers(*size, dtype=dtype, device=device, seed=seed + n) for n, size in enumerate((shape, shape[-1:]))]

    assert_error_at_most_twice(
        lambda x, w: rms_norm(x, w, EPS), torch_norm, lambda x, w: definitions.rms_norm(x, w, EPS), draw
    )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_rms_norm_is_as_exact_as_pytorch(shape, dtype, device):
    """Both outputs have gradients of their own, as in a residual stream."""

    def draw(seed):
        sizes = (shape, shape, shape[-1:])
        return [numbers(*size, dtype=dtype, device=device, seed=seed + n) for n, size in enumerate(sizes)]

    def separate(x, residual, weight):
        total = x + residual
        return torch_norm(total, weight), total

    assert_error_at_most_twice(
        lambda x, r, w: add_rms_norm(x, r, w, EPS),
        separate,
        lambda x, r, w: definitions.add_rms_norm(x, r, w, EPS),
        draw,
    )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_norm_beside_its_input_is_as_exact_as_pytorch(shape, dtype, device):
    """The input goes on beside its norm, and has the gradients of both."""

    def draw(seed):
        return [numbers(*size, dtype=dtype, device=device, seed=seed + n) for n, size in enumerate((shape, shape[-1:]))]

    assert_error_at_most_twice(
        lambda x, w: rms_norm_beside(x, w, EPS),
        lambda x, w: (torch_norm(x, w), x.view_as(x)),
        lambda x, w: (definitions.rms_norm(x, w, EPS), x.view_as(x)),
        draw,
    )


def test_the_weights_gradient_is_exact_over_many_rows(device):
    """Thousands of rows are where a single chain of additions would lose digits."""

    def draw(seed):
        x = numbers(4096, 24, dtype=torch.float32, device=device, spread=3.0, seed=seed) + 2
        return [x, numbers(24, dtype=torch.float32, device=device, seed=seed + 1)]

    assert_error_at_most_twice(
        lambda x, w: rms_norm(x, w, EPS), torch_norm, lambda x, w: definitions.rms_norm(x, w, EPS), draw
    )


def test_non_contiguous_inputs(device):
    x = numbers(64, 10, 3, dtype=torch.float32, device=device).permute(1, 2, 0)
    weight = numbers(64, 2, dtype=torch.float32, device=device, seed=1)[:, 0]
    assert not x.is_contiguous()
    torch.testing.assert_close(rms_norm(x, weight, EPS), definitions.rms_norm(x, weight, EPS))


def test_extreme_numbers(device):
    x = torch.tensor([[1e18, -1e18, 0.0], [1e-20, 0.0, 0.0], [0.0, 0.0, 0.0]], device=device)
    weight = torch.ones(3, device=device)
    torch.testing.assert_close(rms_norm(x, weight, EPS), definitions.rms_norm(x, weight, EPS))
    assert rms_norm(torch.full((1, 3), torch.nan, device=device), weight, EPS).isnan().all()


@pytest.mark.parametrize(
    ("x", "weight", "named"),
    [
        (torch.ones(2, 3), torch.ones(4), "weight has shape"),
        (torch.ones(2, 3), torch.ones(3, dtype=torch.bfloat16), "weight is torch.bfloat16 but x is torch.float32"),
        (torch.ones(2, 3, dtype=torch.int64), torch.ones(3), "x is torch.int64"),
        (torch.tensor(1.0), torch.ones(1), "x is a single number"),
        (torch.ones(1).expand(2**31 + 1, 1), torch.ones(1), r"x has 2147483649 rows of 1"),
    ],
)
def test_bad_input_names_the_argument(x, weight, named):
    with pytest.raises(ValueError, match=named):
        rms_norm(x, weight, EPS)


def test_a_residual_of_another_shape_or_format_is_refused():
    x, weight = torch.ones(2, 3), torch.ones(3)
    with pytest.raises(ValueError, match="residual has shape"):
        add_rms_norm(x, torch.ones(1, 3), weight, EPS)
    with pytest.raises(ValueError, match=r"residual is torch.float64 but x is torch.float32"):
        add_rms_norm(x, x.double(), weight, EPS)
