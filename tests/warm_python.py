"""A program `python` for launchers, by which `python -m megaphi ...` is a warm process (warm_megaphi.py).

The program is a rank's process for its launcher: it sends words, environment and folder to this process, says what the
warm process has said, and ends with its exit code. Signals are not passed on. Everything else is the usual Python's.
"""

from __future__ import annotations

import json
import socketserver
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.warm_megaphi import run_megaphi

PROGRAM = """#!{python} -SE
import json, os, socket, sys
if sys.argv[1:3] != ["-m", "megaphi"]:
    os.execv("{python}", ["{python}", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{address}")
    asked = {{"words": sys.argv[3:], "env": dict(os.environ), "cwd": os.getcwd()}}
    server.sendall(json.dumps(asked).encode() + b"\\n")
    said = json.load(server.makefile())
sys.stdout.write(said["out"])
sys.stderr.write(said["errors"])
sys.exit(said["code"])
"""


@contextmanager
def warm_python(*folders: Path) -> Iterator[None]:
    """Write the program into these folders; it works until the end of the block."""
    with tempfile.TemporaryDirectory() as place:  # a socket's path is short
        address = f"{place}/socket"
        for folder in folders:
            (folder / "python").write_text(PROGRAM.format(python=sys.executable, address=address))
            (folder / "python").chmod(0o755)
        with socketserver.ThreadingUnixStreamServer(address, _Rank) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()


class _Rank(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        done = run_megaphi(*asked["words"], env=asked["env"], cwd=asked["cwd"])
        said = {"out": done.stdout, "errors": done.stderr, "code": done.returncode}
        self.wfile.write(json.dumps(said).encode())
