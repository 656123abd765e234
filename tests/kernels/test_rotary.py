"""Rotary positions: exactness, places of every kind, in place and not, what turns and what does not, bad input."""

from __future__ import annotations

import pytest
import torch
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

from megaphi.kernels import definitions
from megaphi.kernels.rotary import rotary, rotary_table
from tests.kernels.exactness import assert_error_at_most_twice, numbers, results

SHAPES = [(5, 3, 2, 4, 10), (1, 1, 10, 6, 128), (0, 2, 2, 3, 8), (7, 2, 1, 3, 64)]  # [S, B, G, N, K]
FORMATS = [torch.float32, torch.bfloat16]


def tables(dtype, device, *, positions=40, head_size, base=10_000.0):
    cos, sin = rotary_table(positions, head_size, base=base, device=device)
    return (cos.double(), sin.double()) if dtype == torch.float64 else (cos, sin)


def turned(function, *, device, **arguments):
    """`function` of x alone, with tables in the format that x asks for."""

    def call(x):
        cos, sin = tables(x.dtype, device, head_size=x.shape[-1])
        return function(x, cos, sin, rotated=x.shape[3] - 1, **arguments)

    return call


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("place", ["from the start", "behind an offset", "by document"])
def test_rotary_is_as_exact_as_pytorch(shape, dtype, place, device):
    sequence, batch = shape[:2]
    restarting = (torch.arange(sequence)[:, None] % (torch.arange(batch) + 2)).to(device)
    arguments = {"from the start": {}, "behind an offset": {"offset": 31}, "by document": {"positions_SB": restarting}}
    definition = turned(definitions.rotary, device=device, **arguments[place])
    assert_error_at_most_twice(
        turned(rotary, device=device, **arguments[place]),
        definition,
        definition,
        lambda seed: [numbers(*shape, dtype=dtype, device=device, seed=seed)],
    )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_in_place_is_the_same_and_is_in_place(dtype, device):
    x = numbers(6, 2, 3, 4, 16, dtype=dtype, device=device)
    expected = results(turned(rotary, device=device), [x])
    addresses = []

    def in_place(x):
        packed = x * 1  # as the product of a matrix: no leaf
        addresses.append(packed.data_ptr())
        out = turned(rotary, device=device, in_place=True)(packed.view(6, 2, 3, 4, 16))
        addresses.append(out.data_ptr())
        return out

    for found, wanted in zip(results(in_place, [x]), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert addresses[0] == addresses[1]


def test_in_place_on_a_non_contiguous_tensor(device):
    x = numbers(4, 3, 5, 2, 8, dtype=torch.float32, device=device).permute(2, 3, 1, 0, 4)
    expected = turned(rotary, device=device)(x)
    out = turned(rotary, device=device, in_place=True)(x)
    assert out is x
    torch.testing.assert_close(x, expected, rtol=0, atol=0)


def test_transformers_turns_queries_and_keys_the_same_way(device):
    """Packed as Megatron packs them; values keep every bit."""
    sequence, batch, groups, queries, head_size = 9, 2, 2, 3, 16
    packed = numbers(sequence, batch, groups, queries + 2, head_size, dtype=torch.float32, device=device)
    cos, sin = rotary_table(sequence, head_size, base=250_000.0, device=device)
    out = rotary(packed, cos, sin, rotated=queries + 1)
    query, key, value = packed.split((queries, 1, 1), dim=3)
    query_BHSK, key_BGSK = (part.flatten(2, 3).permute(1, 2, 0, 3) for part in (query, key))
    whole_cos, whole_sin = (torch.cat((table, table), -1)[None] for table in (cos, sin))
    expected_query, expected_key = apply_rotary_pos_emb(query_BHSK, key_BGSK, whole_cos, whole_sin)
    found_query, found_key, found_value = out.split((queries, 1, 1), dim=3)
    torch.testing.assert_close(found_query.flatten(2, 3).permute(1, 2, 0, 3), expected_query, rtol=0, atol=1e-6)
    torch.testing.assert_close(found_key.flatten(2, 3).permute(1, 2, 0, 3), expected_key, rtol=0, atol=1e-6)
    assert torch.equal(found_value, value)


def test_scores_depend_on_distance_only(device):
    """The purpose of rotary positions: moving both tokens by the same offset leaves their product unchanged."""
    x = numbers(8, 1, 1, 2, 32, dtype=torch.float32, device=device)
    cos, sin = rotary_table(500, 32, base=10_000.0, device=device)
    products = []
    for offset in (0, 400):
        query, key = rotary(x, cos, sin, rotated=2, offset=offset)[:, 0, 0].unbind(1)
        products.append(query @ key.T)
    torch.testing.assert_close(products[0], products[1], rtol=0, atol=2e-4)


@pytest.mark.slow
def test_more_elements_than_31_bits_can_count(device):
    """Offsets are computed in 64 bits: the last token of 2^31 + elements is turned like any other.

    Of 4,096 heads two are turned: what lies between them costs neither time nor memory.
    """
    x = torch.empty(2**31 // 2**19 + 3, 1, 1, 4096, 128, dtype=torch.bfloat16, device=device)
    x[-1] = 1
    cos, sin = rotary_table(len(x), 128, base=10_000.0, device=device)
    assert x.numel() > 2**31
    rotary(x, cos, sin, rotated=2, in_place=True)
    last = definitions.rotary(torch.ones_like(x[-1:]), cos[-1:], sin[-1:], rotated=2)
    torch.testing.assert_close(x[-1:], last, rtol=0, atol=0)


def call(x=None, *, head=8, positions=4, **arguments):
    x = torch.ones(4, 1, 1, 3, 8) if x is None else x
    cos, sin = rotary_table(positions, head, base=100.0)
    return rotary(x, cos, sin, **{"rotated": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"x": torch.ones(4, 1, 3, 8)}, r"x has shape \(4, 1, 3, 8\)"),
        ({"x": torch.ones(4, 1, 1, 3, 7)}, "even head size"),
        ({"head": 10}, "cos has shape"),
        ({"rotated": 4}, "rotated = 4"),
        ({"offset": 1}, "offset = 1: positions 1 to 4"),
        ({"offset": -1}, "offset = -1"),
        ({"positions_SB": torch.tensor([[0], [1], [2], [4]])}, r"positions\[3, 0\] = 4: not in \[0, 4\)"),
        ({"positions_SB": torch.tensor([[0], [1], [-1], [3]])}, r"positions\[2, 0\] = -1"),
        ({"positions_SB": torch.zeros(4, 1)}, "positions is torch.float32"),
        ({"positions_SB": torch.zeros(4, 2, dtype=torch.int64)}, "positions has shape"),
    ],
)
def test_bad_input_names_the_argument(arguments, named):
    with pytest.raises(ValueError, match=named):
        call(**arguments)


def test_tables_of_another_format_are_refused():
    cos, sin = rotary_table(4, 8, base=100.0)
    with pytest.raises(ValueError, match=r"sin is torch.bfloat16"):
        rotary(torch.ones(4, 1, 1, 3, 8), cos, sin.bfloat16(), rotated=2)
