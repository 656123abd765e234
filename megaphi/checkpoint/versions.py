"""Provenance of a checkpoint or a measurement: versions of the packages, of Python, and of the source tree itself.

All of this only describes a run, so nothing here may fail: what cannot be determined is left out, and logged. `source`
is a digest of the running code, `kernels` of its compiled part, and neither needs git; `commit` exists where git tracks
the files, and is marked when they differ from the commit.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path

from megaphi.kernels.contents import kernels_digest
from megaphi.log import logger

PACKAGE = Path(__file__).parents[1]
PACKAGES = ("megaphi", "torch", "megatron-core", "numpy", "safetensors")
DIRTY = "-dirty"
"""Follows a commit whose tree had changes that were not committed."""
GIT_PATIENCE_SECONDS = 20.0


@cache
def versions() -> dict[str, str]:
    """Package -> version, `source`, `kernels`, and `commit` where there is one; asked once per process."""
    found = package_versions()
    _describe(found, "source", lambda: source_digest(source_files()))
    _describe(found, "kernels", kernels_digest)
    _describe(found, "commit", commit)
    return found


def package_versions() -> dict[str, str]:
    """Package -> version, and Python's."""
    found: dict[str, str] = {}
    _describe(found, "python", platform.python_version)
    for package in PACKAGES:
        _describe(found, package, lambda package=package: metadata.version(package))
    return found


def short_commit(characters: int = 10) -> str:
    """The beginning of the commit, and its mark, for tables of measurements; where there is none, of the source's
    digest.
    """
    whole, mark, _ = versions().get("commit", "").partition(DIRTY)
    return whole[:characters] + mark if whole else f"source-{versions().get('source', '')[:characters]}"


def _describe(found: dict[str, str], name: str, ask: Callable[[], str | None]) -> None:
    """Note an answer, if there is one."""
    try:
        answer = ask()
    except Exception as error:
        logger.info("%s is not recorded: %r", name, error)  # some errors have an empty message
        return
    if answer:
        found[name] = answer


def source_files() -> dict[str, str]:
    """Every Python file of this package, by its path within it, with the SHA-256 of its bytes."""
    return {
        path.relative_to(PACKAGE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def source_digest(files: dict[str, str]) -> str:
    """One SHA-256 of all files and their names."""
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in files.items()).encode()).hexdigest()


def commit(folder: Path = PACKAGE) -> str | None:
    """The commit that holds `folder`, marked `-dirty` unless it holds it as it is; None if no repository tracks it.

    An installed package inside another project's repository is not part of its commit.

    Raises:
        OSError, SubprocessError: git is not there, does not answer, or refuses (another owner, a corrupted repository).
    """
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    if not _git(folder, "ls-files", "--", "__init__.py"):
        return None
    head = _git(folder, "rev-parse", "HEAD")
    # Any change to a tracked file counts; of untracked files, only those that could be imported.
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no") or _git(
        folder, "ls-files", "--others", "--exclude-standard", "--", "."
    )
    return head + DIRTY * bool(changed)


def _git(folder: Path, *words: str) -> str:
    asked = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(folder), *words],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=GIT_PATIENCE_SECONDS,
        stdin=subprocess.DEVNULL,
    )
    if asked.returncode != 0:
        reason = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        raise OSError(f"git {words[0]}: {reason[0]}")
    return asked.stdout.strip()
