"""Cross-entropy: exactness, ignored labels, z-loss, in place, cut over ranks, with the output matrix, bad input."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as functional
from torch.multiprocessing.reductions import StorageWeakRef

from megaphi.kernels import definitions
from megaphi.kernels.checks import IGNORED
from megaphi.kernels.cross_entropy import cross_entropy, hide_padding, linear_cross_entropy
from tests.gloo_world import run_in_world
from tests.kernels.cross_entropy_runs import losses_and_gradients
from tests.kernels.exactness import assert_error_at_most_twice, numbers, results

SHAPES = [(5, 123), (1, 4096), (0, 64), (3, 1), (4, 5003)]
FORMATS = [torch.float32, torch.bfloat16]


def labels_for(tokens, vocabulary, device="cpu"):
    labels = torch.randint(vocabulary, (tokens,), generator=torch.Generator().manual_seed(3))
    labels[1::3] = IGNORED
    return labels.to(device)


def drawn(tokens, vocabulary, dtype, device):
    def draw(seed):
        logits = numbers(tokens, vocabulary, dtype=dtype, device=device, spread=3.0, seed=seed)
        return [logits, labels_for(tokens, vocabulary, device)]

    return draw


def torch_cross_entropy(logits, labels):
    return functional.cross_entropy(logits.float(), labels, reduction="none")


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_is_as_exact_as_pytorch(shape, dtype, in_place, device):
    def ours(logits, labels):
        return cross_entropy(logits * 1 if in_place else logits, labels, in_place=in_place)

    assert_error_at_most_twice(ours, torch_cross_entropy, definitions.cross_entropy, drawn(*shape, dtype, device))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_z_loss_is_as_exact_as_pytorch(dtype, device):
    def by_hand(logits, labels):
        lse = logits.float().logsumexp(-1)
        return torch.where(labels == IGNORED, 0.0, torch_cross_entropy(logits, labels) + 0.01 * lse.square())

    assert_error_at_most_twice(
        partial(cross_entropy, z_weight=0.01),
        by_hand,
        partial(definitions.cross_entropy, z_weight=0.01),
        drawn(5, 123, dtype, device),
    )


@pytest.mark.parametrize("chunk_tokens", [1, 3, 5, 100])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_with_the_output_matrix_it_is_as_exact_as_pytorch(chunk_tokens, dtype, device):
    def draw(seed):
        hidden, weight = (numbers(n, 24, dtype=dtype, device=device, seed=seed + n) for n in (5, 123))
        return [hidden, weight, labels_for(5, 123, device)]

    assert_error_at_most_twice(
        partial(linear_cross_entropy, chunk_tokens=chunk_tokens),
        lambda hidden, weight, labels: torch_cross_entropy(functional.linear(hidden, weight), labels),
        definitions.linear_cross_entropy,
        draw,
    )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_the_weights_gradient_can_go_into_a_buffer(dtype, device):
    """Added to what is there, in fp32 over all chunks; autograd sees zeros."""
    hidden, weight = (numbers(n, 24, dtype=dtype, device=device, seed=n).requires_grad_() for n in (5, 123))
    labels = labels_for(5, 123, device)
    weight.main_grad = numbers(123, 24, dtype=torch.float32, device=device, seed=9)
    before = weight.main_grad.clone()
    upstream = numbers(5, dtype=torch.float32, device=device, seed=7)
    wide = [part.detach().float().requires_grad_() for part in (hidden, weight)]
    linear_cross_entropy(*wide, labels).backward(upstream)
    linear_cross_entropy(hidden, weight, labels, chunk_tokens=2).backward(upstream)
    assert (weight.grad == 0).all()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(weight.main_grad - before, wide[1].grad, rtol=0, atol=tolerance)


def hidden_in_place(hidden, weight, labels, *, vocabulary):
    logits = hide_padding(functional.linear(hidden, weight), vocabulary=vocabulary, group=None)
    return cross_entropy(logits, labels, in_place=True)


@pytest.mark.parametrize("vocabulary", [1, 64, 122])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    "ours",
    [hidden_in_place, partial(linear_cross_entropy, chunk_tokens=3), definitions.linear_cross_entropy],
    ids=["whole", "chunked", "definition"],
)
def test_padding_takes_no_part(ours, dtype, vocabulary, device):
    """Losses and gradients are those of logits without it, and its own gradient is exactly zero."""

    def draw(seed):
        hidden, weight = (numbers(n, 24, dtype=dtype, device=device, seed=seed + n) for n in (5, 123))
        return [hidden, weight, labels_for(5, vocabulary, device)]

    def pytorch(hidden, weight, labels):
        return torch_cross_entropy(functional.linear(hidden, weight[:vocabulary]), labels)

    def exact(hidden, weight, labels):
        return definitions.linear_cross_entropy(hidden, weight[:vocabulary], labels)

    assert_error_at_most_twice(partial(ours, vocabulary=vocabulary), pytorch, exact, draw)
    _, _, weight_gradient = results(partial(ours, vocabulary=vocabulary), draw(0))
    assert (weight_gradient[vocabulary:] == 0).all()
    assert vocabulary == 1 or (weight_gradient[:vocabulary] != 0).any()


def test_in_place_the_gradient_lies_where_the_logits_were(device):
    logits = numbers(4, 50, dtype=torch.float32, device=device).requires_grad_()
    scores = logits * 1
    losses = cross_entropy(scores, labels_for(4, 50, device), in_place=True)
    seen = []
    scores.register_hook(lambda gradient: seen.append(gradient.data_ptr()))
    losses.sum().backward()
    assert seen == [scores.data_ptr()]


def test_in_place_a_second_use_of_the_logits_fails_loudly(device):
    logits = numbers(4, 50, dtype=torch.float32, device=device).requires_grad_()
    losses = cross_entropy(logits * 1, labels_for(4, 50, device), in_place=True)
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()


def test_of_the_logits_one_chunk_exists_at_a_time(device):
    """Forward and backward, whatever else holds their memory."""
    hidden = numbers(64, 8, dtype=torch.float32, device=device).requires_grad_()
    weight = numbers(1000, 8, dtype=torch.float32, device=device).requires_grad_()
    memories, most = {}, 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal most
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor) and tensor.shape == (16, 1000):
                    memories[StorageWeakRef(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
            most = max(most, sum(size for memory, size in memories.items() if not memory.expired()))
            return out

    with Watch():
        linear_cross_entropy(hidden, weight, labels_for(64, 1000, device), chunk_tokens=16).sum().backward()
    assert most == 16 * 1000 * hidden.element_size()


def test_minus_infinity_among_the_logits(device):
    logits = torch.tensor([[0.0, -torch.inf, 1.0]], device=device)
    labels = torch.tensor([2], device=device)
    torch.testing.assert_close(cross_entropy(logits, labels), torch_cross_entropy(logits, labels))


@pytest.mark.parametrize("bad", [slice(0, 1), slice(0, 1024), slice(1024, 2048), slice(0, 3000)], ids=str)
def test_a_nan_among_the_logits_is_never_hidden(bad, device):
    """Also where a whole tile of the vocabulary is NaN, so that no maximum shows it."""
    logits = numbers(2, 3000, dtype=torch.float32, device=device)
    logits[0, bad] = torch.nan
    losses = cross_entropy(logits, torch.tensor([2999, 5], device=device))
    assert losses.isnan().tolist() == [True, False]


def test_ignored_tokens_pass_no_gradient_whatever_their_logits_hold(device):
    logits = torch.full((2, 4), torch.nan, device=device)
    logits[0] = 0.5
    labels = torch.tensor([1, IGNORED], device=device)
    losses, gradient = results(cross_entropy, [logits, labels])
    assert losses[1] == 0
    assert (gradient[1] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["whole", "chunked", "padded"])
@pytest.mark.parametrize("z_weight", [0.0, 0.01])
def test_two_and_three_ranks_give_the_losses_of_one(kind, z_weight):
    """Each rank holds a part of the vocabulary; losses agree on all of them, gradients are parts of one."""
    (one,) = run_in_world(partial(losses_and_gradients, kind, z_weight), processes=1)
    for ranks in (2, 3):
        parts = run_in_world(partial(losses_and_gradients, kind, z_weight), processes=ranks)
        for part in parts:
            assert (part["losses"] == parts[0]["losses"]).all()
            torch.testing.assert_close(part["losses"], one["losses"], rtol=0, atol=2e-6)
            torch.testing.assert_close(part["defined"], one["losses"], rtol=0, atol=2e-6)
        for name in ("gradient", "defined_gradient"):
            whole = torch.cat([part[name] for part in parts], dim=parts[0]["cut"])
            torch.testing.assert_close(whole, one["gradient"], rtol=0, atol=2e-6)


LOGITS = torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("logits", "labels", "named"),
    [
        (LOGITS, torch.tensor([1, 5]), r"labels\[1\] = 5: not in \[0, 5\) or -100"),
        (LOGITS, torch.tensor([-1, 2]), r"labels\[0\] = -1: not in \[0, 5\) or -100"),
        (LOGITS, torch.tensor([1, 2, 3]), "labels has shape"),
        (LOGITS, torch.tensor([1.0, 2.0]), "labels is torch.float32"),
        (LOGITS, torch.tensor([1, 2], dtype=torch.int32), "labels is torch.int32"),
        (LOGITS[0], torch.tensor([1, 2]), r"logits has shape \(5,\)"),
        (LOGITS.long(), torch.tensor([1, 2]), "logits is torch.int64"),
    ],
)
def test_bad_input_names_the_argument(logits, labels, named):
    with pytest.raises(ValueError, match=named):
        cross_entropy(logits, labels)


def test_bad_input_of_the_chunked_loss_names_the_argument():
    hidden, weight, labels = torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="weight has shape"):
        linear_cross_entropy(hidden, torch.zeros(5, 4), labels)
    with pytest.raises(ValueError, match=r"weight is torch.bfloat16 but hidden is torch.float32"):
        linear_cross_entropy(hidden, weight.bfloat16(), labels)
    with pytest.raises(ValueError, match="chunk_tokens = 0"):
        linear_cross_entropy(hidden, weight, labels, chunk_tokens=0)
    with pytest.raises(ValueError, match=r"labels\[1\] = 2: not in \[0, 2\) or -100"):
        linear_cross_entropy(hidden, weight, labels, vocabulary=2)
