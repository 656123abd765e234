"""Output files that appear whole or not at all.

Atomic writes: a writer fills a temporary file in the target's own folder, syncs it to disk, and renames it over the
target: a reader, or a restart after a crash, sees the old file or the new one, never half of one. `sync_folder` makes
the rename itself survive a power cut. A full disk is the user's problem to solve, so it becomes an `InputError`.

A folder is filled under a name that nobody else has, and held locked: the lock ends with its process, so that a folder
which is being written now, and one that a killed job left, can be told apart. It gets its name by a plain rename,
which by POSIX takes the place of nothing but an empty folder: of two jobs with one target, the second is refused.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from megaphi.errors import CannotWrite, InputError
from megaphi.foreign.files import read_small, refuse_link_outside
from megaphi.json_text import json_bytes, parse_json

LOCK = ".being_written"
"""In a folder that is being written: the file whose lock its process holds."""
LARGEST_JSON = 1 << 28
"""Size limit of a JSON file, which is read whole: the index of a checkpoint of a thousand ranks is the longest."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Error codes of a file system without locks."""


@contextmanager
def whole_file(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file for writing that replaces `path` only if the block ends without an error."""
    target = Path(path)
    with explain_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        try:
            with os.fdopen(handle, mode) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            os.replace(temporary, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_folder(target.parent)


@contextmanager
def explain_write_errors(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the write errors that a user can fix (no space, no permission) into a `CannotWrite` naming `target`."""
    try:
        yield
    except OSError as error:
        remedies = {
            errno.ENOSPC: "no space left on the device: free some, or write elsewhere",
            errno.EDQUOT: "the disk quota is used up: free some space, or write elsewhere",
            errno.EFBIG: "the file is larger than this process may write (ulimit -f)",
            errno.EACCES: "permission denied: choose a folder that you may write to",
            errno.EROFS: "the file system is read-only: choose another folder",
            errno.ENOTDIR: "a part of this path is a file: choose another",
            errno.EEXIST: "there is a file where a folder should be: choose another path, or remove it",
            errno.EISDIR: "there is a folder of this name: choose another, or remove it",
        }
        if error.errno not in remedies:
            raise
        raise CannotWrite(f"cannot write {os.fspath(target)}: {remedies[error.errno]}") from error


@contextmanager
def explain_read_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an error in reading a file of the user's, which may go away while it is read, into one that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from error


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder to fill, which gets the name `path` only if the block ends without an error.

    Leftovers of killed jobs for this target are removed first.

    Raises:
        InputError: there is something at `path`, at the start or by the end, or another process is writing it now.
    """
    target = Path(path)
    with explain_write_errors(target):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} exists already: choose another folder, or remove it first")
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_unfinished(target)
        partial = unused_name(target, "partial")
        partial.mkdir()
        try:
            (partial / LOCK).touch()
            with locked(partial / LOCK):
                yield partial
                (partial / LOCK).unlink()
                publish_folder(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def unused_name(target: Path, ending: str) -> Path:
    """A hidden name beside `target` that no other process has."""
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}.{ending}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock of this file or folder, and hold it; it ends with the process too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock nothing
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def try_lock(path: Path, *, exclusive: bool) -> Iterator[bool | None]:
    """Try to take the lock of a file, made if need be, without waiting: True or False; None if there are no locks."""
    with explain_write_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    held: bool | None = True
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        held = False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        held = None
    try:
        yield held
    finally:
        os.close(handle)


def _clear_unfinished(target: Path) -> None:
    """Remove leftovers of killed jobs for `target`; refuse if a live job is writing it."""
    for partial in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        try:
            handle = os.open(partial / LOCK, os.O_RDONLY)
        except OSError:  # about to be published, or not ours
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)
        except BlockingIOError:
            raise InputError(f"another process is writing {target} now (in {partial.name}): let it end") from None
        except OSError:  # no locks here: its owner is unknown
            continue
        finally:
            os.close(handle)


def publish_folder(partial: Path, target: Path) -> None:
    """Give a completely written folder its name.

    Raises:
        InputError: something has this name already; nothing of it is changed.
    """
    sync_folder(partial)
    try:
        partial.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise InputError(f"{target} appeared while it was being written: nothing of it was changed") from None
    sync_folder(target.parent)


def replace_folder(partial: Path, target: Path) -> None:
    """Give a completely written folder its name, replacing one that has this name already."""
    replaced = unused_name(target, "replaced")
    if os.path.lexists(target):
        target.rename(replaced)
    publish_folder(partial, target)
    with suppress(OSError):
        remove_tree(replaced)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it; of a link only the link, and a file too. Nothing there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    with whole_file(path) as file:
        file.write(json_bytes(value))


def copy_files(files: Mapping[str, Path], folder: str | os.PathLike[str]) -> None:
    """Copy small files, each under its key, into a new folder; without files there is no folder.

    Raises:
        InputError: a file is a link that leaves its folder, cannot be read, or cannot be written.
    """
    if files:
        with explain_write_errors(folder):
            os.makedirs(folder, exist_ok=True)
    for name, path in files.items():
        content = read_small(refuse_link_outside(path))
        with whole_file(Path(folder) / name) as file:
            file.write(content)


def read_json(path: str | os.PathLike[str], *, what: str, largest: int = LARGEST_JSON) -> Any:
    """Parse a JSON file of at most `largest` bytes; `what` names its role in the error ("run config", "manifest").

    An object with the same key twice is refused.
    """
    try:
        content = read_small(path, largest=largest)
    except FileNotFoundError:
        raise InputError(f"{what} not found: {os.fspath(path)}") from None
    try:
        return parse_json(content, unique=True)
    except InputError as error:
        raise InputError(f"{what} {os.fspath(path)} is not valid JSON: {error}") from None


def read_object(path: str | os.PathLike[str], *, what: str) -> dict[str, Any]:
    """Parse a JSON file that holds one object; see `read_json`."""
    found = read_json(path, what=what)
    if not isinstance(found, dict):
        raise InputError(f"{what} {os.fspath(path)} is not an object with fields")
    return found


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Sync a folder's entries to disk, so that a rename inside it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Sync all files in a folder to disk, before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
