"""The lineage of a folder of documents, in its `lineage.json`: what made them, of what, and which files they are in.

`megaphi curate` writes it beside the documents, and whoever reads them takes it along: `megaphi tokenize` into
PREFIX.json, another run of curation into its own. A record is about the files that it lists: if one of them is another
now, or is missing, or there is one that it does not list, the folder is refused and not half believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megaphi.data.storage.files.token_files import sampled
from megaphi.errors import InputError
from megaphi.files import read_object

LINEAGE = "lineage.json"
FORMAT = 1


def listed_files(folder: Path) -> list[dict[str, Any]]:
    """Name within the folder, bytes and fingerprint of every file of a folder of documents."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and _is_listed(path))
    return [
        {
            "name": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "fingerprint": sampled_fingerprint(path),
        }
        for path in paths
    ]


def _is_listed(path: Path) -> bool:
    return path.name != LINEAGE and not path.name.startswith(".")


def sampled_fingerprint(path: Path) -> str:
    """Hex SHA-256 of a file's size and bytes: of all up to 256 KiB, of more of 16 blocks of 4 KiB."""
    with open(path, "rb") as file:

        def block(start: int, count: int) -> bytes:
            file.seek(start)
            return file.read(count)

        return fingerprint_of_blocks(path.stat().st_size, block)


def fingerprint_of_blocks(size: int, block: Callable[[int, int], bytes]) -> str:
    """`sampled_fingerprint` of `size` bytes, of which `block` reads (start, count)."""
    starts, count = sampled(size)
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    for start in starts:
        digest.update(block(start, count))
    return digest.hexdigest()


def lineages_of(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The records of all folders that these files lie in and that have one; `files` says how many of its were read.

    Raises:
        InputError: the files of such a folder are not those that its record lists.
    """
    by_folder: dict[Path, set[str]] = {}
    for path in files:
        for folder in (path.parent, path.parent.parent):  # a writer may have made folders by a field
            if (folder / LINEAGE).exists():
                by_folder.setdefault(folder, set()).add(path.relative_to(folder).as_posix())
                break
    return [_taken_along(folder, names) for folder, names in sorted(by_folder.items())]


def _taken_along(folder: Path, names: set[str]) -> dict[str, Any]:
    record = read_object(folder / LINEAGE, what="lineage of documents")
    if record.get("format") != FORMAT or not isinstance(record.get("files"), list):
        raise InputError(f"{folder / LINEAGE} is not a lineage of format {FORMAT}: curate again with this version")
    listed = {entry["name"]: entry for entry in record["files"]}
    remedy = f"curate again, or remove {LINEAGE} if its history is of no interest"
    if strange := sorted(names - listed.keys()):
        raise InputError(f"{folder / strange[0]} is not among the files that {LINEAGE} beside it lists: {remedy}")
    for name, entry in listed.items():
        path = folder / name
        if not path.exists():
            raise InputError(f"{path} is missing, and {LINEAGE} beside it lists it: {remedy}")
        found = {"name": name, "bytes": path.stat().st_size}
        found["fingerprint"] = sampled_fingerprint(path) if found["bytes"] == entry.get("bytes") else ""
        if found != entry:
            raise InputError(
                f"{path} ({found['bytes']:,} bytes) is not the file of {entry.get('bytes'):,} bytes that {LINEAGE}"
                f" beside it describes: {remedy}"
            )
    return {**record, "files": {"read": len(names), "of": len(listed)}}
