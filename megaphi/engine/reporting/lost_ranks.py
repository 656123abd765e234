"""Events of lost ranks, once each: a rank's heartbeat and the launcher may both notice that a rank is gone.

No torch here: the launcher's own process imports this.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from megaphi.engine.reporting.events import Events, read_events
from megaphi.engine.reporting.metrics import read_metrics
from megaphi.errors import InputError


def note_lost_ranks(
    folder: Path, text: str, *, ranks: Sequence[int], hosts: Sequence[str], ended: bool, step: int | None = None
) -> None:
    """Add a `lost_rank` event, unless one of these ranks was the end of this start of the job already.

    Args:
        ranks: empty if only the lost contact is known.
        ended: whether the job ends for it.
        step: where the job was; None takes the last that was recorded.
    """
    if folder.is_dir() and not (ended and _is_noted(folder, ranks)):
        at = _last_step(folder) if step is None else step
        Events(folder).add("lost_rank", step=at, text=text, ranks=list(ranks), hosts=list(hosts), ended=ended)


def _is_noted(folder: Path, ranks: Sequence[int]) -> bool:
    for event in reversed(read_events(folder)):
        if event["kind"] in ("started", "resumed"):
            return False
        is_end = event["kind"] == "lost_rank" and event.get("ended")
        if is_end and (not ranks or set(ranks) & set(event.get("ranks", ()))):
            return True
    return False


def _last_step(folder: Path) -> int:
    with suppress(InputError, IndexError):
        return read_metrics(folder / "metrics.jsonl")[-1]["step"]
    return 0
