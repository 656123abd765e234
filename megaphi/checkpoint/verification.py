"""Verification of a checkpoint as far as it goes without training: files, index, completeness, values.

Files are read and hashed side by side; then the index is compared with what the files' own headers say, and the weights
with what the architecture needs. Every problem is one sentence that names the file; none means that the checkpoint is,
bit for bit, what was saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megaphi.checkpoint.format import CheckpointReader
from megaphi.checkpoint.index import build_index
from megaphi.checkpoint.manifest import MANIFEST, Manifest, check_content, read_manifest
from megaphi.checkpoint.not_finite import not_finite_in
from megaphi.errors import InputError
from megaphi.model.weights import weights_of

_READERS = 4


def problems_of(
    folder: Path, *, values: bool = False, advance: Callable[[int], object] = lambda bytes: None
) -> Iterator[str]:
    """Yield the problems of a checkpoint, one sentence each.

    Args:
        values: also read every tensor, looking for numbers that are not finite.
        advance: called with the bytes of every file that has been read.
    """
    try:
        manifest = read_manifest(folder)
    except InputError as error:
        yield str(error)
        return
    yield from (f"checkpoint {folder}: {name} is not part of it" for name in _strangers(folder, manifest))
    corrupted = list(_corrupted_files(folder, manifest, advance))
    yield from corrupted
    if corrupted:
        return
    reader = CheckpointReader(folder)
    yield from _problems_of_index(reader)
    if values:
        yield from _problems_of_values(reader)


def _strangers(folder: Path, manifest: Manifest) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in manifest.files and name != MANIFEST:
            yield name


def _corrupted_files(folder: Path, manifest: Manifest, advance: Callable[[int], object]) -> Iterator[str]:
    def problem_of(name: str) -> str | None:
        try:
            check_content(folder, manifest, name)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_READERS) as pool:
        for name, problem in zip(manifest.files, pool.map(problem_of, manifest.files), strict=True):
            advance(manifest.files[name].bytes)
            if problem is not None:
                yield problem


def _problems_of_index(reader: CheckpointReader) -> Iterator[str]:
    """The index against the files' headers, the weights against the architecture."""
    files = [name for name in reader.manifest.files if name.endswith(".safetensors")]
    if build_index(reader.folder, files)["tensors"] != reader.tensors:
        yield f"checkpoint {reader.folder}: index.json does not say what the headers of its files say"
    for weight in weights_of(reader.architecture):
        entry = reader.tensors.get(f"model/{weight.name}")
        if entry is None:
            yield f"checkpoint {reader.folder}: the weight {weight.name} is missing"
        elif tuple(entry["shape"]) != weight.shape:
            yield f"checkpoint {reader.folder}: {weight.name} has the shape {entry['shape']}, not {list(weight.shape)}"


def _problems_of_values(reader: CheckpointReader) -> Iterator[str]:
    for key in reader.tensors:
        strange = sum(map(not_finite_in, reader.slabs(key)))
        if strange:
            yield f"checkpoint {reader.folder}: {key} holds {strange:,} numbers that are not finite"
