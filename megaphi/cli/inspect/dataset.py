"""Show what a dataset of tokens holds: its size, its documents where they can be told apart, one of them as text.

Any format that a source of a mixture may name (`megaphi/data/storage/formats/dataset_formats.py`). A pair of .bin and
.idx lists its documents; in the other formats they are counted by reading everything once, and only if it is known
what ends them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from megaphi.cli.tokenizer_option import add_tokenizer, place_of_tokenizer
from megaphi.config import user_path
from megaphi.errors import InputError
from megaphi.foreign.visible_text import print_text

if TYPE_CHECKING:
    import numpy as np

    from megaphi.data.storage.formats.token_dataset import TokenDataset

READ_AT_ONCE = 1 << 22
"""Tokens."""


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        type=user_path,
        metavar="DATASET",
        help="prefix or either file of a .bin/.idx pair, FILE.npy, FILE.bin, my.py:MyClass",
    )
    parser.add_argument("--dtype", choices=("uint16", "uint32"), help="token type of a file without index and header")
    parser.add_argument(
        "--document-end", type=int, metavar="ID", help="token that ends a document, where none are listed"
    )
    parser.add_argument("--document", type=int, metavar="N", help="print document N as text")
    add_tokenizer(parser)
    parser.add_argument("--vocabulary", type=int, metavar="V", help="vocabulary size, if the dataset does not give it")


def show_dataset(arguments: argparse.Namespace) -> int:
    """Print what `arguments` ask for; raises InputError where the dataset cannot be read."""
    from megaphi.data.storage.formats.dataset_formats import format_of, is_there, open_dataset
    from megaphi.data.storage.formats.indexed_dataset import INDEXED_PAIR
    from megaphi.data.storage.formats.token_dataset import TokenLayout

    path = arguments.path
    half = path.endswith((".bin", ".idx")) and arguments.dtype is None
    if half and format_of(path[:-4]) is INDEXED_PAIR and is_there(path[:-4]):
        path = path[:-4]
    layout = TokenLayout(dtype=arguments.dtype, document_end=arguments.document_end)
    with closing(open_dataset(path, layout=layout)) as dataset:
        if arguments.document is not None:
            return _show_document(dataset, arguments)
        return _show_all(dataset)


def _show_all(dataset: TokenDataset) -> int:
    print(f"dataset      {dataset.name}")
    print(f"tokens       {dataset.token_count:,} ({dataset.dtype}, {dataset.token_count * dataset.dtype.itemsize:,} B)")
    lengths = _document_lengths(dataset)
    if lengths is None:
        print("documents    not listed in this format (--document-end ID counts them)")
    else:
        print(f"documents    {len(lengths) if dataset.document_count is None else dataset.document_count:,}")
        if len(lengths):
            print(f"lengths      shortest {lengths.min():,}, mean {lengths.mean():,.1f}, longest {lengths.max():,}")
    for name, value in (dataset.description or {"description": "none (no .json beside it)"}).items():
        if not isinstance(value, list | dict):
            print(f"{name:<12} {value}")
    print(f"fingerprint  {dataset.fingerprint}")
    return 0


def _document_lengths(dataset: TokenDataset) -> np.ndarray | None:
    """Tokens of each document (sequence of an index); None where the dataset does not tell them apart."""
    import numpy as np

    from megaphi.data.storage.formats.indexed_dataset import IndexedDataset

    if isinstance(dataset, IndexedDataset):
        dataset.files.index.will_be_read_through()
        return dataset.sequence_lengths
    if not dataset.has_documents:
        return None
    starts = np.concatenate([np.empty(0, np.int64), *_document_starts(dataset)])
    return np.diff(starts, append=dataset.token_count)


def _document_starts(dataset: TokenDataset) -> Iterator[np.ndarray]:
    """Yield the document starts, stretch by stretch; two stretches share a token, so none is missed between them."""
    import numpy as np

    for start in range(0, dataset.token_count, READ_AT_ONCE):
        count = min(READ_AT_ONCE + 1, dataset.token_count - start)
        index = dataset.document_index(np.array([start]), np.array([count]))
        starts = index.pointers_K // index.token_bytes
        yield starts[(starts > start) & (starts < start + count)] if start else starts


def _show_document(dataset: TokenDataset, arguments: argparse.Namespace) -> int:
    from megaphi.tokenizer.open_tokenizer import PHI4, open_path

    tokens = _document(dataset, arguments.document)
    described = dataset.description or {}
    path, vocabulary = place_of_tokenizer(arguments.tokenizer, vocabulary=arguments.vocabulary)
    size = vocabulary or described.get("vocabulary_size")
    if size is None and path == PHI4:
        raise InputError(f"{dataset.name} does not say which vocabulary it was made with: give --vocabulary")
    tokenizer = open_path(path, vocabulary=size if path == PHI4 else None)
    if described.get("tokenizer") not in (None, tokenizer.fingerprint):
        raise InputError(f"{dataset.name} was made with another tokenizer than {arguments.tokenizer}: --tokenizer")
    print_text(tokenizer.decode(tokens.tolist()))
    return 0


def _document(dataset: TokenDataset, number: int) -> np.ndarray:
    from megaphi.data.storage.formats.indexed_dataset import IndexedDataset

    lengths = _document_lengths(dataset)
    if lengths is None:
        raise InputError(f"--document {number}: {dataset.name} does not say where documents begin: give --document-end")
    count = len(lengths) if dataset.document_count is None else dataset.document_count
    if not 0 <= number < count:
        raise InputError(f"--document {number}: {dataset.name} has documents 0 to {count - 1}")
    if isinstance(dataset, IndexedDataset):
        return dataset.document(number)
    return dataset.tokens(int(lengths[:number].sum()), int(lengths[number]))
