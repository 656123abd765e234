"""Losses of preference pairs, as functions of log-probabilities; each docstring is the equation.

    d = (log p(chosen) - log p(rejected)) - (log q(chosen) - log q(rejected))

p is the model, q the reference model; log-probabilities are sums over the tokens of a side unless said otherwise.

Legend: Q pairs.
"""

from __future__ import annotations

import math

import torch.nn.functional as functional
from torch import Tensor


def sigmoid_loss(difference_Q: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-(1 - e) log s(beta d) - e log s(-beta d); DPO (Rafailov et al. 2023, equation 7), with e Mitchell 2023."""
    scaled_Q = beta * difference_Q
    right_Q, wrong_Q = functional.logsigmoid(scaled_Q), functional.logsigmoid(-scaled_Q)
    return -(1 - label_smoothing) * right_Q - label_smoothing * wrong_Q


def ipo_loss(difference_Q: Tensor, *, beta: float) -> Tensor:
    """(d - 1 / (2 beta))^2 (Azar et al. 2023, equation 17); d of means over tokens, so that length does not win."""
    return (difference_Q - 1 / (2 * beta)).square()


def loss_before_the_first_update(loss: str, *, beta: float) -> float:
    """Loss of a pair as long as the model equals its reference model: ln 2, or 1 / (4 beta^2)."""
    return math.log(2) if loss == "sigmoid" else 1 / (4 * beta * beta)
