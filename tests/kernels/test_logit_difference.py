"""The difference of two logits against logits of the whole vocabulary, on one rank and cut over three."""

from __future__ import annotations

import pytest
import torch

from megaphi.kernels.logit_difference import logit_difference

PAIRS, WIDTH, VOCABULARY = 7, 12, 21


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    hidden_PD = torch.randn(PAIRS, WIDTH, generator=generator).to(dtype)
    weight_VD = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype)
    chosen_P, rejected_P = torch.randint(VOCABULARY, (2, PAIRS), generator=generator)
    return hidden_PD, weight_VD, chosen_P, rejected_P, torch.randn(PAIRS, generator=generator)


def by_definition(hidden_PD, weight_VD, chosen_P, rejected_P, grad_P):
    """(margins, gradient of hidden, gradient of weight) from whole logits, in fp64."""
    hidden_PD, weight_VD = (part.double().requires_grad_() for part in (hidden_PD, weight_VD))
    logits_PV = hidden_PD @ weight_VD.t()
    margins_P = (logits_PV.gather(1, chosen_P[:, None]) - logits_PV.gather(1, rejected_P[:, None])).squeeze(1)
    return margins_P.detach(), *torch.autograd.grad(margins_P, (hidden_PD, weight_VD), grad_P.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("buffer", [False, True], ids=["autograd", "buffer"])
def test_margins_and_gradients(dtype, buffer):
    hidden_PD, weight_VD, chosen_P, rejected_P, grad_P = tensors(dtype)
    rejected_P[0] = chosen_P[0]  # the same token twice is no margin and no gradient
    expected = by_definition(hidden_PD, weight_VD, chosen_P, rejected_P, grad_P)
    hidden_PD.requires_grad_()
    weight_VD.requires_grad_()
    total_VD = torch.ones(VOCABULARY, WIDTH) if buffer else None
    if buffer:
        weight_VD.main_grad = total_VD
    margins_P = logit_difference(hidden_PD, weight_VD, chosen_P, rejected_P)
    margins_P.backward(grad_P)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 2e-2}
    torch.testing.assert_close(margins_P.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden_PD.grad.double(), expected[1], **tolerance)
    if total_VD is not None:
        assert not weight_VD.grad.any()  # autograd hears of the weight, and has nothing to add
        torch.testing.assert_close(total_VD.double() - 1, expected[2], rtol=1e-5, atol=1e-5)
    else:
        torch.testing.assert_close(weight_VD.grad.double(), expected[2], **tolerance)


def share(rank_weights):
    """Margins and gradients of this rank's rows of the matrix."""
    import torch.distributed as distributed

    from megaphi.parallel.layout import ParallelLayout
    from megaphi.parallel.world import start_world

    world = start_world(ParallelLayout(tensor=3), seed=0)
    hidden_PD, weight_VD, chosen_P, rejected_P, grad_P = tensors()
    own_VD = weight_VD.chunk(rank_weights)[world.rank].clone().requires_grad_()
    hidden_PD.requires_grad_()
    margins_P = logit_difference(hidden_PD, own_VD, chosen_P, rejected_P, group=distributed.group.WORLD)
    margins_P.backward(grad_P)
    return margins_P.detach().numpy(), hidden_PD.grad.numpy(), own_VD.grad.numpy()


def test_ranks_that_share_the_vocabulary():
    from tests.gloo_world import run_in_world

    found = run_in_world(share, 3, processes=3)
    margins_P, grad_PD, grad_VD = by_definition(*tensors())
    for own_margins, _, _ in found:
        torch.testing.assert_close(torch.from_numpy(own_margins).double(), margins_P, rtol=1e-5, atol=1e-5)
    together = [torch.from_numpy(part).double() for _, part, _ in found]
    torch.testing.assert_close(sum(together), grad_PD, rtol=1e-5, atol=1e-5)
    rows = torch.cat([torch.from_numpy(part).double() for _, _, part in found])
    torch.testing.assert_close(rows, grad_VD, rtol=1e-5, atol=1e-5)


def test_no_pairs_and_shapes_that_do_not_fit():
    hidden_PD, weight_VD, chosen_P, rejected_P, _ = tensors()
    none = torch.zeros(0, dtype=torch.int64)
    assert logit_difference(hidden_PD[:0], weight_VD, none, none).shape == (0,)
    with pytest.raises(ValueError, match="chosen"):
        logit_difference(hidden_PD, weight_VD, chosen_P[:-1], rejected_P)
    with pytest.raises(ValueError, match="hidden"):
        logit_difference(hidden_PD[:, :-1], weight_VD, chosen_P, rejected_P)
