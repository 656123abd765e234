"""The position of a run in its data, as metrics: samples, tokens and, at saves, those of each source."""

from __future__ import annotations

from megaphi.engine.training_data import TrainingData


def data_position(data: TrainingData, step: int, *, by_source: bool) -> dict[str, int]:
    """Metrics of the position after update `step`; `by_source` takes longer, as it walks through the sources."""
    position = data.order.position_at(step)
    found = {"samples": position.sample, "tokens": position.tokens}
    if by_source:
        drawn = data.tokens_by_source(position.sample)
        found |= {f"tokens/{source}": tokens for source, tokens in drawn.items()}
    return found
