"""A program that tries to get out: the sandbox runs it as a candidate before it runs anybody else's.

It returns the names of all that it could reach, and sends back a token, so that silence is not taken for safety.
"""

import ctypes
import os
import signal
import socket
from pathlib import Path


def reaches(action, *arguments):
    """Return whether the action succeeds."""
    try:
        return bool(action(*arguments))
    except (OSError, AttributeError):
        return False


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.settimeout(1)
        caller.connect(address)
    return True


def signals(process):
    os.kill(process, 0)
    return True


def writes(folder):
    Path(folder, "probe").write_text("")
    return True


def has_rights():
    """Return whether any capability is left, or may come back by running a program."""
    libc = ctypes.CDLL(None)
    header, found = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, found)
    return any(found) or libc.prctl(39, 0, 0, 0, 0) != 1 or libc.unshare(0x10000000) == 0


def probe(token, port, abstract, secret, folders, parent):
    attempts = {
        "a port of the host": (connect, socket.AF_INET, ("127.0.0.1", port)),
        "a socket of the host": (connect, socket.AF_UNIX, "\0" + abstract),
        "a file of the host": (lambda: Path(secret).read_text()),
        "folders of the host": (lambda: [name for name in folders if Path(name).exists()]),
        "a process of the host": (lambda: parent != os.getpid() and signals(parent)),
        "processes in /proc": (lambda: list(Path("/proc").iterdir())),
        "the environment": (lambda: list(os.environ)),
        "writing into its own runtime": (lambda: any(reaches(writes, each) for each in ("/", "/box", "/python"))),
        "rights of an administrator": (lambda: os.getuid() == 0 or has_rights()),
        "its fork server": (lambda: os.getppid() and not os.kill(os.getppid(), signal.SIGCONT)),
    }
    calls = {name: each if isinstance(each, tuple) else (each,) for name, each in attempts.items()}
    return {"token": token, "reached": [name for name, call in calls.items() if reaches(*call)]}
