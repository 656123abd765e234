"""The list of dataset formats, and the choice between them by path. A new format is a module and one line here.

The ending decides; a prefix with an .idx beside it is a pair, whatever its name (`web.npy.idx`). No other module knows
the list: an open dataset is a `token_dataset.TokenDataset`.
"""

from __future__ import annotations

from pathlib import Path

from megaphi.data.storage.files.remote import RemoteStore
from megaphi.data.storage.files.token_files import is_url
from megaphi.data.storage.formats.headerless_file import HEADERLESS_FILE
from megaphi.data.storage.formats.indexed_dataset import INDEXED_PAIR
from megaphi.data.storage.formats.numpy_file import NUMPY_FILE
from megaphi.data.storage.formats.own_dataset import OWN_DATASET
from megaphi.data.storage.formats.token_dataset import DatasetFormat, TokenDataset, TokenLayout

FORMATS: tuple[DatasetFormat, ...] = (
    OWN_DATASET,
    NUMPY_FILE,
    HEADERLESS_FILE,
    INDEXED_PAIR,  # any path that the others do not claim
)


def format_of(path: str) -> DatasetFormat:
    """The format of a path, a glob or a URL."""
    if not is_url(path) and Path(INDEXED_PAIR.marker(path)).exists():
        return INDEXED_PAIR
    return next(one for one in FORMATS if one.claims(path))


def open_dataset(path: str, *, layout: TokenLayout | None = None, remote: RemoteStore | None = None) -> TokenDataset:
    """Open the dataset of a path; a .bin/.idx pair is given by its prefix, without an ending.

    Raises:
        InputError: it is missing, corrupted, not of its format, or the layout contradicts it.
    """
    return format_of(path).open(path, layout or TokenLayout(), remote or RemoteStore())


def is_there(path: str) -> bool:
    """Return whether the dataset of a local path exists."""
    return Path(format_of(path).marker(path)).is_file()
