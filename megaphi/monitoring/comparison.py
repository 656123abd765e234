"""Several runs side by side: their losses after the same tokens, and the fields in which they differ.

Runs of different batch shapes reach a number of tokens at different steps, so steps are not compared. A loss is the
mean over the records of a stretch of tokens, the same stretch for all; a run that has not come so far has none.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from megaphi.config import difference
from megaphi.foreign.visible_text import one_line
from megaphi.monitoring.history import History
from megaphi.monitoring.observed_run import ObservedRun
from megaphi.monitoring.progress import progress_of
from megaphi.monitoring.quantities import quantity
from megaphi.monitoring.text_chart import sparkline

STRETCHES = 10
"""Stretches of tokens into which the longest run is cut."""
LONGEST_NAME = 24
MOST_FIELDS = 30
UNCOMPARED = ("folder", "recipe")


def comparison(runs: Sequence[ObservedRun], *, width: int, unicode: bool = True) -> list[str]:
    """Lines: the state of each run, a table of losses, and how their configurations differ from the first's."""
    lines = [
        *_states(runs, width=width, unicode=unicode),
        "",
        *_table(runs),
        "",
        *_fields(runs),
        *(f"{run.name}: {problem}" for run in runs for problem in run.problems),
    ]
    return [one_line(line)[:width] for line in lines]


def losses_at_tokens(history: History, edges: Sequence[float]) -> list[float | None]:
    """Mean loss between each edge and the one before it, of a run that has reached the edge; else None."""
    points = over_tokens(history, "loss")
    tokens = [at for at, _ in points]
    places = [0, *(bisect_right(tokens, edge) for edge in edges)]
    means: list[float | None] = []
    for edge, (first, last) in zip(edges, pairwise(places), strict=True):
        within = [loss for _, loss in points[first:last]]
        is_reached = bool(within) and history.last.get("tokens", 0.0) >= edge * (1 - 1e-9)
        means.append(math.fsum(within) / len(within) if is_reached else None)
    return means


def over_tokens(history: History, name: str) -> list[tuple[float, float]]:
    """(tokens, value) of a metric; a step that the guard left out may have no value."""
    tokens = dict(zip(history["tokens"].steps, history["tokens"].values, strict=True))
    column = history[name]
    return [(tokens[step], value) for step, value in zip(column.steps, column.values, strict=True) if step in tokens]


def token_edges(runs: Sequence[ObservedRun]) -> list[float]:
    """Ends of equal stretches up to the tokens of the longest run."""
    most = max(run.history.last.get("tokens", 0.0) for run in runs)
    return [most * place / STRETCHES for place in range(1, STRETCHES + 1)] if most else []


def short_names(runs: Sequence[ObservedRun]) -> list[str]:
    """A name of each run, by so much of its path as tells them apart."""
    parts = [run.folder.absolute().parts for run in runs]
    deepest = max(map(len, parts))
    count = next((n for n in range(1, deepest) if len({path[-n:] for path in parts}) == len(parts)), deepest)
    return ["/".join(path[-count:]) for path in parts]


def _states(runs: Sequence[ObservedRun], *, width: int, unicode: bool) -> Iterator[str]:
    for name, run in zip(short_names(runs), runs, strict=True):
        progress = progress_of(run)
        line = sparkline(run.history["loss"].values, width=20) if unicode else ""
        of = f" of {progress.steps:,}" if progress.steps else ""
        yield f"{name[-LONGEST_NAME:]:<{LONGEST_NAME}} {line:<20} step {progress.step:,}{of}, {progress.text}"


def _table(runs: Sequence[ObservedRun]) -> Iterator[str]:
    """Losses by tokens; of the runs after the first, the difference from it too."""
    edges = token_edges(runs)
    if not edges:
        yield "no losses yet"
        return
    names = [name[-14:] for name in short_names(runs)]
    yield f"{'loss up to':>12}" + "".join(f"{name:>15}{'':>9}" for name in names)
    columns = [losses_at_tokens(run.history, edges) for run in runs]
    for row, edge in enumerate(edges):
        first = columns[0][row]
        yield f"{quantity(edge):>12}" + "".join(
            _cell(column[row], first, place) for place, column in enumerate(columns)
        )
    validated = [run.history["validation_loss"] for run in runs]
    if any(column.steps for column in validated):
        last = [column.values[-1] if column.steps else None for column in validated]
        yield f"{'validation':>12}" + "".join(_cell(loss, last[0], place) for place, loss in enumerate(last))


def _cell(loss: float | None, first: float | None, place: int) -> str:
    if loss is None:
        return f"{'-':>15}{'':>9}"
    difference_shown = f"{loss - first:+.4f}" if place and first is not None else ""
    return f"{loss:15.4f}{difference_shown:>9}"


def _fields(runs: Sequence[ObservedRun]) -> Iterator[str]:
    names = short_names(runs)
    for name, run in zip(names[1:], runs[1:], strict=True):
        found = configuration_difference(runs[0], run)
        yield f"{name} differs from {names[0]} in {len(found)} fields" + (":" if found else "")
        yield from (f"  {path}: {old} -> {new}" for path, old, new in found[:MOST_FIELDS])
        if len(found) > MOST_FIELDS:
            yield f"  and {len(found) - MOST_FIELDS} more (megaphi inspect diff)"


def configuration_difference(first: ObservedRun, second: ObservedRun) -> list[tuple[str, object, object]]:
    """(field, value in the first, value in the second) of all fields that differ but those that name the run."""
    found = difference(dict(first.config), dict(second.config))
    return [row for row in found if row[0] not in UNCOMPARED]
