"""Bradley and Terry's (1952) model of two players: the first wins with probability 1 / (1 + exp(-s)).

Of games between two models the likelihood is largest where that probability is the share of wins, ties counted as half
a win for each, so the strength s is its logit and the interval that of the share, clustered by question. 400 / ln 10
turns it into the points of Elo that arenas print.
"""

from __future__ import annotations

import math

from megaphi.pivotal.methods.findings import Band


def elo_difference(win_rate: Band) -> Band:
    """Points of Elo by which the first model is ahead; infinite where it won every game, or none."""
    return Band(*(_points(share) for share in (win_rate.estimate, win_rate.low, win_rate.high)))


def _points(share: float) -> float:
    if share <= 0 or share >= 1:
        return math.copysign(math.inf, share - 0.5)
    return 400 / math.log(10) * math.log(share / (1 - share))
