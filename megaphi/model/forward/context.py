"""The context of a forward pass: its attention, the positions of its tokens, and its targets.

It is made for each micro-batch and passed to every pipeline stage, so that no module keeps state between calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from megaphi.model.forward.attention import Attention
from megaphi.model.forward.targets import Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardContext:
    """One pass of B rows of S tokens; under context parallelism, S is what this rank holds."""

    attention: Attention
    targets: Targets
    positions_BS: Tensor | None = None
    """Position of each token in its text; None: every row is one text from its first token on.

    Used for a single row only (B = 1), which may hold parts of several texts. In several rows positions always count
    from the start of the row: rotary positions are relative.
    """
