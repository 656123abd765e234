"""What the ranks of the mixture's tests run: `pretrain` on real token files, with what it wrote, said or refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from megaphi.engine.run_config import RunConfig


def pretrain_here(run: RunConfig) -> dict[str, Any]:
    """Train on this rank; returns the metrics, the newest checkpoint's state, log lines, and an error's message."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.metrics import read_metrics
    from megaphi.engine.run_config import check
    from megaphi.errors import InputError, ReportedElsewhere
    from megaphi.files import read_json
    from megaphi.log import logger
    from megaphi.parallel.launcher import detect
    from megaphi.stages.pretrain import pretrain

    lines: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return True

    logger.addFilter(keep)
    message = None
    try:
        pretrain(check(run, world_size=detect().world_size), open_weights=open_weights)
    except (InputError, ReportedElsewhere) as error:
        message = str(error)
    finally:
        logger.removeFilter(keep)
    folder = Path(run.run.folder)
    latest = folder / "checkpoints" / "latest"
    state = None
    if latest.is_file():
        state = read_json(latest.parent / latest.read_text().strip() / "state.json", what="state")
    metrics = folder / "metrics.jsonl"
    records = read_metrics(metrics) if metrics.is_file() else []
    return {"records": records, "state": state, "log": lines, "message": message}
