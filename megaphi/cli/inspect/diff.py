"""Output of `megaphi inspect diff`: fields of the configuration, facts of the state, tensors, and on request numbers.

Two checkpoints may come from different layouts: tensors are compared whole, in parts that fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megaphi.checkpoint.format import CheckpointReader

UNCOMPARED = ("ledger", "saved_at")


def show_difference(left: Path, right: Path, *, weights: bool) -> int:
    from megaphi.config import difference

    found = [f"{path}: {old} -> {new}" for path, old, new in difference(_configuration(left), _configuration(right))]
    readers = _reader(left), _reader(right)
    if readers[0] is not None and readers[1] is not None:
        found += _difference_of_checkpoints(readers[0], readers[1])
        if weights:
            found += _difference_of_numbers(readers[0], readers[1])
    elif weights:
        from megaphi.errors import InputError

        missing = left if readers[0] is None else right
        raise InputError(f"{missing} is not a checkpoint and holds none: --weights compares two checkpoints")
    print(*(found or ["nothing differs"]), sep="\n")
    return 0


def _configuration(path: Path) -> dict[str, Any]:
    from megaphi.checkpoint.format import CheckpointReader
    from megaphi.files import read_object

    if path.is_file() and path.name != "latest":
        return read_object(path, what="configuration")
    if (path / "config.json").is_file():
        return read_object(path / "config.json", what="configuration")
    return CheckpointReader(path).config


def _reader(path: Path) -> CheckpointReader | None:
    """The checkpoint at a path; none for a bare configuration, or a run that has not saved yet."""
    from megaphi.checkpoint.format import CheckpointReader

    places = (path / "manifest.json", path / "latest", path / "checkpoints" / "latest")
    if path.name == "latest" or any(place.is_file() for place in places):
        return CheckpointReader(path)
    return None


def _difference_of_checkpoints(left: CheckpointReader, right: CheckpointReader) -> Iterator[str]:
    from megaphi.config import difference

    old, new = (
        {name: value for name, value in reader.state.items() if name not in UNCOMPARED} for reader in (left, right)
    )
    for path, before, after in difference(old, new):
        yield f"state.{path}: {before} -> {after}"
    for key in sorted(left.tensors.keys() | right.tensors.keys()):
        before, after = (_described(reader, key) for reader in (left, right))
        if before != after:
            yield f"tensor {key}: {before} -> {after}"


def _described(reader: CheckpointReader, key: str) -> str:
    entry = reader.tensors.get(key)
    return "missing" if entry is None else f"{entry['dtype']} {entry['shape']}"


def _difference_of_numbers(left: CheckpointReader, right: CheckpointReader) -> Iterator[str]:
    """Per tensor the largest difference, and the norm of the difference relative to A's."""
    from megaphi.log import progress_bar

    common = [key for key in left.tensors if _comparable(left, right, key)]
    equal = 0
    with progress_bar(total=len(common), unit="tensor", label="compare") as bar:
        for key in common:
            largest, difference, norm = 0.0, 0.0, 0.0
            for a, b in zip(left.slabs(key), right.slabs(key), strict=True):
                delta = (b.double() - a.double()).abs()
                largest = max(largest, delta.max().item())
                difference += delta.square().sum().item()
                norm += a.double().square().sum().item()
            bar.update()
            if largest == 0.0:
                equal += 1
                continue
            relative = (difference / norm) ** 0.5 if norm else float("inf")
            yield f"numbers {key}: differ by up to {largest:.3e}, relative norm {relative:.3e}"
    yield f"numbers: {equal} of {len(common)} tensors are equal"


def _comparable(left: CheckpointReader, right: CheckpointReader, key: str) -> bool:
    return key in right.tensors and left.shape(key) == right.shape(key) and not key.startswith("random/")
