"""Python's garbage collector in a training loop: frozen, and run at the same steps on every rank.

Left alone it runs whenever enough objects were made, on each rank in another step, and looks at all the objects of
torch and Megatron: all ranks wait for whichever is collecting.
"""

from __future__ import annotations

import gc
from types import TracebackType

STEPS_BETWEEN = 100


class GarbageCollection:
    """A context in which garbage is collected by `after` alone; what is there at its start is never looked at."""

    def __enter__(self) -> GarbageCollection:
        self._was_enabled = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def after(self, step: int) -> None:
        """Collect what the last steps left, if it is time."""
        if step % STEPS_BETWEEN == 0:
            gc.collect()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        gc.unfreeze()
        if self._was_enabled:
            gc.enable()
