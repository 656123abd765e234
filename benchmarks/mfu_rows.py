"""The file of results of mfu.py: one row for each case, written as soon as it is measured, and rows that are alike."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

import torch

from benchmarks.mfu_sides import SIDES

COLUMNS = (
    "date device commit torch megatron-core side slice sequence micro_batch micro_batches seconds micro_batch_seconds"
    " tokens_per_s teraflops_causal mfu_causal mfu_full peak_gb planned_gb model_seconds note"
).split()


def provenance() -> dict[str, str]:
    """The columns that say what was measured, where and with what."""
    from megaphi.checkpoint.versions import short_commit, versions

    found = versions()
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(),
        "commit": short_commit(),
        **{package: found.get(package, "") for package in ("torch", "megatron-core")},
    }


def append(row: dict[str, str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [str(name) for name in COLUMNS], lineterminator="\n", restval="")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def rows_like(row: dict[str, str], path: Path) -> list[dict[str, str]]:
    """Rows of the results with this one's device, versions, commit and number of micro-batches."""
    same = [*provenance(), "sequence", "micro_batches"]
    with path.open(newline="") as file:
        return [
            found
            for found in csv.DictReader(file)
            if found["side"] in SIDES and all(found[name] == row[name] for name in same if name != "date")
        ]
