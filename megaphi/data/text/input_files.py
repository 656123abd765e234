"""Expansion of a file, a folder or a pattern into files: one rule for tokenising, SFT, DPO and inspecting.

A folder stands for all files in it that can be read, in the order of their names, links followed (each file and each
folder once). Files that nobody means are left out: hidden files and folders, bookkeeping of tools (`_temporary`), data
cards, empty files, other kinds. Nothing is left out silently: `LeftOut` counts and names it. In a folder that holds
records, Markdown is about them; a folder of texts alone is made of documents. A file given by name is always meant: if
its ending says nothing, its content has to.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megaphi.data.text.input_formats import PARQUET, RECORD_ENDINGS, TEXT_ENDINGS, content_of_name, ending_of, format_of
from megaphi.data.text.unpacking import PACKING_OF_ENDING
from megaphi.errors import InputError
from megaphi.foreign.files import one_line_path
from megaphi.foreign.visible_text import is_one_line

CARDS = (
    "readme license licence copying notice changelog contributing citation authors code_of_conduct security "
    "dataset_info dataset_infos dataset_dict state lineage"
).split()
"""Names, without ending, of files about a data set: for people, of Hugging Face's `datasets`, of a curated folder."""
NAMED = 5


@dataclass(slots=True)
class LeftOut:
    """Files of folders that are not read, by reason."""

    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: Path | str) -> None:
        self.names.setdefault(reason, []).append(Path(path).name)

    def lines(self) -> list[str]:
        """For a log: a line for every reason."""
        return [f"not read: {len(names):,} {reason} ({_some(names)})" for reason, names in self.names.items()]


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def find_files(
    inputs: Sequence[str | os.PathLike[str]], *, texts: bool = True, left_out: LeftOut | None = None
) -> list[Path]:
    """The files that `inputs` name, each once, in order.

    Args:
        texts: whether plain texts can be used; else records only.
        left_out: collects the files of folders that are not read.

    Raises:
        InputError: an input does not exist, matches nothing, holds nothing to read, or is of a kind that is not known.
    """
    return [path for files in files_by_input(inputs, texts=texts, left_out=left_out).values() for path in files]


def files_by_input(
    inputs: Sequence[str | os.PathLike[str]], *, texts: bool = True, left_out: LeftOut | None = None
) -> dict[str, list[Path]]:
    """The same files by the input that names them; of several inputs, by the first."""
    left_out = LeftOut() if left_out is None else left_out
    found: dict[str, list[Path]] = {os.fspath(given): [] for given in inputs}
    seen: set[Path] = set()
    for given, files in found.items():
        for path in _files_of(Path(given), texts=texts, left_out=left_out):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                files.append(path)
    if not seen:
        raise InputError("no input files: name at least one file, folder or pattern")
    return found


def _files_of(given: Path, *, texts: bool, left_out: LeftOut) -> list[Path]:
    if given.is_dir():
        return _files_of_folder(given, texts=texts, left_out=left_out)
    if given.exists():
        _check_named(given, texts=texts)
        return [given]
    names = sorted(glob.glob(str(given), recursive=True))  # noqa: PTH207 (may be absolute)
    matches = [Path(one_line_path(name)) for name in names]
    if not matches:
        raise InputError(f"input not found: {given} is neither a file, a folder nor a pattern that matches one")
    here = LeftOut()
    files = [path for match in matches for path in _files_of_match(match, texts=texts, left_out=here)]
    return _or_refuse(files, f"that the pattern {given} matches", texts=texts, here=here, left_out=left_out)


def _files_of_match(match: Path, *, texts: bool, left_out: LeftOut) -> list[Path]:
    if match.is_dir():
        return _chosen(_walk(match, left_out, seen=set()), texts=texts, left_out=left_out)
    if not match.is_file():
        left_out.add("no regular file", match)
    elif content_of_name(match) is None or (content_of_name(match) == "text" and not texts):
        left_out.add("of other kinds", match)
    else:
        return [match]
    return []


def _files_of_folder(folder: Path, *, texts: bool, left_out: LeftOut) -> list[Path]:
    here = LeftOut()
    files = _chosen(_walk(folder, here, seen=set()), texts=texts, left_out=here)
    return _or_refuse(files, f"in the folder {folder}", texts=texts, here=here, left_out=left_out)


def _or_refuse(files: list[Path], where: str, *, texts: bool, here: LeftOut, left_out: LeftOut) -> list[Path]:
    if not files:
        found = "".join(f"; {line}" for line in here.lines())
        raise InputError(f"no documents {where}: looked for files ending in {_known(texts=texts)}{found}")
    for reason, names in here.names.items():
        left_out.names.setdefault(reason, []).extend(names)
    return files


def _known(*, texts: bool) -> str:
    plain = (*RECORD_ENDINGS, *(TEXT_ENDINGS if texts else ()))
    return f"{', '.join(plain)} (or compressed: {', '.join(PACKING_OF_ENDING)}), {PARQUET}"


def _check_named(path: Path, *, texts: bool) -> None:
    """Refuse a file given by name that is no file, or of which neither name nor content says how to read it."""
    if not path.is_file():
        raise InputError(f"{path} is a pipe, socket or device, which cannot be read twice: write it into a file first")
    content = content_of_name(path)
    unreadable = format_of(path) is None if content is None else content == "text" and not texts
    if unreadable:
        raise InputError(f"unknown file type: cannot read {path}: its name should end in one of {_known(texts=texts)}")


def _walk(folder: Path, left_out: LeftOut, *, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """All regular files in a folder that are not hidden, links followed, each folder once."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        left_out.add(f"a folder that cannot be read ({error.strerror})", folder)
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        path = Path(entry.path)
        if not is_one_line(entry.name):
            left_out.add("names with a control character", path)
        elif entry.name.startswith("."):
            left_out.add("hidden", path)
        elif path.is_dir():
            reached = path.stat()
            if entry.name.startswith("_"):
                left_out.add("folders of tools, by their name", path)
            elif (reached.st_dev, reached.st_ino) in seen:
                left_out.add("links to a folder that is read already", path)
            else:
                yield from _walk(path, left_out, seen=seen)
        elif path.is_file():
            yield path
        else:
            left_out.add("broken links" if entry.is_symlink() else "no regular file", path)


def _chosen(paths: Iterator[Path], *, texts: bool, left_out: LeftOut) -> list[Path]:
    """Those of a folder's files that are data, sorted."""
    files = sorted(paths)
    has_records = any(content_of_name(path) == "records" and not is_card(path) for path in files)
    only_cards = all(content_of_name(path) is None or is_card(path) for path in files)
    chosen = []
    for path in files:
        content = content_of_name(path)
        if content is None:
            left_out.add(f"of other kinds, {path.suffix.lower() or 'without an ending'}", path)
        elif path.stat().st_size == 0:
            left_out.add("empty", path)
        elif (is_card(path) and not only_cards) or (has_records and ending_of(path) == ".md"):
            left_out.add("about the data, no part of it", path)
        elif content == "text" and not texts:
            left_out.add("plain text, where records are read", path)
        else:
            chosen.append(path)
    return chosen


def is_card(path: Path) -> bool:
    """Return whether a file's name says that it is about the data, and no part of it."""
    return path.name.lower().partition(".")[0] in CARDS
