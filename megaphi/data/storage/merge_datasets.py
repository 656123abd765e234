"""Merging of several .bin/.idx pairs into one, document after document, in constant memory.

Tokens are copied block by block; the index is streamed from those of the inputs, so documents of several sequences,
which Megatron can write, are preserved. The bytes are those of Megatron's `IndexedDatasetBuilder.add_index` on the same
inputs in the same order. A .json is written if every input has one and all name the same tokenizer; ids of two
tokenizers in one file would silently train nonsense, so they are refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.data.storage.files.token_files import with_ending
from megaphi.data.storage.formats.indexed_dataset import HEADER, IndexedDataset
from megaphi.data.storage.indexed_dataset_writer import (
    CHUNK,
    fingerprint_of,
    put_in_place,
    temporary_file,
    write_index,
)
from megaphi.errors import InputError
from megaphi.files import explain_write_errors
from megaphi.json_text import json_bytes
from megaphi.log import progress_bar

COPIED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    """One input of the merge, checked."""

    prefix: Path
    dtype: np.dtype[Any]
    sequences: int
    documents: int
    tokens: int
    description: dict[str, Any] | None


def find_pairs(folder: str | os.PathLike[str]) -> list[Path]:
    """Prefixes of all .bin/.idx pairs in a folder, sorted by name as in Megatron's tool.

    Raises:
        InputError: the folder is missing, holds no pair, or holds half of one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"not a folder: {folder}")
    halves = {
        ending: {path.stem for path in folder.glob(f"*{ending}") if path.is_file()} for ending in (".bin", ".idx")
    }
    if alone := sorted(halves[".bin"] ^ halves[".idx"]):
        raise InputError(f"{folder} holds only one of {alone[0]}.bin and {alone[0]}.idx: both are needed")
    if not halves[".idx"]:
        raise InputError(f"no .bin/.idx pairs in {folder}")
    return [folder / name for name in sorted(halves[".idx"])]


def merge_datasets(
    prefixes: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], *, show_progress: bool = True
) -> int:
    """Write `output` from the documents of all `prefixes`, in this order; returns the number of documents.

    Raises:
        InputError: an input is missing or corrupted, dtypes or tokenizers differ, or the output cannot be written.
    """
    output = Path(output)
    if not prefixes:
        raise InputError("nothing to merge: name at least one dataset")
    parts = [_look_at(Path(prefix)) for prefix in prefixes]
    _check_alike(parts, output)
    description = _merged_description(parts)
    sequences, documents = sum(part.sequences for part in parts), sum(part.documents for part in parts)
    with explain_write_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with (
            temporary_file(output, ".bin", folder=output.parent) as data,
            temporary_file(output, ".idx", folder=output.parent) as index,
            temporary_file(output, ".json", folder=output.parent) as description_file,
            progress_bar(total=len(parts), unit=" datasets", label="merge", visible=show_progress) as bar,
        ):
            for part in parts:
                with open(with_ending(part.prefix, ".bin"), "rb") as source:
                    shutil.copyfileobj(source, data, COPIED_BYTES)
                bar.update(1)
            write_index(
                index,
                parts[0].dtype,
                sequences=sequences,
                length_chunks=lambda: _lengths(parts),
                documents=documents,
                document_index_chunks=_document_indices(parts),
            )
            if description is not None:
                description_file.write(json_bytes({**description, "fingerprint": fingerprint_of(data, index)}))
            put_in_place(
                output, data=data, index=index, description_file=description_file if description is not None else None
            )
    return documents


def _look_at(prefix: Path) -> _Part:
    dataset = IndexedDataset(prefix)
    sequences, documents = len(dataset.sequence_lengths), dataset.document_count
    path = with_ending(prefix, ".idx")
    if path.stat().st_size != HEADER.size + 12 * sequences + 8 * (documents + 1):
        raise InputError(
            f"{path} is the index of a multimodal dataset, whose sequences have modes: they are not merged"
        )
    return _Part(prefix, dataset.dtype, sequences, documents, dataset.token_count, dataset.description)


def _check_alike(parts: Sequence[_Part], output: Path) -> None:
    first = parts[0]
    for part in parts:
        if part.prefix.resolve() == output.resolve():
            raise InputError(f"{output} is one of the datasets to merge: choose another output")
        if part.dtype != first.dtype:
            raise InputError(
                f"{part.prefix} holds {part.dtype.name} tokens, {first.prefix} {first.dtype.name}: they cannot"
                " be merged, so tokenise one of them again with the vocabulary of the other"
            )
    known = [part for part in parts if part.description and "tokenizer" in part.description]
    for part in known:
        if (part.description or {})["tokenizer"] != (known[0].description or {})["tokenizer"]:
            raise InputError(
                f"{part.prefix} and {known[0].prefix} were made with different tokenizers (see the two .json files):"
                " their ids mean different things, so tokenise one of them again"
            )


def _merged_description(parts: Sequence[_Part]) -> dict[str, Any] | None:
    """PREFIX.json of the result; None if an input does not name its tokenizer."""
    descriptions = [part.description for part in parts if part.description and "tokenizer" in part.description]
    if len(descriptions) < len(parts):
        return None
    same = {name: descriptions[0].get(name) for name in ("tokenizer", "vocabulary_size", "end_of_text")}
    merged = [{"name": part.prefix.name, "documents": part.documents, "tokens": part.tokens} for part in parts]
    return {
        **same,
        "merged": merged,
        "documents": sum(part.documents for part in parts),
        "tokens": sum(part.tokens for part in parts),
        "dtype": parts[0].dtype.name,
        **_merged_lineage(descriptions),
    }


def _merged_lineage(descriptions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Unique tokens and lineage, where they are known; documents that two inputs share are not looked for."""
    unique = [description["unique_tokens"] for description in descriptions if "unique_tokens" in description]
    lineage = [record for description in descriptions for record in description.get("lineage") or []]
    found: dict[str, Any] = {"lineage": lineage} if lineage else {}
    return {**found, "unique_tokens": sum(unique)} if len(unique) == len(descriptions) else found


def _read_through(prefix: str | os.PathLike[str]) -> IndexedDataset:
    dataset = IndexedDataset(prefix)
    dataset.files.index.will_be_read_through()
    return dataset


def _lengths(parts: Sequence[_Part]) -> Iterator[NDArray[Any]]:
    for part in parts:
        lengths_N = _read_through(part.prefix).sequence_lengths
        for start in range(0, part.sequences, CHUNK):
            yield lengths_N[start : start + CHUNK]


def _document_indices(parts: Sequence[_Part]) -> Iterator[NDArray[np.int64]]:
    yield np.zeros(1, dtype=np.int64)
    offset = 0
    for part in parts:
        indices_N = _read_through(part.prefix).document_indices
        for start in range(1, part.documents + 1, CHUNK):
            yield indices_N[start : start + CHUNK] + offset
        offset += part.sequences
