"""The isolation that this machine has, and the command that puts the fork server into it.

Bubblewrap, in one of two ways. With **user namespaces** the fork server has rights over namespaces of its own and
nothing else, so that each process of a test gets new ones: one box serves thousands of tests. Where bubblewrap is
installed **setuid root** instead, it grants no such rights, and each process of a test costs a box. A parent that is
root first becomes a user that owns nothing, because limits on processes do not hold for root; what that user may not
read (an interpreter under /root) is mounted for it where it may. With neither there is no isolation: `find_isolation`
refuses, unless told that unsafe is meant.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from megaphi.errors import InputError
from megaphi.grading.code_sandbox import runtime
from megaphi.grading.code_sandbox.runtime import Mapped

Kind = Literal["bubblewrap with user namespaces", "bubblewrap setuid root", "none"]
NOBODY = 65_534
REMEDY = "install bubblewrap (Debian: apt-get install bubblewrap) and allow user namespaces, or say --unsafe"
_DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True, slots=True)
class Isolation:
    """One kind of isolation, and the program `bwrap` that gives it."""

    kind: Kind
    bwrap: str = ""

    @property
    def own_namespaces(self) -> bool:
        """Each process of a test is alone in namespaces of its own, so that a box serves one test after another."""
        return self.kind == "bubblewrap with user namespaces"

    def command(self, control: int, *, folder_bytes: int, toolchains: tuple[Mapped, ...] = ()) -> list[str]:
        """The command of a box with its fork server; `control` is the descriptor of its socket."""
        if self.kind == "none":
            return runtime.server_without_box(control)
        files = [*toolchains, *runtime.runtime_files()]
        prefix, files = _as_nobody(self.bwrap, files) if os.geteuid() == 0 else ([], files)
        proc = ["--proc", "/proc"] if self.own_namespaces else []  # an empty one covers it for each test
        inside = runtime.server_in_box(control, own_namespaces=self.own_namespaces)
        return [
            *prefix,
            self.bwrap,
            *_namespaces(self),
            *_view(files, folder_bytes),
            *proc,
            "--remount-ro",
            "/",
            "--",
            *inside,
        ]

    def said(self) -> str:
        """One line for a log."""
        who = "as a user that owns nothing" if os.geteuid() == 0 and self.kind != "none" else "as this user"
        return f"code runs in {self.kind}, {who}" if self.kind != "none" else "code runs WITHOUT isolation (unsafe)"


def find_isolation(*, unsafe: bool = False) -> Isolation:
    """The strongest isolation that works here.

    Raises:
        InputError: there is none, and `unsafe` does not say to run without.
    """
    bwrap = shutil.which("bwrap")
    reasons = ["bwrap is not installed"]
    if bwrap:
        for kind in ("bubblewrap with user namespaces", "bubblewrap setuid root"):
            isolation = Isolation(kind, bwrap)
            reason = why_it_fails(isolation)
            if reason is None:
                return isolation
            reasons = [*(reasons if "installed" not in reasons[0] else []), f"{kind}: {reason}"]
    if unsafe:
        return Isolation("none")
    raise InputError(f"no isolation for programs of strangers: {'; '.join(reasons)}. {REMEDY.capitalize()}")


@cache
def why_it_fails(isolation: Isolation) -> str | None:
    """The last line that bubblewrap says of why it cannot, or None where it works."""
    if isolation.kind == "bubblewrap setuid root" and not Path(isolation.bwrap).stat().st_mode & stat.S_ISUID:
        return "it is not setuid"
    command = isolation.command(0, folder_bytes=1 << 20)
    probe = command[: command.index("--", command.index("--unshare-pid"))]
    loader_and_python = runtime.server_in_box(0, own_namespaces=False)[:-1]
    done = subprocess.run([*probe, "--", *loader_and_python, "pass"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it says nothing"])[-1]


def _namespaces(isolation: Isolation) -> list[str]:
    new = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if isolation.own_namespaces:
        rights = ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SYS_RESOURCE"]
        new += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY), *rights]
    return [*new, "--hostname", "box", "--die-with-parent", "--new-session", "--clearenv"]


def _view(files: list[Mapped], folder_bytes: int) -> list[str]:
    """The file system of a box: the mapped files, five devices, one folder to write in."""
    arguments: list[str] = []
    for each in files:
        arguments += ["--ro-bind", each.source, each.place]
    for folder in runtime.hidden_folders():
        arguments += ["--tmpfs", folder, "--remount-ro", folder]
    for device in _DEVICES:
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    return [*arguments, "--size", str(folder_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"]


def _as_nobody(bwrap: str, files: list[Mapped]) -> tuple[list[str], list[Mapped]]:
    """(what stands before the command of root, the files as that user finds them)."""
    arguments: list[str] = []
    moved: list[Mapped] = []
    for number, each in enumerate(files):
        if _everybody_reads(each.source):
            moved.append(each)
            continue
        arguments += ["--ro-bind", each.source, f"/tmp/{number}"]
        moved.append(Mapped(f"/tmp/{number}", each.place))
    drop = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    if not arguments:
        return [*drop, "--"], moved
    stage = [bwrap, "--dev-bind", "/", "/", "--tmpfs", "/tmp", *arguments, "--cap-add", "ALL", "--die-with-parent"]
    return [*stage, "--", *drop, "--"], moved


def _everybody_reads(path: str) -> bool:
    """Return whether a user without rights of its own finds and reads the file or folder."""
    place = Path(path)
    folders = [place, *place.parents] if place.is_dir() else place.parents
    is_found = all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)
    return is_found and bool(place.stat().st_mode & stat.S_IROTH) and not path.startswith("/tmp/")
