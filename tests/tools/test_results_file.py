"""Rows of benchmarks' results: a header once, values in the columns' order, and no row with other columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results_file import append_rows


def test_rows_are_appended_under_one_header(tmp_path: Path) -> None:
    path = tmp_path / "speed.csv"
    append_rows(path, ["date", "side", "seconds"], [["today", "ours", 1.5], {"side": "theirs", "date": "today"}])
    append_rows(path, ["date", "side", "seconds"], ({"side": name, "seconds": 2} for name in "ab"))
    assert path.read_bytes() == b"date,side,seconds\ntoday,ours,1.5\ntoday,theirs,\n,a,2\n,b,2\n"


@pytest.mark.parametrize("row", [["today"], {"date": "today", "second": 1}])
def test_a_row_with_other_columns_is_an_error(tmp_path: Path, row: list[str] | dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"zip|second"):
        append_rows(tmp_path / "speed.csv", ["date", "seconds"], [row])
