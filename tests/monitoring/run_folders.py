"""Run folders as a run writes them, made by hand: metrics, configuration, events and a checkpoint's state."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megaphi.config import to_plain
from megaphi.engine.reporting.events import Events
from megaphi.recipes import load_recipe


def record(step: int, **more: float) -> dict[str, Any]:
    """A record of 4,096 tokens a step, half a second each."""
    known = {"step": step, "loss": 8.0 / step**0.5, "gradient_norm": 1.0, "learning_rate": 1e-3}
    speed = {"seconds": 0.5, "tokens_per_second": 8_192.0, "tokens_per_second_per_device": 4_096.0}
    phases = {"seconds/forward_backward": 0.4, "seconds/data": 0.1, "host_memory_bytes": 1 << 30}
    return {**known, "tokens": 4_096 * step, **speed, **phases, **more}


def write_run(folder: Path, records: Iterable[dict[str, Any]], **config: Any) -> Path:
    """A run of the quickstart's recipe with these records; `config` are sections of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**to_plain(load_recipe("quickstart_pretrain")), **config}))
    append(folder, records)
    Events(folder).add("started", step=0, text="quickstart_pretrain started after step 0 of 240")
    return folder


def append(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(one) + "\n" for one in records)
