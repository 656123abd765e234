"""The files that an interpreter needs and nothing else: they are all of the host that a box can see.

The standard library without its site-packages, the executable, the shared libraries that it and its extension modules
name, the dynamic loader. In the box they lie under /python, so that no path of the host shows; the loader is called by
its name with the folder of libraries, and so no environment variable is needed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from megaphi.errors import InputError

HOME = "/python"
LIBRARIES = f"{HOME}/shared"
CODE = "/box"
INSIDE = Path(__file__).parent / "inside"
_LEFT_OUT = re.compile(r"_test|_tkinter|_xx|xxlimited|_curses|readline|_dbm|_gdbm")
_START = "import sys; sys.path.insert(0, {code!r}); from {module} import main; main({control}, own_namespaces={own})"
_MODULE = "megaphi.grading.code_sandbox.inside.fork_server"


@dataclass(frozen=True, slots=True)
class Mapped:
    """A file or folder of the host, and its place in the box."""

    source: str
    place: str


@cache
def runtime_files() -> tuple[Mapped, ...]:
    """All of the host that a box for Python sees. Raises `InputError` where the interpreter cannot be taken apart."""
    libraries, loader = _shared_libraries()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    standard = f"{HOME}/{sys.platlibdir}/{version}"
    return (
        Mapped(str(_standard_library()), standard),
        Mapped(_executable(), f"{HOME}/bin/{version}"),
        *(Mapped(path, _in_box(path)) for path in (loader, *libraries)),
        Mapped(str(INSIDE), f"{CODE}/megaphi/grading/code_sandbox/inside"),
    )


def hidden_folders() -> list[str]:
    """Folders within the mapped ones that hold the host's packages: an empty one is put over each."""
    standard = _standard_library()
    place = next(each.place for each in runtime_files() if each.source == str(standard))
    return [f"{place}/{name}" for name in ("site-packages", "dist-packages") if (standard / name).is_dir()]


def server_in_box(control: int, *, own_namespaces: bool) -> list[str]:
    """The command that starts the fork server within a box; `control` is the descriptor of its socket."""
    loader = _in_box(_shared_libraries()[1])
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    start = _START.format(code=CODE, module=_MODULE, control=control, own=own_namespaces)
    return [loader, "--library-path", LIBRARIES, f"{HOME}/bin/{version}", "-I", "-S", "-c", start]


def server_without_box(control: int) -> list[str]:
    root = str(INSIDE.parents[3])
    start = _START.format(code=root, module=_MODULE, control=control, own=False)
    return [sys.executable, "-I", "-c", start]


def _in_box(library: str) -> str:
    return f"{LIBRARIES}/{Path(library).name}"


def _executable() -> str:
    return os.path.realpath(sys.executable)


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}))


@cache
def _shared_libraries() -> tuple[tuple[str, ...], str]:
    """(libraries, dynamic loader) of the interpreter and of the extension modules in its standard library."""
    modules = sorted((_standard_library() / "lib-dynload").glob("*.so"))
    files = [_executable(), *(str(path) for path in modules if not _LEFT_OUT.match(path.name))]
    try:
        said = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    except OSError:
        raise InputError("ldd is not there: the sandbox needs it to find the interpreter's libraries") from None
    libraries = set(re.findall(r"=> (/\S+)", said))
    loaders = re.findall(r"^\s+(/\S+) \(0x", said, re.MULTILINE)
    if not loaders:
        raise InputError(f"{_executable()} has no dynamic loader: a static interpreter cannot be put into a sandbox")
    return tuple(sorted(libraries)), loaders[0]
