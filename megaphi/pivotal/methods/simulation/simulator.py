"""Rollouts of a world: answers `Draw`s exactly, numbered as the contract says, and counts what they cost.

A rollout depends on (seed, position, excluded token, purpose, number) alone, so the order of requests changes nothing.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from megaphi.pivotal.methods.rollout import Draw, Purpose, Rollout
from megaphi.pivotal.methods.simulation.world import FILLER, TRACE_TOKEN, KnownWorld

Key = tuple[int, int | None, Purpose]


class Simulator:
    """A sampler with an oracle for one world.

    Args:
        shares_prefixes: hand out plain search rollouts from shorter prefixes that followed the trace so far.
    """

    def __init__(self, world: KnownWorld, *, seed: int, shares_prefixes: bool = False) -> None:
        self.world, self._seed, self._shares = world, seed, shares_prefixes
        self._made: dict[Key, list[Rollout]] = {}
        self._random: dict[Key, np.random.Generator] = {}
        probabilities = np.array(world.trace.probabilities)
        self._follows_L1 = np.concatenate(([0.0], np.cumsum(np.log(probabilities))))
        """Logarithm of the probability of the first i tokens."""
        self._cumulative = [np.cumsum(fork.shares)[:-1].tolist() for fork in world.forks]
        self._values = [fork.values.tolist() for fork in world.forks]
        self.tokens = 0
        """Generated so far."""

    def answer(self, draws: Sequence[Draw]) -> list[list[Rollout]]:
        return [self._rollouts(draw) for draw in draws]

    def _rollouts(self, draw: Draw) -> list[Rollout]:
        key: Key = (draw.position, draw.excluded, draw.purpose)
        made = self._made.setdefault(key, [])
        missing = draw.count - len(made)
        if missing > 0 and self._shares and draw.excluded is None and draw.purpose == "search":
            made += self._passing(draw.position, missing)
        fresh = self._fresh(key, draw.count - len(made))
        self.tokens += sum(len(rollout.tokens) for rollout in fresh)
        made += fresh
        return made[: draw.count]

    def _passing(self, position: int, most: int) -> list[Rollout]:
        """Rollouts from shorter prefixes that are the trace up to `position`, each handed out here once."""
        if self._made[(position, None, "search")]:
            return []
        found = []
        for (begun, excluded, purpose), rollouts in sorted(self._made.items(), key=lambda item: item[0][0]):
            if begun < position and excluded is None and purpose == "search":
                followed = (TRACE_TOKEN,) * (position - begun)
                found += [
                    Rollout(rollout.tokens[position - begun :], rollout.outcome, is_shared=True)
                    for rollout in rollouts
                    if not rollout.is_shared and rollout.tokens[: position - begun] == followed
                ]
        return found[:most]

    def _fresh(self, key: Key, count: int) -> list[Rollout]:
        if count <= 0:
            return []
        position, excluded, purpose = key
        if key not in self._random:
            seed = zlib.crc32(repr((self._seed, position, excluded, purpose)).encode())
            self._random[key] = np.random.default_rng(seed)
        uniform = self._random[key].random((count, 5))
        if excluded is not None:
            return [self._left(position, position, row) for row in uniform.tolist()]
        # Followed up to position + n if the logarithm of n tokens' probability is still above log(u).
        limits = self._follows_L1[position] + np.log(uniform[:, 0])
        places = np.searchsorted(-self._follows_L1, -limits, side="left") - 1
        return [self._left(position, place, row) for place, row in zip(places.tolist(), uniform.tolist(), strict=True)]

    def _left(self, begun: int, place: int, uniform: Sequence[float]) -> Rollout:
        """A rollout from `begun` that leaves the trace at `place`, or never if that is its end."""
        world, trace = self.world, self.world.trace
        length = len(trace.tokens)
        if place >= length:
            return Rollout(trace.tokens[begun:], "success" if trace.success else "failure")
        which = bisect_right(self._cumulative[place], uniform[1])
        low, high = world.tail_share
        tail = round((length - place - 1) * (low + (high - low) * uniform[3]))
        tokens = trace.tokens[begun:place] + (TRACE_TOKEN + 1 + which,) + (FILLER,) * tail
        if uniform[4] < world.censored_share:
            return Rollout(tokens, "censored")
        return Rollout(tokens, "success" if uniform[2] < self._values[place][which] else "failure")
