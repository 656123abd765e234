"""The sandbox tested from within before it is used: a probe tries the host's network, files and processes.

The parent sets up what a leak would show: a listening port, an abstract socket, a file that everybody may read. If the
probe reaches one of them, or does not report back at all, nothing is run.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megaphi.errors import RunFailed
from megaphi.grading.code_sandbox.inside import probe
from megaphi.grading.code_sandbox.isolation import Isolation

Ask = Callable[[str, str, list[Any]], Any]
"""Runs a source, calls the function of that name with the arguments, returns its value."""


def prove_isolation(isolation: Isolation, ask: Ask) -> None:
    """Raises `RunFailed` with all that a program in the box reaches, and passes on what `ask` raises."""
    token, name = secrets.token_hex(16), f"megaphi-{secrets.token_hex(8)}"
    with (
        socket.create_server(("127.0.0.1", 0)) as port,
        socket.socket(socket.AF_UNIX) as abstract,
        tempfile.NamedTemporaryFile("w") as secret,
    ):
        abstract.bind("\0" + name)
        abstract.listen()
        Path(secret.name).chmod(0o644)
        folders = [str(Path.home()), str(Path.cwd()), "/etc", "/var", "/home", "/root", "/sys"]
        arguments = [token, port.getsockname()[1], name, secret.name, folders, os.getpid()]
        found = ask(Path(probe.__file__).read_text(), "probe", arguments)
    if not isinstance(found, dict) or found.get("token") != token:
        raise RunFailed(f"the sandbox ({isolation.kind}) does not run its own probe: {str(found)[:200]}")
    reached = [each for each in found["reached"] if isolation.own_namespaces or each != "its fork server"]
    if reached:
        raise RunFailed(f"the sandbox ({isolation.kind}) does not hold: a program in it reaches {', '.join(reached)}")
