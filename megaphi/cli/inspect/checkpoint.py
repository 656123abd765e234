"""Output of `megaphi inspect checkpoint`: where the run stood, its layout, and the contents of each part."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megaphi.checkpoint.format import CheckpointReader

BYTES = {"float32": 4, "bfloat16": 2, "uint8": 1}


def show_checkpoint(path: Path, *, tensors: bool, files: bool) -> int:
    from megaphi.checkpoint.format import CheckpointReader

    reader = CheckpointReader(path)
    print(f"checkpoint   {reader.folder}")
    for name, value in reader.state.items():
        if name != "ledger":
            print(f"{name:<12} {_short(value)}")
    print(f"layout       {_layout(reader)}")
    _show_ledger(reader.state, str(reader.folder))
    print("model        " + ", ".join(f"{name}={value}" for name, value in reader.config["model"].items()))
    weights = [entry for key, entry in reader.tensors.items() if key.startswith("model/")]
    print(f"parameters   {sum(map(_numel, weights)):,} in {len(weights)} tensors")
    _show_parts(reader)
    print(f"save id      {reader.manifest.save_id}")
    print(f"files        {len(reader.manifest.files) + 1}, {reader.manifest.bytes:,} bytes")
    if files:
        for name, record in reader.manifest.files.items():
            print(f"  {name:<40} {record.bytes:>16,}  {record.sha256}")
    for key, entry in reader.tensors.items() if tensors else ():
        pieces = len(entry["pieces"])
        print(f"  {key:<72} {entry['dtype']:<9} {entry['shape']!s:<22} {pieces} piece{'s'[: pieces > 1]}")
    return 0


def _layout(reader: CheckpointReader) -> str:
    """Describe the layout of the run that saved it."""
    from megaphi.config import from_plain
    from megaphi.parallel.layout import ParallelLayout

    plain = reader.config.get("layout")
    return str(from_plain(ParallelLayout, plain, where="layout")) if plain else "none (converted)"


def _show_parts(reader: CheckpointReader) -> None:
    """Bytes of the weights, of each kind of optimizer state, of random states."""
    parts: dict[str, int] = defaultdict(int)
    for key, entry in reader.tensors.items():
        kind = "/".join(key.split("/")[: 2 if key.startswith("optimizer/") else 1])
        parts[f"{kind} ({entry['dtype']})"] += _numel(entry) * BYTES[entry["dtype"]]
    for part, size in parts.items():
        print(f"  {part:<34} {size:>20,} bytes")


def _show_ledger(state: dict[str, Any], where: str) -> None:
    """Print how far every source has been read."""
    from megaphi.data.order.ledger import read_ledger

    if "ledger" not in state:
        return
    ledger = read_ledger(state, where=where)
    print(f"data         {ledger.order} order, seed {ledger.seed}, this plan from step {ledger.origin.step:,} on")
    for source in ledger.sources:
        tokens = sum(dataset.tokens for dataset in source.datasets)
        drawn = source.now.drawn
        print(f"  {source.name:<14} {drawn:>20,} tokens drawn of {tokens:,}: {drawn / max(tokens, 1):.3f} epochs")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _numel(entry: dict[str, Any]) -> int:
    return math.prod(entry["shape"])
