"""Differences of a layout from one process, and how large they may be: limits that follow from the arithmetic.

fp32: the same sums in another order. One sum of n terms errs by about 2^-24 sqrt(n), as a random walk; a chain of c
products, in either of two computations, adds up as one, too:

    gradient:  d = 2 x 2^-24 x sqrt(n) x sqrt(c)      n: the longest sum, c = 4 x layers + 2 products in a chain
    loss, gradient norm of step k:  k d               every update adds one more gradient's error
    weights, against their change in training:  sqrt(2 d)

The last, because AdamW divides a gradient by its own size: an element smaller than d times the usual, a share of about
d of them, moves in any direction by a whole step. A defect (a sum that was forgotten or done twice) changes gradients
by percents, ten thousand times the limit.

bfloat16 (and fp8): at most twice the error that one process makes in this precision, each against one process in fp32
(flash-attention's rule for kernels), plus what rounding the result alone may do: 2^-9. Of weights the limit is at least
sqrt(2 d) here too, d being that of the tensor's gradient: in a norm of a hundred elements it is chance whether one of
them moves the other way, in one process and in a layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from megaphi.engine.run_config import RunConfig

FP32, BF16 = 2.0**-24, 2.0**-9
"""Largest relative error of one rounding."""
TIMES_OWN_ERROR = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """Relative differences from one process."""

    losses: list[float]
    norms: list[float]
    """By step."""
    gradients: dict[str, float]
    """By tensor, after the first step; infinite where the ranks do not hold every element once."""
    weights: dict[str, tuple[float, int]]
    """By tensor, after the last step, over its change in training; with the rank that differs most."""

    def items(self) -> Iterator[tuple[str, float]]:
        """Everything that has a limit, by name."""
        for step, (loss, norm) in enumerate(zip(self.losses, self.norms, strict=True), start=1):
            yield f"loss of step {step}", loss
            yield f"gradient norm of step {step}", norm
        yield from ((f"gradient of {name}", one) for name, one in self.gradients.items())
        yield from ((f"weight {name}", one) for name, (one, _) in self.weights.items())


def limits_from(own: Differences) -> dict[str, float]:
    """Limit of each item in bf16, from the errors that one process makes."""
    found = {name: TIMES_OWN_ERROR * error + BF16 for name, error in own.items()}
    moved = {f"weight {name}": math.sqrt(2 * found[f"gradient of {name}"]) for name in own.weights}
    return found | {name: max(found[name], limit) for name, limit in moved.items()}


def exact_limit(twin: RunConfig) -> float:
    """d, the limit of a gradient in fp32."""
    tokens = twin.batch.global_batch * twin.batch.sequence_length
    longest = max(tokens, twin.model.vocabulary, twin.model.feed_forward)
    return 2 * FP32 * math.sqrt(longest) * math.sqrt(4 * twin.model.layers + 2)


def limit_of(name: str, twin: RunConfig, bf16_limits: Mapping[str, float] | None) -> float:
    """The limit of an item of `Differences`."""
    if bf16_limits is not None:
        return bf16_limits[name]
    exact = exact_limit(twin)
    if name.startswith("weight "):
        return math.sqrt(2 * exact)
    return exact * int(name.rsplit(" ", 1)[1]) if " of step " in name else exact


def beyond(
    found: Differences, twin: RunConfig, bf16_limits: Mapping[str, float] | None
) -> list[tuple[str, float, float]]:
    """(item, difference, limit) of everything beyond its limit, the worst first; NaN is beyond."""
    wrong = [(name, one, limit_of(name, twin, bf16_limits)) for name, one in found.items()]
    return sorted((row for row in wrong if not row[1] <= row[2]), key=lambda row: -_factor(row))


def worst(
    found: Differences, kind: str, twin: RunConfig, bf16_limits: Mapping[str, float] | None
) -> tuple[str, float, float]:
    """(item, difference, limit) of a kind's item (`loss`, `gradient of`) that is nearest to its limit, or beyond."""
    rows = [(name, one, limit_of(name, twin, bf16_limits)) for name, one in found.items() if name.startswith(kind)]
    return max(rows, key=_factor)


def _factor(row: tuple[str, float, float]) -> float:
    return math.inf if math.isnan(row[1]) else row[1] / row[2]
