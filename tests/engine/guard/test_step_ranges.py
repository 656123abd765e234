"""Ranges of steps against plain sets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.engine.guard.step_ranges import StepRanges, contains, parse_ranges, with_steps
from megaphi.errors import InputError


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), max_size=12))
def test_ranges_are_sets_of_steps(added: list[tuple[int, int]]) -> None:
    ranges: StepRanges = ()
    for first, more in added:
        ranges = with_steps(ranges, first, first + more)
    expected = {step for first, more in added for step in range(first, first + more + 1)}
    assert {step for step in range(80) if contains(ranges, step)} == expected
    assert all(left[1] + 1 < right[0] for left, right in pairwise(ranges))
    assert parse_ranges([f"{first}-{last}" for first, last in ranges], where="field") == ranges


@pytest.mark.parametrize("text", ["", "0", "-3", "5-4", "1-", "a", "1.5", "1-2-3", "٣", "9" * 30])
def test_what_is_no_range_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputError, match=r"guard\.skip_steps: '.*'"):
        parse_ranges(("1", text), where="guard.skip_steps")
