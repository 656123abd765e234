"""Folders of code: every source file of a repository a document, in the order of its paths.

A document knows its repository, its path, its language (by the ending, or the first line of a script), and the licence:
that of the file where it says one (SPDX), else of the repository. Files that nobody of the repository wrote (vendored
folders, lock files, minified and generated files by their names), that are no text or too large are rejected with their
reasons. What only a look at the lines shows, the step `CodeQuality` decides. Nothing is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from megaphi.config import FilePath, Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.read.code_kinds import GENERATED, SHEBANGS, VENDORED, language_of_name
from megaphi.curation.read.files import FolderPortion, folder_portion
from megaphi.curation.read.sources import walk
from megaphi.curation.step import Portion
from megaphi.errors import InputError
from megaphi.files import explain_read_errors

SPDX = re.compile(rb"SPDX-License-Identifier:\s*([A-Za-z0-9.+() -]{2,80})")
LICENCE_FILE = re.compile(r"(?i)^(?:un)?licen[cs]e|^copying|^notice")
LICENCES = (
    ("AGPL-3.0", r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3"),
    ("LGPL-3.0", r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3"),
    ("LGPL-2.1", r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 2\.1"),
    ("GPL-3.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 3"),
    ("GPL-2.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 2"),
    ("MPL-2.0", r"Mozilla Public License,? (?:Version |v\. )?2\.0"),
    ("Apache-2.0", r"Apache License,?\s+Version 2\.0"),
    ("PSF-2.0", r"PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2"),
    ("Unlicense", r"This is free and unencumbered software released into the public domain"),
    ("CC0-1.0", r"CC0 1\.0 Universal"),
    ("BSL-1.0", r"Boost Software License - Version 1\.0"),
    (
        "ISC",
        r"Permission to use, copy, modify, and(?:/or)? distribute this software for any purpose with or without fee",
    ),
    ("MIT", r"Permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("BSD-3-Clause", r"Redistributions? in binary form[\s\S]{0,900}Neither the names? of"),
    ("BSD-2-Clause", r"Redistributions? in binary form"),
)
"""The first that a text says is its licence; with white space as it comes."""
_HEAD = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadCode:
    """Source files of repositories."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"paths"})

    paths: tuple[FilePath, ...]
    """Folders, each a repository, or patterns of such (`repositories/*`)."""
    languages: tuple[str, ...] = ()
    """Languages to read, as in `Python`; files of others are skipped. None named means all."""
    largest_bytes: Annotated[int, Range(minimum=1)] = 1 << 20
    """Larger files are rejected as `too_large`."""
    licences: tuple[str, ...] = ()
    """SPDX names of licences to keep; others are rejected as `licence`. None named means all, also unknown ones."""

    def portions(self) -> Sequence[Portion]:
        """A portion for every repository. Raises InputError for an input that is no folder or holds no file."""
        folders: list[Path] = []
        for given in self.paths:
            path = Path(given)
            matches = [path] if path.is_dir() else sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
            folders += [each for each in matches if each.is_dir()]
            if not matches:
                raise InputError(f"{given} is neither a folder nor a pattern that matches one")
        found = [folder_portion(folder, list(walk(folder))) for folder in dict.fromkeys(folders)]
        if not any(portion.size_bytes for portion in found):
            raise InputError(f"no file of code in {', '.join(self.paths)}")
        return found

    def read(self, portion: Portion) -> Iterator[Outcome]:
        """The files of a repository, by path."""
        assert isinstance(portion, FolderPortion)
        with explain_read_errors(portion.folder):
            licence = licence_of(portion.folder)
        for path in walk(portion.folder):
            inside = str(path.relative_to(portion.folder))
            with explain_read_errors(path):
                outcome = self._outcome(path, inside, portion.folder, licence)
            if outcome is not None:
                yield outcome

    def _outcome(self, path: Path, inside: str, folder: Path, licence: str) -> Outcome | None:
        language = language_of_name(path.name)
        size = path.stat().st_size
        known: dict[str, Any] = {"repository": folder.name, "path": inside, "licence": licence}
        document = Document(id=f"{folder.name}/{inside}", source=str(path), place=str(path), metadata=known)
        if language is None and "." in path.name:
            return None  # data, pictures, what has no language
        if found := _not_written_here(inside):
            return Rejected(document, *found) if language else None
        if size > self.largest_bytes:
            return Rejected(document, "too_large", f"{size:,} bytes") if language else None
        content = path.read_bytes()
        language = language or _language_of_script(content)
        if language is None or (self.languages and language not in self.languages):
            return None
        document = document.known(code_language=language)
        if b"\0" in content[:_HEAD]:
            return Rejected(document, "binary")
        stated = SPDX.search(content, 0, _HEAD)
        if stated:
            document = document.known(licence=stated[1].decode().strip())
        if self.licences and document.metadata["licence"] not in self.licences:
            return Rejected(document, "licence", document.metadata["licence"])
        try:
            text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            return Rejected(document, "not_utf8", f"byte {error.start:,}")
        if not text.strip():
            return Rejected(document, "empty")
        return document.with_text(text)


def _not_written_here(inside: str) -> tuple[str, str] | None:
    """(reason, detail) if a path says that the file was taken over or made by a tool."""
    *folders, name = inside.lower().split("/")
    vendored = next((folder for folder in folders if folder in VENDORED), None)
    if vendored:
        return "vendored", vendored
    found = GENERATED.search(name)
    if found is None:
        return None
    return ("minified" if ".min." in name or "-min." in name else "generated"), found[0]


def _language_of_script(content: bytes) -> str | None:
    """The language of a file without an ending, by its first line."""
    first = content[:200].split(b"\n", 1)[0].decode("ascii", "replace")
    if not first.startswith("#!"):
        return None
    words = first[2:].split()
    program = next((word for word in words if not word.endswith("/env") and not word.startswith("-")), "")
    return SHEBANGS.get(re.sub(r"[\d.]+$", "", program.rpartition("/")[2]))


def licence_of(folder: Path) -> str:
    """SPDX name of the licence that lies in a folder; `unknown` for another text, `none` without one."""
    texts = [path for path in sorted(folder.iterdir()) if path.is_file() and LICENCE_FILE.match(path.name)]
    for path in texts:
        text = path.read_bytes()[:100_000].decode("utf-8", "replace")
        for name, words in LICENCES:
            if re.search(words.replace(" ", r"\s+"), text, re.IGNORECASE):
                return name
    return "unknown" if texts else "none"
