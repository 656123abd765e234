"""Generators of worlds that differ in what is hard: rare pivots, many small effects, plateaus, opposite pivots.

Each walks down the sampler's tree: at every position it makes the tokens that may come, with probabilities that sum to
1 and values whose mean is the present success probability, and draws one of them by its probability. So p is a
martingale exactly, |D_i| <= 1 - pi_i holds, and the known outcome at the end is part of the law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megaphi.pivotal.methods.simulation.world import Fork, KnownWorld, path_world

Floats = NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Recipe for the positions of a world."""

    length: int = 300
    certain: float = 0.6
    """Share of tokens with probability 1."""
    confident: float = 0.2
    """Share of tokens drawn from a fork whose first token has 0.9 or more."""
    pivots: float = 0.05
    """Share of the uncertain forks whose tokens differ widely in value."""
    scatter: float = 0.03
    """Standard deviation of the values at all other forks."""
    burst: float = 1.0
    """Pivots stand within this share of the length only, in the middle."""
    returns: float = 0.0
    """Probability that a pivot is followed, a few tokens later, by a fork whose first token takes the change back."""
    resolves: float = 0.5
    """Share of worlds in which the last open fork decides at once; in the others it is approached by steps."""


SPARSE = Kind()
DENSE = Kind(pivots=0.0, scatter=0.12)
PLATEAUS = Kind(length=500, certain=0.5, confident=0.4, pivots=0.5, scatter=0.0, burst=0.12)
CANCELLING = Kind(pivots=0.08, returns=0.9)
UNCERTAIN = Kind(certain=0.15, confident=0.05, pivots=0.012, scatter=0.015)
KINDS = {
    "sparse": SPARSE,
    "dense": DENSE,
    "plateaus": PLATEAUS,
    "cancelling": CANCELLING,
    "uncertain": UNCERTAIN,
}


def world_of(name: str, seed: int, *, censored_share: float = 0.0) -> KnownWorld:
    """The world of this kind ("null" is one too) and seed; its success probability at first lies within 0.2 and 0.8."""
    random = np.random.default_rng((seed, sum(name.encode())))
    path = _null_path(random) if name == "null" else _walk(KINDS[name], random)
    prompt = tuple(int(token) for token in random.integers(0, 2**31, 4))
    return path_world(path.probabilities, path.success, path.forks, prompt=prompt, censored_share=censored_share)


def _null_path(random: Random, *, length: int = 500, step: float = 0.05) -> _Path:
    """No token changes anything by more than `step`: the outcome is the end of a long walk with two ways at each fork.

    Half of the tokens are open; a walk of steps so small ends at 0 or 1 after hundreds of them.
    """
    p = float(random.uniform(0.3, 0.7))
    path = _Path(p)
    while not (path.p in (0.0, 1.0) and len(path.probabilities) >= length):
        if random.random() < 0.5 or path.p in (0.0, 1.0):
            path.certain()
        else:
            up, down = min(step, 1 - path.p), min(step, path.p)
            shares = np.array([down, up]) / (up + down)
            values = np.array([_snapped(path.p + up), _snapped(path.p - down)])
            path.fork(random, shares, values)
    return path


def _walk(kind: Kind, random: Random) -> _Path:
    path = _Path(float(random.uniform(0.2, 0.8)))
    decides = random.random() < kind.resolves
    returning: tuple[int, float] | None = None
    last = kind.length - 12
    for position in range(kind.length):
        if path.p in (0.0, 1.0) or position >= kind.length - 1:
            if 0 < path.p < 1:
                _resolve(path, random)
            else:
                path.certain()
        elif position >= last:
            _resolve(path, random) if decides else _approach(path, random)
        elif returning and position >= returning[0]:
            _take_back(path, random, returning[1])
            returning = None
        else:
            before = path.p
            is_pivot = _step(path, random, kind, position)
            if is_pivot and abs(path.p - before) >= 0.15 and random.random() < kind.returns:
                returning = (position + int(random.integers(2, 8)), before)
    return path


def _step(path: _Path, random: Random, kind: Kind, position: int) -> bool:
    """One ordinary position; true if it was a pivot."""
    draw = random.random()
    if draw < kind.certain:
        path.certain()
        return False
    tokens = int(random.integers(2, 6))
    first = random.uniform(*((0.9, 1.0) if draw < kind.certain + kind.confident else (0.15, 0.95)))
    shares = np.concatenate(([first], (1 - first) * random.dirichlet(np.full(tokens - 1, 0.7))))
    middle = abs(position / kind.length - 0.5) <= kind.burst / 2
    is_pivot = first < 0.9 and middle and random.random() < kind.pivots
    spread = random.uniform(0.25, 0.6) if is_pivot else kind.scatter
    values = path.p + spread * (random.choice([-1.0, 1.0], tokens) if is_pivot else random.standard_normal(tokens))
    path.fork(random, shares, with_mean(values, shares, path.p))
    return is_pivot


def with_mean(values: Floats, shares: Floats, mean: float) -> Floats:
    """Values within 0 and 1, pulled towards 0 or 1 until their mean is right."""
    values = np.clip(values, 0, 1)
    present = float(shares @ values)
    if present > mean:
        return values * (mean / present)
    return 1 - (1 - values) * ((1 - mean) / (1 - present)) if present < 1 else values


def _take_back(path: _Path, random: Random, target: float) -> None:
    """A fork whose first token, of probability 0.7, leads back to `target`."""
    share = 0.7
    other = (path.p - share * target) / (1 - share)
    if not 0 <= other <= 1:
        other = min(max(other, 0.0), 1.0)
        target = (path.p - (1 - share) * other) / share
    path.fork(random, np.array([share, 1 - share]), np.array([target, other]))


def _resolve(path: _Path, random: Random) -> None:
    """The answer itself: right with probability p, among one or two wrong ones."""
    wrong = random.dirichlet(np.ones(int(random.integers(1, 3)))) * (1 - path.p)
    path.fork(random, np.concatenate(([path.p], wrong)), np.array([1.0, *[0.0] * len(wrong)]))


def _approach(path: _Path, random: Random) -> None:
    """A step of 0.25 up or down, to the end if that is nearer."""
    up, down = min(0.25, 1 - path.p), min(0.25, path.p)
    values = np.array([_snapped(path.p + up), _snapped(path.p - down)])
    path.fork(random, np.array([down, up]) / (up + down), values)


def _snapped(p: float) -> float:
    return float(round(p)) if min(p, 1 - p) < 1e-9 else p


class _Path:
    """A trace as it grows."""

    def __init__(self, p: float) -> None:
        self.p = p
        self.probabilities: list[float] = []
        self.success = [p]
        self.forks: list[Fork] = []

    def certain(self) -> None:
        self._append(1.0, self.p, Fork(np.zeros(0), np.zeros(0)))

    def fork(self, random: Random, shares: Floats, values: Floats) -> None:
        """Draw the trace's token by its probability; what is left are the alternatives."""
        taken = int(random.choice(len(shares), p=shares / shares.sum()))
        others = np.delete(shares, taken)
        if others.sum() <= 1e-9:
            self.certain()
            return
        fork = Fork(others / others.sum(), np.delete(values, taken))
        self._append(float(shares[taken]), _snapped(float(values[taken])), fork)

    def _append(self, probability: float, p: float, fork: Fork) -> None:
        self.probabilities.append(probability)
        self.p = p
        self.success.append(p)
        self.forks.append(fork)
