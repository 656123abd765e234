"""The small runs of a mixture fit: which shares each source gets, and which seed.

Shares are drawn from Dirichlet distributions around the recipe's own, some close to it and some far away (RegMix, arXiv
2407.01492, samples so). Besides those that the response is fitted to, there are repeats of the recipe's mixture under
other seeds, which say how much of a difference is noise, and mixtures that are kept from the fit to test it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from megaphi.errors import InputError

Role = Literal["fit", "repeat", "held_out", "proposed", "uniform"]
"""`proposed` and `uniform`: those that are trained after the fit, each with the seeds of the repeats."""
Shares = NDArray[np.float64]
"""Shares of the sources, in the order of the recipe; they sum to 1."""

CONCENTRATIONS = (3.0, 60.0)
"""Sum of the Dirichlet parameters: from mixtures in which few sources have nearly all, to ones like the recipe's."""
SMALLEST_SHARE = 0.01
"""A smaller one is set to 0: it would be a handful of samples in a small run."""
DIGITS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One small run."""

    name: str
    """Name of its folder: `fit-007`, `proposed-3fa8-001` (a proposal changes with the trials that it is from)."""
    role: Role
    shares: Mapping[str, float]
    """Share of each source; a source with 0 takes no part."""
    seed: int


def plan_trials(base: Mapping[str, float], *, runs: int, repeats: int, held_out: int, seed: int) -> list[Trial]:
    """The trials before the fit: first those that it uses (the recipe's mixture, the uniform one, and drawn ones).

    Args:
        base: the recipe's shares.
        runs: trials to fit.
        repeats: of the recipe's mixture, under other seeds.
        held_out: drawn mixtures to test the fit with.
        seed: of the draws; trials have seeds of their own from it, so that no response follows one seed's luck.

    Raises:
        InputError: too few runs for this many sources.
    """
    needed = len(base) + 3
    if runs < needed:
        raise InputError(f"--runs {runs}: a response over {len(base)} sources needs at least {needed}")
    if repeats < 2:
        raise InputError(f"--repeats {repeats}: at least 2, or nothing is known of the noise")
    names, base_S = list(base), np.array(list(base.values()))
    drawn = draw_shares(base_S / base_S.sum(), count=runs - 2 + held_out, seed=seed)
    mixtures = [rounded(base_S), np.full(len(names), 1 / len(names)), *drawn]
    fitted = [
        _trial("fit", number, names, share_S, seed=seed + number) for number, share_S in enumerate(mixtures[:runs])
    ]
    again = repeated("repeat", names, mixtures[0], repeats=repeats, seed=seed)
    tested = [
        _trial("held_out", number, names, share_S, seed=seed + runs + number)
        for number, share_S in enumerate(mixtures[runs:])
    ]
    return [*fitted, *again, *tested]


def repeated(role: Role, names: Sequence[str], share_S: Shares, *, repeats: int, seed: int) -> list[Trial]:
    """Trials of one mixture; those of two roles under the same seeds are compared in pairs."""
    return [_trial(role, number, names, share_S, seed=seed + 1_000 + number) for number in range(repeats)]


def draw_shares(base_S: Shares, *, count: int, seed: int) -> list[Shares]:
    """`count` mixtures around `base_S`, the logarithm of their concentration evenly spread."""
    draw = np.random.default_rng([seed, len(base_S), count])
    low, high = map(math.log, CONCENTRATIONS)
    drawn = []
    for place in range(count):
        concentration = math.exp(low + (high - low) * (place + 0.5) / count)
        drawn.append(rounded(draw.dirichlet(base_S * concentration)))
    draw.shuffle(drawn)
    return drawn


def rounded(share_S: Shares) -> Shares:
    """Shares without the tiny ones, in a few digits, summing to 1."""
    kept_S = np.where(share_S < SMALLEST_SHARE, 0.0, share_S)
    kept_S = np.round(kept_S / kept_S.sum(), DIGITS)
    kept_S[kept_S.argmax()] += 1 - kept_S.sum()
    return np.round(kept_S, DIGITS)


def _trial(role: Role, number: int, names: Sequence[str], share_S: Shares, *, seed: int) -> Trial:
    shares = {name: float(share) for name, share in zip(names, share_S, strict=True)}
    mark = f"-{hashlib.sha256(repr(shares).encode()).hexdigest()[:4]}" if role == "proposed" else ""
    return Trial(name=f"{role}{mark}-{number:03d}", role=role, shares=shares, seed=seed)
