"""One batch of next-token samples, as plain arrays: what `data` hands to the engine.

B samples of S tokens. Labels are the tokens one place further on, so the last label of a row is a token that the row
itself does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B samples of S tokens each, contiguous and owned by the batch."""

    tokens_BS: NDArray[np.int64]
    labels_BS: NDArray[np.int64]
    loss_mask_BS: NDArray[np.float32]
    """1 where the label is trained on, 0 where it is not."""
    document_ids_BS: NDArray[np.int32] | None
    """0, 1, 2, ... along each row, one more at every document start; None when attention may cross documents."""
    sample_numbers_B: NDArray[np.int64]
    """Where in the run each row belongs: its number determines everything in it."""
