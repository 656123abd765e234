"""Open sources: each is a ring of tokens in one or more datasets, checked before the first batch is read.

`open_streams` finds the datasets of the sources (`source_paths.py`), opens them, and refuses what would fail later or,
worse, would silently train nonsense: datasets of different tokenizers, ids that mean something else to the model, a
manifest that contradicts the files. Datasets of one source may have different dtypes: only the ids matter.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.data.storage.files.remote import RemoteReading, RemoteStore
from megaphi.data.storage.files.token_files import is_url
from megaphi.data.storage.formats.dataset_formats import open_dataset
from megaphi.data.storage.formats.token_dataset import TokenDataset, TokenLayout
from megaphi.data.storage.source_paths import ListedDataset, find_datasets
from megaphi.errors import InputError
from megaphi.log import logger

OPENED_AT_ONCE = 16
"""Remote datasets that are opened at the same time: each takes a few requests, which mostly wait."""
SAMPLED_TOKENS = 1 << 16
"""Tokens that are checked in a dataset that does not name its tokenizer."""


@dataclass(frozen=True)
class TokenStream:
    """The datasets of a source as one ring of tokens: the first follows the last."""

    datasets: tuple[TokenDataset, ...]
    name: str = "tokens"
    """Name of the source, for messages."""

    @functools.cached_property
    def ends(self) -> list[int]:
        """End of each dataset in the stream, in tokens."""
        return list(accumulate(dataset.token_count for dataset in self.datasets))

    @property
    def token_count(self) -> int:
        return self.ends[-1]

    @property
    def document_count(self) -> int | None:
        """Number of documents; None if a dataset does not know its own."""
        counts = [count for dataset in self.datasets if (count := dataset.document_count) is not None]
        return sum(counts) if len(counts) == len(self.datasets) else None


def open_streams(
    paths: Mapping[str, Sequence[str]],
    *,
    tokenizer_fingerprint: str | None,
    vocabulary_size: int,
    layouts: Mapping[str, TokenLayout] | None = None,
    remote: RemoteReading | None = None,
) -> list[TokenStream]:
    """Open the datasets of all sources: name -> paths, globs, manifests or URLs (see `source_paths.py`), in order.

    Args:
        layouts: declarations of sources whose files do not describe themselves.
        tokenizer_fingerprint: `Tokenizer.fingerprint` of the model's tokenizer; None if it has none.
        remote: settings for datasets in object storage.

    Raises:
        InputError: a dataset is missing, corrupted, named twice, contradicts its manifest, or is of another tokenizer
            than its neighbours or the model; a source has no text.
    """
    store = RemoteStore(remote)
    layouts = layouts or {}
    streams = [
        open_stream(entries, name=name, remote=store, layout=layouts.get(name)) for name, entries in paths.items()
    ]
    for stream in streams:
        check_vocabulary(stream, tokenizer_fingerprint=tokenizer_fingerprint, vocabulary_size=vocabulary_size)
    return streams


def open_stream(
    paths: Sequence[str], *, name: str, remote: RemoteStore, layout: TokenLayout | None = None
) -> TokenStream:
    """Open the datasets of one source, which must have text of one tokenizer."""
    listed = find_datasets(paths, source=name, remote=remote)

    def opened(dataset: ListedDataset) -> TokenDataset:
        return open_dataset(dataset.path, layout=layout, remote=remote)

    if any(is_url(dataset.path) for dataset in listed):
        with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
            stream = TokenStream(tuple(pool.map(opened, listed)), name)
    else:
        stream = TokenStream(tuple(map(opened, listed)), name)
    for expected, dataset in zip(listed, stream.datasets, strict=True):
        check_description(dataset)
        _check_manifest(expected, dataset)
    if stream.document_count == 0 or stream.token_count == 0:
        raise InputError(f"source {name!r} has no documents: there is no text in {', '.join(paths)}")
    _check_one_tokenizer(stream)
    return stream


def check_description(dataset: TokenDataset) -> None:
    """Refuse a dataset whose files are not those that its .json was written with. Raises InputError."""
    described = (dataset.description or {}).get("fingerprint")
    if described is not None and described != dataset.fingerprint:
        raise InputError(
            f"{dataset.name}: its tokens are not those that the .json beside them was written for (fingerprint"
            f" {dataset.fingerprint[:12]}, {str(described)[:12]} in the .json): copy all three files again, or tokenise"
            " again"
        )


def _check_manifest(expected: ListedDataset, dataset: TokenDataset) -> None:
    remedy = "it is another dataset, or a corrupted copy: put the right one there, or write the manifest again"
    if expected.tokens is not None and expected.tokens != dataset.token_count:
        raise InputError(
            f"{dataset.name} has {dataset.token_count:,} tokens, {expected.manifest} says {expected.tokens:,}: {remedy}"
        )
    if expected.fingerprint is not None and expected.fingerprint != dataset.fingerprint:
        raise InputError(
            f"{dataset.name} has the fingerprint {dataset.fingerprint[:12]}, {expected.manifest} says"
            f" {expected.fingerprint[:12]}: {remedy}"
        )


def _tokenizer_of(dataset: TokenDataset) -> Any:
    return (dataset.description or {}).get("tokenizer")


def _check_one_tokenizer(stream: TokenStream) -> None:
    known = [(tokenizer, dataset) for dataset in stream.datasets if (tokenizer := _tokenizer_of(dataset)) is not None]
    for tokenizer, dataset in known:
        if tokenizer != known[0][0]:
            raise InputError(
                f"source {stream.name!r} mixes tokenizers: {known[0][1].name} was made with fingerprint"
                f" {str(known[0][0])[:12]}, {dataset.name} with {str(tokenizer)[:12]}. Tokenise one of them again"
            )


def check_vocabulary(stream: TokenStream, *, tokenizer_fingerprint: str | None, vocabulary_size: int) -> None:
    """Refuse ids that mean something else to the model, or nothing.

    A dataset that another program wrote does not name its tokenizer; then only the range of a sample is checked.
    """
    silent = [dataset for dataset in stream.datasets if _tokenizer_of(dataset) is None]
    for dataset in stream.datasets:
        description = dataset.description or {}
        tokenizer = _tokenizer_of(dataset)
        if tokenizer is not None and tokenizer_fingerprint is None:
            raise InputError(
                f"{dataset.name} was made with a tokenizer (fingerprint {str(tokenizer)[:12]}), and the model came"
                " without one: name the model's in tokenizer.path (a folder with tokenizer.json, or phi4)"
            )
        if tokenizer not in (None, tokenizer_fingerprint):
            raise InputError(
                f"{dataset.name} was tokenised with another vocabulary (of {description.get('vocabulary_size')}"
                f" tokens, fingerprint {str(tokenizer)[:12]}) than the model's ({vocabulary_size}"
                f" tokens, {str(tokenizer_fingerprint)[:12]}): tokenise it again, or choose the model's to match"
            )
    for dataset in silent:
        largest = max((int(tokens.max()) for tokens in _sample(dataset)), default=0)
        if largest >= vocabulary_size:
            raise InputError(f"{dataset.name} holds token {largest}, but the model's vocabulary is {vocabulary_size}")
    if silent:
        others = f" and {len(silent) - 1} more of source {stream.name!r}" if len(silent) > 1 else ""
        logger.warning("%s%s: no .json that names a tokenizer, ids are taken as they are", silent[0].name, others)


def _sample(dataset: TokenDataset) -> list[NDArray[np.integer]]:
    """Sample stretches of tokens, spread evenly from the first to the last; of a remote dataset, only the first."""
    stretches = 1 if dataset.data.is_remote else 16
    count = min(dataset.token_count, SAMPLED_TOKENS // stretches)
    starts = np.linspace(0, dataset.token_count - count, stretches).astype(np.int64)
    return [dataset.tokens(start, count) for start in starts.tolist()] if count else []
