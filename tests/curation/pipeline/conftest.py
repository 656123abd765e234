"""Input of the tests of the pipeline, and what a run of it left."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard

RECIPE = f"{Path(__file__).with_name('my_steps.py')}:recipe"


def write_source(path: Path) -> None:
    """200 records, some of them broken, some the same as another one."""
    draw = random.Random(0)
    lines = []
    for number in range(200):
        text = " ".join(draw.choices("a b c odd boom".split(), [5, 5, 5, 0.3, 0.3], k=draw.randrange(1, 8)))
        record = {"id": f"d{number}", "text": text, "url": f"http://example.org/{number}", "number": number}
        lines.append(json.dumps(record) if number % 50 else "{broken")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The input of `recipe` and the folder that it writes."""
    path = tmp_path / "input.jsonl"
    write_source(path)
    monkeypatch.setenv("CURATION_INPUT", str(path))
    monkeypatch.setenv("CURATION_FOLDER", str(tmp_path / "run"))
    return path


def records_of(path: Path) -> list[dict[str, Any]]:
    """All records of a compressed file, or of all such files of a folder in the order of their names."""
    paths = sorted(path.rglob("*.jsonl.zst")) if path.is_dir() else [path]
    return [
        json.loads(line)
        for each in paths
        for line in zstandard.ZstdDecompressor().stream_reader(each.read_bytes()).read().splitlines()
    ]


def result_of(folder: Path) -> dict[str, bytes]:
    """Every file that a run left, but for what tells of its time: seconds, locks, what steps keep for themselves."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in ("seconds.json", "report.md", "report.html")
        and not path.name.startswith((".claim", ".lock", ".deciding", ".finishing"))
        and "steps" not in path.relative_to(folder).parts[:1]
    }
