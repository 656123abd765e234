"""Ranks of the mixture's tests: `pretrain` on real token files, with what it wrote, said or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megaphi.engine.run_config import RunConfig
from tests.stages.stage_runs import stage_here


def pretrain_here(run: RunConfig) -> dict[str, Any]:
    """Train on this rank; returns what `stage_here` does, and the newest checkpoint's state."""
    from megaphi.files import read_json

    found = stage_here(run)
    latest = Path(run.folder) / "checkpoints" / "latest"
    found["state"] = None
    if latest.is_file():
        found["state"] = read_json(latest.parent / latest.read_text().strip() / "state.json", what="state")
    return found
