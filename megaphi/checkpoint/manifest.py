"""manifest.json: the size and SHA-256 of every file of a checkpoint, so that corruption is named before it has an
effect.

It is written last, when all other files are on disk; a folder without one is not a checkpoint. Its own text has one
exact form with its own digest inside, so that a flipped byte anywhere shows. The format became version 3 when `run`
became `save_id`: an older megaphi then refuses it by name and does not call it corrupted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from megaphi.checkpoint.tensor_file import FileRecord, TensorFile, hash_file
from megaphi.errors import InputError
from megaphi.files import LARGEST_JSON, read_json, write_text
from megaphi.foreign.files import brief, damage_named, is_plain_name, read_small

FORMAT = "megaphi-checkpoint-3"
SAVE_ID_NAMES = {FORMAT: "save_id", "megaphi-checkpoint-2": "run"}
"""Name of the save id in each format that can be read; nothing else differs between them."""
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The save that a checkpoint comes from, and its files by their path within the folder."""

    save_id: str
    """Drawn at random when a run's processes start, and by each conversion: the files of one save share it, and the
    step."""
    step: int
    files: Mapping[str, FileRecord]

    @property
    def bytes(self) -> int:
        return sum(record.bytes for record in self.files.values())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_text(folder / MANIFEST, _spelled(manifest, FORMAT))


def read_manifest(folder: Path) -> Manifest:
    """Raises InputError if it is missing, corrupted, or of another format."""
    path = folder / MANIFEST
    found = read_json(path, what="checkpoint manifest")
    stated = found.get("format") if isinstance(found, dict) else None
    if stated not in SAVE_ID_NAMES:
        raise InputError(f"{path} has the format {stated!r}, expected {' or '.join(map(repr, SAVE_ID_NAMES))}")
    with damage_named(path, what="a manifest: it has changed since it was written"):
        files = {name: _record(name, entry) for name, entry in found["files"].items()}
        manifest = Manifest(save_id=found[SAVE_ID_NAMES[stated]], step=found["step"], files=files)
        if type(manifest.step) is not int or not isinstance(manifest.save_id, str):
            raise TypeError(f"step {brief(manifest.step)} of the save {brief(manifest.save_id)}")
        if _spelled(manifest, stated).encode() != read_small(path, largest=LARGEST_JSON):
            raise InputError(f"{path} is corrupted: it has changed since it was written")
    return manifest


def _record(name: str, entry: Mapping[str, Any]) -> FileRecord:
    """The record of a file; its name leads to a file of the checkpoint's folder or of one within. Raises ValueError."""
    record, parts = FileRecord(entry["bytes"], entry["sha256"]), name.split("/")
    if not (all(map(is_plain_name, parts)) and len(parts) <= 2 and type(record.bytes) is int and record.bytes >= 0):
        raise ValueError(f"{name!r} of {brief(record.bytes)} bytes")
    return record


def _spelled(manifest: Manifest, stated: str) -> str:
    content = {
        "format": stated,
        SAVE_ID_NAMES[stated]: manifest.save_id,
        "step": manifest.step,
        "files": {
            name: {"bytes": record.bytes, "sha256": record.sha256} for name, record in sorted(manifest.files.items())
        },
    }
    digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"


def check_size(folder: Path, manifest: Manifest, name: str) -> None:
    """Raises InputError if a file is missing or has another size."""
    if name not in manifest.files:
        raise InputError(f"checkpoint {folder}: {MANIFEST} does not list {name}: use another checkpoint")
    path, expected = folder / name, manifest.files[name].bytes
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        state = "is missing" if found is None else f"is truncated ({found:,} of {expected:,} bytes)"
        if found is not None and found > expected:
            state = f"is longer than when it was written ({found:,} bytes, not {expected:,})"
        raise InputError(f"checkpoint {folder}: {name} {state}: use another checkpoint")


def check_content(folder: Path, manifest: Manifest, name: str, *, from_disk: bool = False) -> None:
    """Read a whole file; raises InputError if its bytes are not those that were written."""
    check_size(folder, manifest, name)
    try:
        found = hash_file(folder / name, from_disk=from_disk)
    except OSError as error:
        raise InputError(f"checkpoint {folder}: {name} cannot be read: {error.strerror}") from None
    if found != manifest.files[name]:
        raise InputError(
            f"checkpoint {folder}: {name} {_origin(folder / name, manifest)} (SHA-256 {found.sha256[:12]}…, written as "
            f"{manifest.files[name].sha256[:12]}…): use another checkpoint"
        )


def save_of(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """Save id and step of a rank's file, from its header; None where it does not say."""
    save_id = next((metadata[name] for name in SAVE_ID_NAMES.values() if name in metadata), None)
    return None if save_id is None or "step" not in metadata else (save_id, metadata["step"])


def _origin(path: Path, manifest: Manifest) -> str:
    """Explain wrong content: the file is another save's, or it is corrupted."""
    if path.suffix == ".safetensors":
        try:
            with TensorFile(path) as file:
                found = save_of(file.metadata)
        except InputError:
            return "is corrupted"
        if found is not None and found != (manifest.save_id, str(manifest.step)):
            save_id, step = found
            whose = "this run" if save_id == manifest.save_id else f"another save ({save_id})"
            return f"is not part of this checkpoint: {whose} wrote it at step {step}"
    return "is corrupted"


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Sizes of all files: seconds, whatever the model's size. Raises InputError for the first that is wrong."""
    for name in manifest.files:
        check_size(folder, manifest, name)
