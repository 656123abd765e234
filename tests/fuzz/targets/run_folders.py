"""The folder of a stranger's run, as `megaphi watch` and `megaphi report` show it: the same bytes in each file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.structured import json_line, json_value
from tests.fuzz.target import Target

FILES = (
    "metrics.jsonl",
    "config.json",
    "events.jsonl",
    ".lock",
    "steps/rank_00000.jsonl",
    "checkpoints/step_1/state.json",
)
RECORD = {
    "step": 1, "loss": 2.5, "validation_loss/web": 3.0, "tokens": 4_096, "tokens/web": 4_096, "tokens_per_second": 5e3,
    "seconds/data": 0.1, "learning_rate": 1e-3, "host_memory_bytes": 1 << 30, "kind": "saved", "text": "saved",
    "time": "2026-11-30T02:10:00Z", "pid": 1, "host": "a", "boot": "b", "started": "1", "processes": "c",
}  # fmt: skip
SOURCES = [{"name": "web", "weight": 0.7, "paths": ["data/web"]}, {"name": "code", "weight": 0.3}]
CONFIG = {
    "step": 1, "recipe": "tiny", "training": {"steps": 40}, "batch": {"sequence_length": 32, "global_batch": 8},
    "task": {"mixture": {"sources": SOURCES, "stages": [{"name": "a", "tokens": 512}, {"name": "b"}]}},
    "ledger": {"sources": [{"name": "web", "datasets": [{"tokens": 3_000}]}]}, "versions": {"torch": "2.13.0"},
    "tokens_by_source": {"web": 4_096},
}  # fmt: skip


def look_at_a_run(content: bytes) -> None:
    """One frame, a comparison with itself, and a page; nothing of the files is obeyed by a terminal."""
    from megaphi.foreign.visible_text import is_one_line
    from megaphi.monitoring.comparison import comparison
    from megaphi.monitoring.frame import frame
    from megaphi.monitoring.observed_run import ObservedRun
    from megaphi.monitoring.page import page

    with tempfile.TemporaryDirectory(dir=".") as folder:
        for name in FILES:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (Path(folder) / "checkpoints" / "latest").write_text("step_1\n")
        run = ObservedRun(Path(folder))
        assert all(is_one_line(line) for line in (*frame(run, width=100), *comparison([run, run], width=100)))
        page([run])
        page([run, run])


def seeds() -> Sequence[bytes]:
    lines: list[dict[str, Any]] = [{**RECORD, "step": step, "loss": 3.0 / step} for step in range(1, 9)]
    return [
        "\n".join(map(json.dumps, lines)).encode() + b"\n",
        json.dumps(CONFIG).encode(),
        json.dumps(RECORD).encode(),
    ]


def hostile() -> Sequence[bytes]:
    """Numbers at the ends of what floats and integers hold, names that a terminal would obey."""
    extremes = (1e308, -1e308, 1e-320, float("nan"), float("inf"), 2**63, 10**300, -1, 0)
    names = ("loss", "tokens", "tokens/web", "seconds/data", "seconds", "host_memory_bytes", "learning_rate")
    records = [{**RECORD, "\x1b[2J\n": 1.0, name: value} for name in names for value in extremes]
    return [
        *(json.dumps(record).encode() + b"\n" for record in records),
        *(json.dumps({**RECORD, "step": step}).encode() + b"\n" for step in (2**53 - 1, 2**62, 2**70)),
        *(json.dumps({**CONFIG, "training": {"steps": steps}}).encode() for steps in (2**63, -5, True, 10**40)),
    ]


TARGETS = (
    Target(name="run folder", run=look_at_a_run, seeds=seeds, crafted=hostile, mutators=(json_line, json_value),
           tokens=(b'"step": ', b"\\u001b[2J", b"NaN", b"1e308", b'"tokens/'), imports=("megaphi.monitoring.page",)),
)  # fmt: skip
