"""Charts in characters: as large as asked for, extremes where they belong, and no number that breaks them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.monitoring.text_chart import LABEL, line_chart, sparkline

POINTS = st.lists(st.tuples(st.floats(), st.floats()), max_size=40).map(lambda points: sorted(points, key=repr))
ORDERED = st.lists(st.floats(allow_nan=False, width=32), max_size=60).map(lambda ys: list(enumerate(map(float, ys))))


@given(points=ORDERED, marks=POINTS, width=st.integers(20, 120), height=st.integers(2, 12), braille=st.booleans())
def test_a_chart_has_its_size(
    points: list[tuple[float, float]],
    marks: list[tuple[float, float]],
    width: int,
    height: int,
    braille: bool,
) -> None:
    lines = line_chart(points, marks, width=width, height=height, braille=braille)
    assert all(len(line) == width for line in lines)
    assert len(lines) in (0, height)


@given(st.lists(st.floats()), st.integers(1, 50))
def test_a_sparkline_takes_any_numbers(values: list[float], width: int) -> None:
    assert len(sparkline(values, width=width)) <= width


def test_the_line_goes_from_its_largest_value_to_its_least() -> None:
    lines = line_chart([(1, 8.0), (2, 4.0), (3, 0.0)], [(2, 8.0)], width=LABEL + 9, height=3, braille=False)
    assert lines == ["         8  *** o    ", "               ***   ", "         0        ***"]


@pytest.mark.parametrize("spike", [3, 500, 997])
def test_a_spike_of_one_step_is_seen(spike: int) -> None:
    points = [(float(step), 100.0 if step == spike else 1.0) for step in range(1_000)]
    lines = line_chart(points, width=60, height=6)
    column = LABEL + round(spike / 999 * (2 * (60 - LABEL) - 1)) // 2
    assert all(line[column] != " " for line in lines)
    assert sum(line[LABEL:].strip() != "" for line in lines[:-1]) == 5


def test_bars_are_means() -> None:
    assert sparkline([0, 0, 7, 7], width=2) == "▁█"
    assert sparkline([1.0], width=9) == "▁"
    assert sparkline([], width=9) == ""
