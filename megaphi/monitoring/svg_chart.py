"""A line chart as SVG, with marks for events: no script, no font, no file beside it.

matplotlib's SVG of the same chart is ten times as large and cannot follow the page's colours. A line has at most two
points per pixel, the least and the largest of its values there, so that a spike of one step is seen in any run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megaphi.monitoring.markup import Markup, element

WIDTH, HEIGHT = 720, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 8, 26
LARGEST = 1e150
TICKS = 5
COLOURS = ("#3b82c4", "#d9822b", "#2a9d76", "#c2517e", "#8a63c9", "#a3883a", "#4aa8b8", "#808080")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart, or single points of it."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    """Draw a circle at each point, which tells its values when it is pointed at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """An event: a vertical line that tells its text when it is pointed at."""

    x: float
    text: str
    is_problem: bool


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places: `first` lies at `start`, `last` at `end`."""

    first: float
    last: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def line_chart(
    lines: Sequence[Line], marks: Sequence[Mark] = (), *, title: str, unit: str, across: str, from_zero: bool = False
) -> Markup:
    """A figure with its title, legend and chart; nothing where no line has a point that can be drawn.

    Args:
        unit: of the values; `across` of what they are drawn over.
        from_zero: let the axis begin at 0.
    """
    lines = [Line(name=line.name, points=_finite(line.points), dots=line.dots) for line in lines]
    drawn = [(COLOURS[place % len(COLOURS)], line) for place, line in enumerate(lines) if line.points]
    if not drawn:
        return Markup()
    xs, ys = zip(*(point for _, line in drawn for point in line.points), strict=True)
    x = _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    low = min(0.0, *ys) if from_zero else min(ys)
    y = _Scale(low, max(ys), HEIGHT - BOTTOM, TOP)
    content = [*_grid(x, y, across), *_marks(marks, x)]
    for colour, line in drawn:
        content += _dots(line, colour, x, y) if line.dots else [_path(line, colour, x, y)]
    picture = element("svg", *content, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    legend = [
        element("span", element("i", style=f"background:{colour}"), line.name) for colour, line in drawn if line.name
    ]
    caption = element("figcaption", element("b", title), f" {unit} ", *legend)
    return element("figure", caption, picture)


def _finite(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that can be drawn: sums and differences of such numbers are finite too."""
    return [(x, y) for x, y in points if abs(x) < LARGEST and abs(y) < LARGEST]


def _path(line: Line, colour: str, x: _Scale, y: _Scale) -> Markup:
    points = " ".join(f"{x(at):g},{y(value):g}" for at, value in thinned(line.points, x))
    return element("polyline", points=points, stroke=colour)


def _dots(line: Line, colour: str, x: _Scale, y: _Scale) -> list[Markup]:
    shown = [
        element(
            "circle", element("title", f"{line.name} {value:.4g} at {at:,.0f}"), cx=x(at), cy=y(value), r=3, fill=colour
        )
        for at, value in thinned(line.points, x)
    ]
    return [_path(line, colour, x, y), *shown]


def thinned(points: Sequence[tuple[float, float]], x: _Scale) -> list[tuple[float, float]]:
    """The points with the least and the largest value of each pixel, in their order."""
    columns: dict[int, list[int]] = {}
    for place, (at, _) in enumerate(points):
        columns.setdefault(int(x(at)), []).append(place)
    kept = {
        place
        for places in columns.values()
        for place in (min(places, key=lambda one: points[one][1]), max(places, key=lambda one: points[one][1]))
    }
    return [points[place] for place in sorted({0, *kept, len(points) - 1})]


def _marks(marks: Sequence[Mark], x: _Scale) -> list[Markup]:
    return [
        element(
            "line",
            element("title", mark.text),
            x1=x(mark.x),
            x2=x(mark.x),
            y1=TOP,
            y2=HEIGHT - BOTTOM,
            class_="problem" if mark.is_problem else "event",
        )
        for mark in marks
        if x.first <= mark.x <= x.last
    ]


def _grid(x: _Scale, y: _Scale, across: str) -> list[Markup]:
    parts = []
    for value in ticks(y.first, y.last):
        place = y(value)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="grid"))
        parts.append(element("text", label(value), x=LEFT - 6, y=place + 4, text_anchor="end"))
    values = ticks(x.first, x.last)
    for number, value in enumerate(values):
        anchor = "end" if number == len(values) - 1 and x(value) > WIDTH - 60 else "middle"
        said = label(value) + (f" {across}" if number == len(values) - 1 else "")
        parts.append(element("text", said, x=x(value), y=HEIGHT - 8, text_anchor=anchor))
    return parts


def ticks(first: float, last: float) -> list[float]:
    """About `TICKS` round numbers from `first` to `last`; one number if they are the same."""
    if not last > first:
        return [first]
    rough = (last - first) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * factor for factor in (1, 2, 5) if power * factor >= rough), power * 10)
    start = math.ceil(first / step)
    return [place * step for place in range(start, start + 3 * TICKS) if place * step <= last + step * 1e-9]


def label(value: float) -> str:
    """A number of an axis: 0.002, 3.5, 120K, 2.5M, 1.2e+20."""
    size = abs(value)
    for limit, unit in ((1e15, ""), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "K")):
        if size >= limit and unit:
            return f"{value / (1e3 if unit == 'K' else limit):.6g}{unit}"
        if size >= limit:
            break
    return f"{value:.4g}"
