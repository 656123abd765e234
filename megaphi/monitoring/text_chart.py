"""A line chart in characters: braille dots, two by four to a character, or stars where they cannot be shown.

Each column of dots is filled from the least to the largest of its values, so that a spike of one step in a thousand is
seen. Values that are not finite are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

DOT = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of a braille character by row and column."""
LARGEST = 1e150
LABEL = 12
"""Width of the labels at the left."""


def line_chart(
    points: Sequence[tuple[float, float]],
    marks: Sequence[tuple[float, float]] = (),
    *,
    width: int,
    height: int,
    braille: bool = True,
) -> list[str]:
    """Lines of a chart `width` x `height` characters large.

    Args:
        points: of the line, from left to right.
        marks: single points, shown as o.
    """
    points, marks = _finite(points), _finite(marks)
    if not points:
        return []
    xs, ys = zip(*points, *marks, strict=True)
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    columns, rows = 2 * (width - LABEL), 4 * height
    across = (columns - 1) / (right - left) if right > left else 0.0
    up = (rows - 1) / (high - low) if high > low else 0.0
    cells = [[0] * (width - LABEL) for _ in range(height)]
    for column, values in _by_column(points, left, across).items():
        bottom, top = (round((value - low) * up) for value in (min(values), max(values)))
        for dot in range(bottom, top + 1):
            row = rows - 1 - dot
            cells[row // 4][column // 2] |= DOT[row % 4][column % 2]
    drawn = [[_shown(cell, braille=braille) for cell in row] for row in cells]
    for x, y in marks:
        drawn[(rows - 1 - round((y - low) * up)) // 4][round((x - left) * across) // 2] = "o"
    labels = {0: f"{high:.3g}", height - 1: f"{low:.3g}"}
    return [f"{labels.get(number, ''):>{LABEL - 2}}  {''.join(row)}" for number, row in enumerate(drawn)]


def sparkline(values: Sequence[float], *, width: int) -> str:
    """One row of bars, the means of equally many values each; empty for none."""
    finite = [value for value in values if abs(value) < LARGEST]
    if not finite:
        return ""
    width = min(width, len(finite))
    edges = [round(place * len(finite) / width) for place in range(width + 1)]
    means = [math.fsum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (mean - low) / (high - low)) if high > low else 0] for mean in means)


def _finite(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that can be drawn: sums and differences of such numbers are finite too."""
    return [(x, y) for x, y in points if abs(x) < LARGEST and abs(y) < LARGEST]


def _by_column(points: Sequence[tuple[float, float]], left: float, across: float) -> Mapping[int, list[float]]:
    """Values of the line through the points by column of dots."""
    columns: dict[int, list[float]] = {}
    before, value = round((points[0][0] - left) * across), points[0][1]
    for x, y in points:
        column = round((x - left) * across)
        for between in range(before + 1, column):
            along = (between - before) / (column - before)
            columns.setdefault(between, []).append(value + along * (y - value))
        columns.setdefault(column, []).append(y)
        before, value = column, y
    return columns


def _shown(cell: int, *, braille: bool) -> str:
    if braille:
        return chr(0x2800 + cell) if cell else " "
    return "*" if cell else " "
