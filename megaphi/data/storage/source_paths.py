"""Expansion of a source's paths to a list of datasets.

    data/web                    the prefix of one pair of .bin and .idx
    data/web.npy                any other format of `dataset_formats.py`, by its ending: .npy, .bin
    data/web_*                  a glob: every prefix that matches and has a .idx, web_2 before web_10; or web_*.npy
    my_data.py:Shards:ARGUMENT  a class that reads tokens, and its argument
    data/web.manifest.json      {"datasets": ["web_1", {"prefix": "web_2", "tokens": 7, "fingerprint": "ab.."}]}
    data/web.txt                one prefix per line; # begins a comment
    s3://bucket/web_*           any of these in a file system of fsspec: s3, gs, https, memory, file, ...

Paths in a manifest are relative to its folder. Tokens and fingerprint are optional; if given, they are compared with
the dataset's. The order of the list is the order of the tokens, so batches depend on it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from megaphi.data.storage.files.token_files import is_url, with_ending
from megaphi.data.storage.formats.dataset_formats import format_of, open_dataset
from megaphi.data.storage.formats.indexed_dataset import INDEXED_PAIR
from megaphi.data.storage.formats.own_dataset import OWN_DATASET
from megaphi.errors import InputError
from megaphi.files import write_json
from megaphi.foreign.files import TEXT_BYTES, one_line_path, read_small
from megaphi.json_text import parse_json
from megaphi.log import logger

MANIFEST_ENDINGS = (".manifest.json", ".txt")


class ListedDataset(NamedTuple):
    """A dataset of a source, with the expectations of its manifest, if any."""

    path: str
    """Path, prefix or URL for `dataset_formats.open_dataset`."""
    tokens: int | None = None
    fingerprint: str | None = None
    manifest: str | None = None


class RemoteFiles(Protocol):
    """The interface of object storage for this module (`remote.RemoteStore`)."""

    def glob(self, pattern: str) -> list[str]: ...

    def read(self, url: str) -> bytes: ...


def find_datasets(entries: Iterable[str], *, source: str, remote: RemoteFiles) -> list[ListedDataset]:
    """The datasets of a source, in order; `source` is its name for messages.

    Raises:
        InputError: a glob matches nothing, a manifest is corrupted or empty, a dataset is named twice.
    """
    found: list[ListedDataset] = []
    for entry in entries:
        if _is_manifest(entry):
            found += read_manifest(entry, remote=remote)
        elif _is_glob(entry):
            found += [ListedDataset(path) for path in _matches(entry, source=source, remote=remote)]
        else:
            found.append(ListedDataset(entry))
    seen: set[str] = set()
    for dataset in found:
        place = dataset.path if is_url(dataset.path) else os.path.abspath(dataset.path)  # noqa: PTH100
        if place in seen:
            raise InputError(
                f"source {source!r} names the dataset {dataset.path} twice: its tokens would appear twice in every"
                " epoch. Name it once (a larger weight repeats a source)"
            )
        seen.add(place)
    return found


def _is_manifest(entry: str) -> bool:
    is_prefix = not is_url(entry) and with_ending(entry, ".idx").exists()
    return entry.endswith(MANIFEST_ENDINGS) and not is_prefix and not OWN_DATASET.claims(entry)


def _is_glob(entry: str) -> bool:
    is_prefix = not is_url(entry) and with_ending(entry, ".idx").exists()
    return glob.has_magic(entry) and not is_prefix and not OWN_DATASET.claims(entry)


def _matches(pattern: str, *, source: str, remote: RemoteFiles) -> list[str]:
    """Datasets of a glob, by their marker files, sorted with numbers in names compared as numbers."""
    find = remote.glob if is_url(pattern) else _glob_files
    looked_for = format_of(pattern).marker(pattern)
    ending = looked_for.removeprefix(pattern)
    found = {one_line_path(path).removesuffix(ending) for path in find(looked_for)}
    if not found:
        raise InputError(
            f"source {source!r}: no dataset matches {pattern} (looked for {looked_for}): check the folder and the name"
        )
    if looked_for == INDEXED_PAIR.marker(pattern):
        unfinished = {path.removesuffix(".bin") for path in find(pattern + ".bin")} - found
        if unfinished:
            logger.warning("source %r: %s.bin has no .idx: left out", source, min(unfinished))
    return sorted(found, key=natural_order)


def _glob_files(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207 (the pattern may be absolute)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts web_2 before web_10: digits by value, the rest by characters, ties by digits as written."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), part) if place % 2 else (0, part) for place, part in enumerate(parts)]


def read_manifest(path: str, *, remote: RemoteFiles) -> list[ListedDataset]:
    """The datasets in a manifest. Raises InputError."""
    text = _manifest_text(path, remote=remote)
    if path.endswith(".txt"):
        entries: list[Any] = [line.partition("#")[0].strip() for line in text.splitlines()]
        entries = [entry for entry in entries if entry]
    else:
        entries = _entries_of_json(text, path)
    if not entries:
        raise InputError(f"the manifest {path} lists no datasets")
    folder = path.rpartition("/")[0] if is_url(path) else str(Path(path).parent)
    return [_listed(entry, number, manifest=path, folder=folder) for number, entry in enumerate(entries)]


def _manifest_text(path: str, *, remote: RemoteFiles) -> str:
    try:
        return (remote.read(path) if is_url(path) else read_small(path, largest=TEXT_BYTES)).decode()
    except FileNotFoundError:
        raise InputError(f"manifest not found: {path}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"the manifest {path} is corrupted: byte {error.start:,} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"cannot read the manifest {path}: {error.strerror or error}") from error


def _entries_of_json(text: str, path: str) -> list[Any]:
    try:
        content = parse_json(text)
    except InputError as error:
        raise InputError(f"the manifest {path} is corrupted: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("datasets"), list):
        raise InputError(f'the manifest {path} must be an object with a list: {{"datasets": ["web_1", ..]}}')
    return content["datasets"]


def _listed(entry: Any, number: int, *, manifest: str, folder: str) -> ListedDataset:
    fields: Any = {"prefix": entry} if isinstance(entry, str) else entry
    kinds = {"prefix": str, "tokens": int, "fingerprint": str}
    is_right = isinstance(fields, dict) and bool(fields.get("prefix")) and set(fields) <= set(kinds)
    if not is_right or not all(type(fields[name]) is kinds[name] for name in fields):
        raise InputError(
            f"the manifest {manifest} is corrupted: datasets[{number}] must be a prefix, or an object of prefix and,"
            f" where known, tokens (a number) and fingerprint (text); it is {entry!r}"
        )
    prefix = fields["prefix"]
    if not is_url(prefix):
        prefix = f"{folder}/{prefix}" if is_url(folder) else os.path.join(folder, prefix)  # noqa: PTH118
    return ListedDataset(prefix, fields.get("tokens"), fields.get("fingerprint"), manifest)


def write_manifest(path: str | os.PathLike[str], prefixes: Sequence[str | os.PathLike[str]]) -> None:
    """Write a .manifest.json of local datasets, with the current tokens and fingerprint of each."""
    folder, entries = Path(path).parent, []
    if not os.fspath(path).endswith(".manifest.json"):
        raise InputError(f"{os.fspath(path)} is not a manifest name: it must end with .manifest.json")
    for prefix in prefixes:
        with closing(open_dataset(os.fspath(prefix))) as dataset:
            relative = os.path.relpath(prefix, folder)
            entries.append({"prefix": relative, "tokens": dataset.token_count, "fingerprint": dataset.fingerprint})
    write_json(path, {"datasets": entries})
