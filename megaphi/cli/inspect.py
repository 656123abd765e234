"""Show what a checkpoint, a run folder or a token dataset holds, or how two configurations differ.

Reads headers and indices only: any size, any layout, no GPU, no process group.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megaphi.data.indexed_dataset import IndexedDataset
    from megaphi.engine.checkpoint_files import CheckpointReader

HELP = "what a checkpoint or dataset holds; how two runs differ"
EXAMPLE = """examples:
  megaphi inspect runs/quickstart/run                            newest checkpoint of a run
  megaphi inspect runs/quickstart/run/checkpoints/step_00000150 --tensors
  megaphi inspect data/web                                       a dataset (prefix of .bin/.idx)
  megaphi inspect data/web --document 3 --vocabulary 4096        one document as text
  megaphi inspect runs/first runs/second                         fields that differ
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a run folder, a checkpoint, or a dataset prefix")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="compare configurations with this run or checkpoint")
    parser.add_argument("--tensors", action="store_true", help="list every tensor of a checkpoint")
    parser.add_argument("--document", type=int, metavar="N", help="print document N of a dataset as text")
    parser.add_argument("--vocabulary", type=int, metavar="V", help="of the dataset, if it does not say so itself")


def run(arguments: argparse.Namespace) -> int:
    path = Path(arguments.path)
    if arguments.other is not None:
        return _show_difference(path, Path(arguments.other))
    if Path(f"{path}.idx").is_file() or path.suffix in (".idx", ".bin"):
        from megaphi.data.indexed_dataset import IndexedDataset

        dataset = IndexedDataset(path.with_suffix("") if path.suffix in (".idx", ".bin") else path)
        if arguments.document is not None:
            return _show_document(dataset, arguments.document, vocabulary=arguments.vocabulary)
        return _show_dataset(dataset)
    from megaphi.engine.checkpoint_files import CheckpointReader

    return _show_checkpoint(CheckpointReader(path), tensors=arguments.tensors)


def _show_dataset(dataset: IndexedDataset) -> int:
    dataset.files.index.will_be_read_through()
    lengths = dataset.sequence_lengths
    print(f"dataset      {dataset.prefix}")
    print(f"tokens       {dataset.token_count:,} ({dataset.dtype}, {dataset.token_count * dataset.dtype.itemsize:,} B)")
    print(f"documents    {dataset.document_count:,}")
    if len(lengths):
        print(f"lengths      shortest {lengths.min():,}, mean {lengths.mean():,.1f}, longest {lengths.max():,}")
    for name, value in (dataset.description or {"description": "none (no .json beside it)"}).items():
        if not isinstance(value, list | dict):
            print(f"{name:<12} {value}")
    print(f"fingerprint  {dataset.fingerprint}")
    return 0


def _show_document(dataset: IndexedDataset, number: int, *, vocabulary: int | None) -> int:
    from megaphi.errors import InputError
    from megaphi.tokenizer.phi4 import load_tokenizer

    if not 0 <= number < dataset.document_count:
        raise InputError(f"--document {number}: {dataset.prefix} has documents 0 to {dataset.document_count - 1}")
    size = vocabulary or (dataset.description or {}).get("vocabulary_size")
    if size is None:
        raise InputError(f"{dataset.prefix} does not say which vocabulary it was made with: give --vocabulary")
    print(load_tokenizer(size).decode(dataset.document(number).tolist()))
    return 0


def _show_checkpoint(reader: CheckpointReader, *, tensors: bool) -> int:
    print(f"checkpoint   {reader.folder}")
    for name, value in reader.state.items():
        if name != "ledger":
            print(f"{name:<12} {_short(value)}")
    _show_ledger(reader.state, str(reader.folder))
    print("model        " + ", ".join(f"{name}={value}" for name, value in reader.config["model"].items()))
    weights = {key: entry for key, entry in reader.tensors.items() if key.startswith("model/")}
    print(f"parameters   {sum(_numel(entry) for entry in weights.values()):,} in {len(weights)} tensors")
    print(f"optimizer    {len(reader.tensors) - len(weights)} tensors")
    print(f"files        {len(reader.manifest.files)}, {reader.manifest.bytes:,} bytes")
    if tensors:
        for key, entry in reader.tensors.items():
            pieces = len(entry["pieces"])
            print(f"  {key:<72} {entry['dtype']:<9} {entry['shape']!s:<22} {pieces} piece{'s'[: pieces > 1]}")
    return 0


def _show_ledger(state: dict[str, Any], where: str) -> None:
    """How far every source has been read."""
    from megaphi.data.ledger import read_ledger

    if "ledger" not in state:
        return
    ledger = read_ledger(state, where=where)
    print(f"data         {ledger.order} order, seed {ledger.seed}, this plan from step {ledger.origin.step:,} on")
    for source in ledger.sources:
        tokens = sum(dataset.tokens for dataset in source.datasets)
        drawn = source.now.drawn
        print(f"  {source.name:<14} {drawn:>20,} tokens drawn of {tokens:,}: {drawn / tokens:.3f} epochs")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _numel(entry: dict[str, Any]) -> int:
    import math

    return math.prod(entry["shape"])


def _show_difference(left: Path, right: Path) -> int:
    from megaphi.config import difference

    found = difference(_configuration(left), _configuration(right))
    for path, old, new in found:
        print(f"{path}: {old} -> {new}")
    if not found:
        print("no field differs")
    return 0


def _configuration(path: Path) -> dict[str, Any]:
    from megaphi.engine.checkpoint_files import CheckpointReader
    from megaphi.files import read_json

    if path.is_file():
        return read_json(path, what="configuration")
    if (path / "config.json").is_file():
        return read_json(path / "config.json", what="configuration")
    return CheckpointReader(path).config
