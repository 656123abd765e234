"""The rights that a process gives up before it runs a line that is not ours, in an order that lets it give up all.

Where the fork server holds the rights to (`own_namespaces`), the process is already the first of a new pid namespace:
it sees no process but its own, cannot signal another, and all that it starts dies with it. It then takes mounts and
System V IPC of its own: an empty /tmp of bounded size, and an empty /proc. Last go capabilities, limits and system
calls. A step that fails raises: the caller ends without running anything.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Any

from megaphi.grading.code_sandbox.inside.system_calls import install_filter, is_filtered

NEW_PROCESSES = 0x20000000
_NEW_MOUNTS, _NEW_IPC = 0x00020000, 0x08000000
_NOSUID_NODEV, _NOEXEC, _READ_ONLY = 2 | 4, 8, 1
_PR_CAP_AMBIENT, _CLEAR_ALL, _CAPABILITIES_VERSION = 47, 4, 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:
    """Call a function of the C library. Raises `OSError` where it returns -1."""
    result = getattr(_libc, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def confine(limits: dict[str, Any], *, own_namespaces: bool, folder: str) -> None:
    """Give up all that a program of a test must not have. Raises `OSError`."""
    os.setsid()
    if own_namespaces:
        call("unshare", _NEW_MOUNTS | _NEW_IPC)
        size = f"size={limits['folder_bytes']},nr_inodes={limits['files']},mode=700"
        call("mount", b"tmpfs", folder.encode(), b"tmpfs", _NOSUID_NODEV, size.encode())
        call("mount", b"tmpfs", b"/proc", b"tmpfs", _NOSUID_NODEV | _NOEXEC | _READ_ONLY, b"size=4k,mode=555")
        _drop_capabilities()
    os.chdir(folder)
    _set_limits(limits)
    if is_filtered():
        install_filter()


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    call("prctl", _PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    call("capset", header, none)


def _set_limits(limits: dict[str, Any]) -> None:
    for kind, most in (
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_AS, limits["memory_bytes"] + limits["address_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_STACK, 8 << 20),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing too much raises in Python, as it does by default
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
