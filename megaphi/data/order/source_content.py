"""The size of a source: what its datasets hold and hold once, and their lineage; else what its recipe expects.

Epochs are counted by unique tokens, because the second copy of a document within an epoch is a repetition like any
other. `megaphi tokenize` counts the copies within a dataset; those that two datasets of a source share are not known.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from megaphi.data.order.document_windows import document_windows
from megaphi.data.order.mixture import Source
from megaphi.data.storage.files.remote import RemoteStore
from megaphi.data.storage.files.token_files import is_url
from megaphi.data.storage.formats.dataset_formats import is_there, open_dataset
from megaphi.data.storage.formats.token_dataset import TokenDataset, TokenLayout
from megaphi.data.storage.source_paths import find_datasets
from megaphi.data.storage.streams import TokenStream, check_description
from megaphi.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetContent:
    """One dataset of a source, by its .json."""

    name: str
    tokens: int
    unique_tokens: int | None
    """None where nobody has counted the copies: another program wrote it, or an earlier version."""
    lineage: tuple[dict[str, Any], ...]
    """Records of the curated folders that its documents come from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceContent:
    """Size of a source; `tokens` and `unique_tokens` are None where neither files nor recipe give them."""

    tokens: int | None
    """Tokens that it holds, copies included."""
    unique_tokens: int | None
    counted: bool
    """From its files; otherwise the recipe's value."""
    datasets: tuple[DatasetContent, ...] = ()


def source_content(source: Source, *, sequence_length: int) -> SourceContent:
    """Count a source in its files if all are there, else take the number that its recipe expects.

    Of a source that is cut from documents, the tokens of an epoch: its windows of `sequence_length`, padding included,
    copies not known.

    Raises:
        InputError: a file is corrupted, or not what the .json beside it describes.
    """
    listed = []
    if not any(map(is_url, source.paths)):
        with suppress(InputError):  # a glob that matches nothing yet
            listed = find_datasets(source.paths, source=source.name, remote=RemoteStore())
    if not listed or not all(is_there(dataset.path) for dataset in listed):
        return SourceContent(tokens=source.unique_tokens, unique_tokens=source.unique_tokens, counted=False)
    layout = TokenLayout(dtype=source.dtype, document_end=source.document_end)
    datasets = [open_dataset(dataset.path, layout=layout) for dataset in listed]
    contents = tuple(map(_content, datasets))
    windows = document_windows(source, TokenStream(tuple(datasets), source.name))
    if windows is not None:
        tokens = windows.of_length(sequence_length).count * sequence_length
        return SourceContent(tokens=tokens, unique_tokens=tokens, counted=True, datasets=contents)
    return SourceContent(
        tokens=sum(one.tokens for one in contents),
        unique_tokens=sum(one.tokens if one.unique_tokens is None else one.unique_tokens for one in contents),
        counted=True,
        datasets=contents,
    )


def _content(dataset: TokenDataset) -> DatasetContent:
    check_description(dataset)
    described = dataset.description or {}
    unique, lineage = described.get("unique_tokens"), described.get("lineage")
    return DatasetContent(
        name=dataset.name,
        tokens=dataset.token_count,
        unique_tokens=unique if isinstance(unique, int) else None,
        lineage=tuple(record for record in lineage or () if isinstance(record, dict)),
    )
