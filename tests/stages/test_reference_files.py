"""Stored reference log-probabilities are two finite numbers of a pair that can be such, or the file is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megaphi.errors import InputError
from megaphi.stages.reference_log_probabilities import read_known


@pytest.mark.parametrize("value", ["-1", None, True, [1], "NaN", "-Infinity", "1e30", "9" * 400])
def test_what_is_no_log_probability_is_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "part_00000.json").write_text('{"a": [-1.5, -2]}')
    assert read_known(tmp_path) == {"a": (-1.5, -2)}
    text = value if isinstance(value, str) and value != "-1" else json.dumps(value)
    (tmp_path / "part_00001.json").write_text(f'{{"b": [-1.5, {text}]}}')
    with pytest.raises(InputError, match=r"part_00001\.json: b has no two log-probabilities"):
        read_known(tmp_path)
