"""The lock of a run folder (and of its fallback): a file that names the one job that holds it.

The kernel knows whether the holder is alive (flock, released however a process dies), so a lock that a crash left is
taken over on the same host at once. Whether a job on another host is alive cannot be known: it is named and the start
refused, unless it was an earlier start of the same Slurm job, or `start.take_over` declares it dead. Where a file
system has no flock, the holder's process id and start time decide. No torch here.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.files import explain_write_errors
from megaphi.foreign.files import open_regular, refuse_other_files
from megaphi.json_text import parse_json
from megaphi.log import logger
from megaphi.parallel.rendezvous.signed_store import SECRET

LOCK = ".lock"
_NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_held: dict[Path, Lock] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """The job that holds a run folder, as somebody who only looks sees it."""

    described: str
    alive: bool | None
    """None: its process cannot be seen from here (another host or container)."""


class Occupied(InputError):
    """Another job holds the folder."""


def take(folder: Path, *, take_over: bool = False, field: str = "folder") -> Lock:
    """Take the lock of a folder, until this process ends or `Lock.release`; `field` names the folder in messages."""
    path = folder.absolute() / LOCK
    if path not in _held or not path.exists():  # somebody may have deleted the run folder
        _held[path] = Lock(path, take_over=take_over, field=field)
        atexit.register(_held[path].release)
    return _held[path]


def holder_of(folder: Path) -> Holder | None:
    """The job that holds a run folder; None if nobody does. Takes no lock, not even for a moment."""
    try:
        with open(open_regular(folder / LOCK), "rb") as file:
            holder = _holder(file.fileno())
    except (OSError, InputError):
        return None
    if not holder:
        return None
    me = _myself()
    alive: bool | None = None
    if me["boot"] and holder.get("boot") == me["boot"] and holder.get("processes") == me["processes"]:
        alive = isinstance(holder.get("pid"), int) and _start_of(holder["pid"]) == holder.get("started") != ""
    elif me["boot"] and holder.get("boot") and holder.get("host") == me["host"] and holder["boot"] != me["boot"]:
        alive = False  # this host has been rebooted since
    return Holder(described=_described(holder), alive=alive)


class Lock:
    """A held lock: the file `.lock` of a folder."""

    def __init__(self, path: Path, *, take_over: bool, field: str = "folder") -> None:
        self._field = field
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._path, self._handle = path, _open(path)
        try:
            holder = _holder(self._handle)
            knows = _flock(self._handle)
            if knows is False or (holder and not _is_gone(holder, flock=knows is True, take_over=take_over)):
                raise Occupied(_occupied(path, holder, provably=knows is False, field=field))
            self.token = secrets.token_hex(8)
            with explain_write_errors(path):
                _write(self._handle, {**_myself(), "token": self.token})
        except BaseException:
            os.close(self._handle)
            raise
        if holder:
            logger.info("taking over %s from %s, which has ended", path.parent, _described(holder))

    def confirm(self) -> None:
        """Check that the lock is ours: of two hosts that do not see each other's flock, the last to write has it.

        Raises:
            InputError: that was another job.
        """
        with open(self._path, "rb") as file:
            holder = _holder(file.fileno())
        if holder.get("token") != self.token:
            raise Occupied(_occupied(self._path, holder, provably=True, field=self._field))

    def release(self) -> None:
        """Release the folder; safe to call twice, and in a process that was forked from the holder's."""
        if _held.pop(self._path, None) is self and _holder(self._handle).get("pid") == os.getpid():
            self._path.unlink(missing_ok=True)
            os.close(self._handle)


def _open(path: Path) -> int:
    """Open the lock's file, created if missing; a file that is being released meanwhile is opened again."""
    for _ in range(100):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        refuse_other_files(handle, path)
        try:
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)
    raise InputError(f"{path} comes and goes: other jobs are starting in this run folder")


def _flock(handle: int) -> bool | None:
    """Try to take the lock; True if we hold it now, None if this file system cannot tell."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _holder(handle: int) -> Mapping[str, Any]:
    """The holder that the file names; empty if none, or if it died while writing."""
    try:
        found = parse_json(os.pread(handle, 1 << 16, 0))
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(handle: int, content: Mapping[str, Any]) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(content).encode(), 0)
    os.fsync(handle)


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "pid": os.getpid(),
        "processes": _link("/proc/self/ns/pid"),
        "started": _start_of(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        **_launchers_job(),
    }


def _launchers_job(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Job and number of restarts of the launcher that restarts jobs, if that has a name of its own.

    Two of torchrun's jobs may have been given one name, and it restarts also what was refused here: the job's secret
    tells them apart.
    """
    name, secret = environment.get("TORCHELASTIC_RUN_ID", "none"), environment.get(SECRET, "")
    if name != "none" and secret:
        mark = hashlib.sha256(f"{name} {secret}".encode()).hexdigest()[:8]
        return {"job": f"torchrun {mark}", "life": int(environment.get("TORCHELASTIC_RESTART_COUNT") or 0)}
    return {"job": environment.get("SLURM_JOB_ID", ""), "life": int(environment.get("SLURM_RESTART_COUNT") or 0)}


def _is_gone(holder: Mapping[str, Any], *, flock: bool, take_over: bool) -> bool:
    """Return whether the holder has ended. `flock`: the kernel reports that nobody on this host holds the file."""
    me = _myself()
    if holder.get("boot") == me["boot"] and me["boot"]:
        if flock or (holder.get("pid") == me["pid"] and holder.get("started") == me["started"]):
            return True
        if holder.get("processes") == me["processes"]:
            return _start_of(holder.get("pid")) != holder.get("started")
    elif holder.get("host") == me["host"] and me["boot"] and holder.get("boot"):
        return True  # this host has been rebooted since
    # Slurm and torchrun restart a job only when its earlier start has ended, wherever that was.
    same_job = holder.get("job") == me["job"] != ""
    return (same_job and holder.get("life", 0) < me["life"]) or take_over


def _start_of(pid: Any) -> str:
    """Start time of a process, in ticks since boot: a reused pid belongs to another process."""
    stat = _read(f"/proc/{pid}/stat")
    return stat.rpartition(")")[2].split()[19] if stat else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _described(holder: Mapping[str, Any]) -> str:
    name = str(holder.get("job") or "")
    job = f", {name.replace(' ', ' job ', 1) if name.startswith('torchrun') else f'Slurm job {name}'}" if name else ""
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}{job}, started {holder.get('since', '?')}"


def _occupied(path: Path, holder: Mapping[str, Any], *, provably: bool, field: str) -> str:
    if provably or holder.get("host") == socket.gethostname():
        return f"{path.parent} is in use by {_described(holder)}: end that job first, or choose another {field}"
    return (
        f"{path.parent} is in use by {_described(holder)}, or was when that host died: if it is surely dead, start "
        f"with start.take_over=true; else end it, or choose another {field}"
    )
