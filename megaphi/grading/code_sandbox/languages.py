"""The table of languages. A user's own language is one more row, given to `CodeSandbox(table=...)`.

Values go in and out in one of two ways. Functions of Python are called with plain data in a fork of a warm interpreter;
a program of any language reads standard input and writes standard output. Tests that are themselves code run against
Python only: in another language they would be linked into the program that they test, which could end with success
before they run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from megaphi.errors import InputError, did_you_mean
from megaphi.grading.code_sandbox.runtime import Mapped

_SYSTEM = ("/usr", "/bin", "/lib", "/lib64")


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """One language: the commands that compile and run a program within the box, in an empty folder."""

    name: str
    file: str
    """The name that the source gets."""
    compile: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    """Without one the source runs in the warm interpreter of Python."""
    needs: tuple[str, ...] = ()
    """Programs that must be there."""
    folders: tuple[str, ...] = ()
    """Folders of the host that the toolchain lies in: the box sees them, read-only."""
    address_bytes: int = 256 << 20
    """Address space beyond the limit of memory: some runtimes reserve much and use little."""

    @property
    def missing(self) -> list[str]:
        """Programs of the toolchain that this machine does not have."""
        return [program for program in self.needs if shutil.which(program) is None]


LANGUAGES = {
    language.name: language
    for language in (
        Language(name="python", file="answer.py"),
        Language(
            name="c",
            file="answer.c",
            compile=("gcc", "-O1", "-o", "answer", "answer.c", "-lm"),
            run=("./answer",),
            needs=("gcc",),
            folders=_SYSTEM,
        ),
        Language(
            name="c++",
            file="answer.cpp",
            compile=("g++", "-O1", "-o", "answer", "answer.cpp"),
            run=("./answer",),
            needs=("g++",),
            folders=_SYSTEM,
        ),
    )
}


def find_language(name: str, table: Mapping[str, Language]) -> Language:
    """The row of a language whose toolchain is here. Raises `InputError`."""
    if name not in table:
        raise InputError(f"no language {name!r}: there are {', '.join(table)}.{did_you_mean(name, table)}")
    if missing := table[name].missing:
        raise InputError(f"programs in {name} need {', '.join(missing)}, which this machine does not have")
    return table[name]


def toolchains(languages: Iterable[Language]) -> tuple[Mapped, ...]:
    """The folders of the host that programs in these languages see."""
    folders = dict.fromkeys(folder for language in languages for folder in language.folders)
    return tuple(Mapped(folder, folder) for folder in folders if Path(folder).is_dir())
