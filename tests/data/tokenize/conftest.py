"""Input of the tests of tokenising: a file of the texts that each test file names in its fixture `texts`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest


@pytest.fixture
def source(tmp_path: Path, texts: Sequence[str]) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
