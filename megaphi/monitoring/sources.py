"""Tokens that a run has read of each source, beside those that its mixture asked for up to that step.

Read is what the newest record of a save says; planned are the exact counts of the mixture's blend. They differ where
the mixture was edited during the run. Nothing here opens a data file: sizes come from the ledger of the checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megaphi.config import from_plain
from megaphi.data.order.blend import Blend
from megaphi.data.order.mixture import Mixture
from megaphi.data.order.schedule import lay_out_stages
from megaphi.errors import InputError
from megaphi.monitoring.observed_run import ObservedRun

PREFIX = "tokens/"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceShare:
    """Tokens of one source."""

    name: str
    read: int
    planned: int | None
    """By the mixture of config.json, at the same step; None if that is not known."""
    held: int | None
    """Tokens that its datasets hold."""

    @property
    def epochs(self) -> float | None:
        return self.read / self.held if self.held else None


def source_shares(run: ObservedRun) -> list[SourceShare]:
    """Every source that was read or planned, at the step of the newest record that tells."""
    history = run.history
    names = [name for name in history.names(PREFIX) if len(history[name].steps)]
    if not names:
        return []
    step = max(history[name].steps[-1] for name in names)
    read = {name.removeprefix(PREFIX): int(history[name].values[-1]) for name in names}
    planned, held = _planned(run, step), _held(run.checkpoint)
    return [
        SourceShare(
            name=name,
            read=read.get(name, 0),
            planned=planned.get(name, 0) if planned else None,
            held=held.get(name),
        )
        for name in dict.fromkeys([*read, *planned])
    ]


def _planned(run: ObservedRun, step: int) -> Mapping[str, int]:
    """Tokens of each source by the mixture, after `step` steps; empty if the run has none."""
    try:
        mixture = from_plain(Mixture, run.field("task.mixture"))
        spans = lay_out_stages(
            mixture,
            steps=max(step, run.number("training.steps")),
            sequence_length=run.number("batch.sequence_length"),
            global_batch=run.number("batch.global_batch"),
        )
        tokens: Counter[str] = Counter()
        for span in spans:
            taken = max(0, min(step, span.end_step) - span.first_step) * span.global_batch
            if taken:
                counts = Blend(span.weights, total_samples=span.samples).counts(taken).tolist()
                for name, samples in zip(span.sources, counts, strict=True):
                    tokens[name] += samples * span.sequence_length
    except InputError:
        return {}
    return tokens


def _held(state: Mapping[str, Any]) -> dict[str, int]:
    """Tokens of each source by a checkpoint's ledger."""
    ledger = state.get("ledger")
    sources = ledger.get("sources") if isinstance(ledger, Mapping) else None
    found: dict[str, int] = {}
    for source in sources if isinstance(sources, list) else ():
        datasets = source.get("datasets") if isinstance(source, Mapping) else None
        if isinstance(datasets, list) and isinstance(source.get("name"), str):
            sizes = [one.get("tokens") for one in datasets if isinstance(one, Mapping)]
            found[source["name"]] = sum(size for size in sizes if type(size) is int and size > 0)
    return found
