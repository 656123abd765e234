"""The context of a forward pass: its attention, the positions of its tokens, and its targets.

Made for each micro-batch and handed to every pipeline stage, so that nothing is left on a module for a later call
to find.
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
    """Position of each token in its text; None: rows are texts from their first token on.

    Of one row (B = 1) alone, which may consist of parts of several texts. In several rows positions count from the
    start of the row whatever is said here: rotary positions are relative.
    """
