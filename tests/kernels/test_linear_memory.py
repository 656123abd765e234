"""Memory of large products on the CPU: who may have it again, that nobody else reads it, that it ends."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from megaphi.kernels import linear as linear_module
from megaphi.kernels.cross_entropy import cross_entropy
from megaphi.kernels.linear import linear
from tests.kernels import exactness

TOKENS, WIDTH, VOCABULARY = 640, 16, 64
numbers = partial(exactness.numbers, dtype=torch.float32)


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Memory that is kept; every product here is large."""
    kept: list[Tensor] = []
    monkeypatch.setattr(linear_module, "KEPT_BY_GLIBC", 1_000)
    monkeypatch.setattr(linear_module, "_kept", kept)
    return kept


def step(weight: Tensor, *, tokens: int = TOKENS, seed: int = 1, in_place: bool = True) -> tuple[int, list[Tensor]]:
    """Address of the logits, and the loss with all gradients."""
    hidden = numbers(tokens, WIDTH, dtype=weight.dtype, seed=seed).requires_grad_()
    logits = linear(hidden, weight)
    loss = cross_entropy(logits, torch.arange(tokens) % VOCABULARY, in_place=in_place).mean()
    return logits.data_ptr(), [loss.detach(), *torch.autograd.grad(loss, (hidden, weight))]


def reference_step(weight: Tensor, *, seed: int) -> list[Tensor]:
    hidden = numbers(TOKENS, WIDTH, dtype=weight.dtype, seed=seed).requires_grad_()
    logits = functional.linear(hidden, weight)
    loss = cross_entropy(logits, torch.arange(TOKENS) % VOCABULARY).mean()
    return [loss.detach(), *torch.autograd.grad(loss, (hidden, weight))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_steps_share_the_memory_of_their_logits_and_have_pytorchs_bits(dtype: torch.dtype) -> None:
    weight, found = numbers(VOCABULARY, WIDTH, dtype=dtype).requires_grad_(), set[int]()
    for seed in range(4):
        address, results = step(weight, seed=seed)
        found.add(address)
        for ours, theirs in zip(results, reference_step(weight, seed=seed), strict=True):
            assert torch.equal(ours, theirs)
    assert len(found) == 1


def test_memory_whose_result_may_still_be_read_is_not_kept(blocks: list[Tensor]) -> None:
    weight = numbers(VOCABULARY, WIDTH).requires_grad_()
    step(weight, in_place=False)
    with torch.no_grad():
        linear(numbers(TOKENS, WIDTH), weight)
    linear(numbers(TOKENS, WIDTH), weight).backward(numbers(TOKENS, VOCABULARY))
    assert not blocks


def test_a_gradient_where_a_freed_result_was_is_not_taken_for_its_own(blocks: list[Tensor]) -> None:
    """The system gives out an address again; the gradient there belongs to whoever made it."""
    place = bytearray(4 * TOKENS)
    result, gradient = (torch.frombuffer(place, dtype=torch.float32) for _ in range(2))
    memory = linear_module.memory_of(result)
    assert memory is not None
    del result
    linear_module.keep_overwritten(memory, gradient)
    assert not blocks


def test_micro_batches_in_flight_have_memory_each_and_all_of_it_is_used_again(blocks: list[Tensor]) -> None:
    weight, labels = numbers(VOCABULARY, WIDTH).requires_grad_(), torch.arange(TOKENS) % VOCABULARY
    addresses = list[set[int]]()
    for _ in range(2):
        flight = [linear(numbers(TOKENS, WIDTH, seed=number), weight) for number in range(3)]
        addresses.append({logits.data_ptr() for logits in flight})
        for loss in [cross_entropy(logits, labels, in_place=True).mean() for logits in flight]:
            loss.backward()
        del flight
    assert len(addresses[0]) == 3
    assert addresses[0] == addresses[1]
    assert len(blocks) == 3


def test_memory_of_a_size_that_no_step_has_any_more_is_freed(blocks: list[Tensor]) -> None:
    weight = numbers(VOCABULARY, WIDTH).requires_grad_()
    step(weight)
    former = StorageWeakRef(blocks[0].untyped_storage())
    assert not former.expired()
    step(weight, tokens=2 * TOKENS)
    assert former.expired()
    assert [memory.numel() for memory in blocks] == [2 * TOKENS * VOCABULARY]
    step(weight.detach().double().requires_grad_(), tokens=2 * TOKENS)
    assert [memory.dtype for memory in blocks] == [torch.float64]


def test_small_results_are_left_to_the_system(monkeypatch: pytest.MonkeyPatch, blocks: list[Tensor]) -> None:
    monkeypatch.setattr(linear_module, "KEPT_BY_GLIBC", TOKENS * VOCABULARY * 4)
    step(numbers(VOCABULARY, WIDTH).requires_grad_())
    assert not blocks
