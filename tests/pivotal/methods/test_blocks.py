"""The recursion against brute-force enumeration of small trees, its variance, and the allocation of rollouts."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.pivotal.methods.blocks import allocation, blocks_of, estimate, leaving_law
from megaphi.pivotal.methods.trace import Trace


@st.composite
def trees(draw):
    """(outcome of every leaf, weights of the tokens of every node, path): depth 4, up to 3 tokens at each node."""
    depth = draw(st.integers(1, 4))
    nodes = {}

    def grow(prefix):
        if len(prefix) == depth:
            nodes[prefix] = draw(st.booleans())
            return
        nodes[prefix] = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
        for token in range(len(nodes[prefix])):
            grow((*prefix, token))

    grow(())
    path = ()
    while len(path) < depth:
        path = (*path, draw(st.integers(0, len(nodes[path]) - 1)))
    return nodes, path


def success(nodes, prefix):
    """By enumeration of every leaf below, as an exact fraction."""
    node = nodes[prefix]
    if isinstance(node, bool):
        return Fraction(node)
    return sum(Fraction(weight, sum(node)) * success(nodes, (*prefix, token)) for token, weight in enumerate(node))


def share(nodes, path, position):
    node = nodes[path[:position]]
    return Fraction(node[path[position]], sum(node))


def otherwise(nodes, path, position):
    """a at `position`, by enumeration."""
    node, taken = nodes[path[:position]], path[position]
    rest = sum(node) - node[taken]
    others = [(Fraction(weight, rest), token) for token, weight in enumerate(node) if token != taken]
    return sum(weight * success(nodes, (*path[:position], token)) for weight, token in others)


def trace_of(nodes, path):
    probabilities = tuple(float(share(nodes, path, position)) for position in range(len(path)))
    return Trace(prompt=(), tokens=path, probabilities=probabilities, success=nodes[path])


@given(trees(), st.sampled_from([0.05, 0.2, 0.5]))
@settings(deadline=None, max_examples=150)
def test_the_recursion_gives_the_probabilities_of_the_tree(tree, gap):
    nodes, path = tree
    trace = trace_of(nodes, path)
    p = [success(nodes, path[:position]) for position in range(len(path) + 1)]
    for position, (before, after) in enumerate(pairwise(p)):
        pi = share(nodes, path, position)
        assert abs(after - before) <= 1 - pi  # the bound, exactly
        if pi < 1:
            assert after - before == (1 - pi) * (after - otherwise(nodes, path, position))
    blocks = blocks_of(trace, gap=gap)
    assert [at for block in blocks for at in block.positions] == [
        at for at in range(len(path)) if share(nodes, path, at) < 1
    ]
    a = [
        sum(w * float(otherwise(nodes, path, at)) for at, w in zip(block.positions, block.law, strict=True))
        for block in blocks
    ]
    stay = np.array([block.stay for block in blocks])
    estimates = estimate(stay, np.array(a) * 10, np.full(len(blocks), 10.0), outcome=trace.success, prior=0.0)
    ends = [block.positions[0] for block in blocks] + [len(path)]
    assert estimates.success_K1 == pytest.approx([float(p[end]) for end in ends])
    for block, change in zip(blocks, estimates.change_K, strict=True):
        assert sum(block.law) == pytest.approx(1)
        assert abs(change) <= block.leave + 1e-12
        assert change == pytest.approx(float(p[block.positions[-1] + 1] - p[block.positions[0]]))
        assert block.is_candidate == (1 - trace.probabilities[block.positions[0]] >= gap)
        assert block.is_candidate or all(1 - trace.probabilities[at] < gap for at in block.positions)


@given(trees())
@settings(deadline=None, max_examples=100)
def test_leaving_somewhere_behind_a_position_gives_p_there(tree):
    nodes, path = tree
    trace = trace_of(nodes, path)
    for after in range(len(path) + 1):
        stay, places, law = leaving_law(trace, after)
        q = sum(w * float(otherwise(nodes, path, int(at))) for at, w in zip(places, law, strict=True))
        assert stay * trace.success + (1 - stay) * q == pytest.approx(float(success(nodes, path[:after])))


def test_estimates_from_fixed_numbers_are_unbiased_with_the_stated_variance():
    random = np.random.default_rng(0)
    stay = np.array([0.6, 0.9, 0.3, 0.75, 0.5])
    a, n = np.array([0.2, 0.5, 0.9, 0.4, 0.1]), np.array([3.0, 2.0, 8.0, 5.0, 12.0])
    truth = estimate(stay, a * n, n, outcome=1.0, prior=0.0)
    runs = [
        estimate(stay, random.binomial(n.astype(int), a), n, outcome=1.0, prior=0.0, least_variance=False)
        for _ in range(8000)
    ]
    changes, variances = np.array([run.change_K for run in runs]), np.array([run.change_variance_K for run in runs])
    spread = changes.std(0)
    assert np.abs(changes.mean(0) - truth.change_K) == pytest.approx(0, abs=4 * spread.max() / np.sqrt(len(runs)))
    stated = [(1 - stay[k]) ** 2 * (own_variance(stay, a, n, k + 1) + a[k] * (1 - a[k]) / n[k]) for k in range(5)]
    assert changes.var(0) == pytest.approx(np.array(stated), rel=0.06)
    assert variances.mean(0) == pytest.approx(np.array(stated), rel=0.03)


def own_variance(stay, a, n, k):
    """Var p before block k, written out."""
    follow = [np.prod(stay[k:j]) * (1 - stay[j]) for j in range(k, len(stay))]
    return sum(c**2 * a[j] * (1 - a[j]) / n[j] for c, j in zip(follow, range(k, len(stay)), strict=True))


def test_rollouts_go_where_they_lower_the_variance_most_per_token():
    """No other division of the same tokens, of 2000 near and far, has a smaller sum of variances."""
    random = np.random.default_rng(3)
    stay, a = random.uniform(0.2, 0.95, 6), random.uniform(0.1, 0.9, 6)
    cost, wanted = random.uniform(20, 200, 6), np.array([True, False, True, False, True, False])

    def objective(n):
        return sum(
            (1 - stay[k]) ** 2 * (own_variance(stay, a, n, k + 1) + a[k] * (1 - a[k]) / n[k])
            for k in np.flatnonzero(wanted)
        )

    chosen = allocation(stay, a * (1 - a), np.zeros(6), cost, wanted, 3000).astype(float)
    assert chosen.sum() == pytest.approx(3000, abs=6)
    best, tokens = objective(np.maximum(chosen, 1e-3)), chosen @ cost
    for _ in range(2000):
        other = np.maximum(chosen, 1) * np.exp(random.normal(0, random.choice([0.05, 0.5]), 6))
        assert objective(other * tokens / (other @ cost)) >= best * 0.999
    assert chosen[0] > 0
    assert allocation(stay, a * (1 - a), np.zeros(6), cost, np.zeros(6, dtype=bool), 100).sum() == 0
    grown = allocation(stay, a * (1 - a), chosen, cost, wanted, 500)
    assert grown.sum() == pytest.approx(500, abs=6)
    assert chosen + grown == pytest.approx(allocation(stay, a * (1 - a), np.zeros(6), cost, wanted, 3500), abs=2)
