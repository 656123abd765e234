"""Descriptions of a run's code never stop it, and never pass changed code off as a clean commit."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from megaphi.checkpoint import versions as module
from tests.test_house import ROOT


@pytest.fixture
def versions(monkeypatch):
    """Ask again, and let the process forget it afterwards."""
    monkeypatch.setattr(module, "versions", module.versions.__wrapped__)
    return lambda: module.versions()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A package `code` in a repository with one commit and a file beside it."""
    package = tmp_path / "project" / "code"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package.parent / "recipe.py").write_text("steps = 1\n")
    (package.parent / ".gitignore").write_text("runs\nvenv\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "one")):
        subprocess.run(["git", "-C", package.parent, *words], check=True)
    return package


def test_without_git_everything_else_is_known(versions, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = versions()
    assert "commit" not in found
    assert {"python", "torch", "numpy", "megatron-core", "source", "kernels"} <= found.keys()


@pytest.mark.parametrize(
    "script", ["exit 128", "echo 'fatal: dubious ownership' >&2; exit 128", "sleep 60", "printf '\\377\\n'; exit 3"]
)
def test_a_git_that_fails_hangs_or_stammers_is_left_out(versions, monkeypatch, tmp_path, script):
    git = tmp_path / "git"
    git.write_text(f"#!/bin/sh\n{script.replace('sleep', shutil.which('sleep'))}\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(module, "GIT_PATIENCE_SECONDS", 0.5)
    assert "commit" not in versions()


def test_metadata_of_any_kind_of_brokenness_is_left_out(versions, monkeypatch, caplog):
    """Also where everything is logged, and an error cannot even say what it is."""
    caplog.set_level("DEBUG", logger="megaphi")

    def broken(name):
        raise {"torch": KeyError("Version"), "numpy": PermissionError(13, "no")}.get(
            name, metadata.PackageNotFoundError
        )

    monkeypatch.setattr(metadata, "version", broken)
    assert {"python", "source"} <= versions().keys()
    assert "torch" not in versions()


def test_a_clean_tree_is_its_commit(repository):
    head = module._git(repository, "rev-parse", "HEAD")
    (repository.parent / "runs").mkdir()
    (repository.parent / "notes.txt").write_text("nobody imports this")
    assert module.commit(repository) == head


@pytest.mark.parametrize("changed", ["code/__init__.py", "recipe.py", "code/new.py"])
@pytest.mark.parametrize("staged", [False, True])
def test_a_changed_tree_is_not_its_commit(repository, changed, staged):
    head = module._git(repository, "rev-parse", "HEAD")
    (repository.parent / changed).write_text("steps = 2\n")
    if staged:
        module._git(repository, "add", ":/")
    assert module.commit(repository) == f"{head}-dirty"


def test_an_installation_in_somebody_elses_repository_is_not_of_their_commit(repository):
    installed = repository.parent / "venv" / "code"
    shutil.copytree(repository, installed)
    assert module.commit(installed) is None
    assert module.commit(repository.parents[1]) is None


def test_the_digest_of_the_sources_is_of_their_bytes(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    digests = []
    for text in ("a = 1\n", "a = 2\n", "a = 1\n"):
        (tmp_path / "one.py").write_text(text)
        digests.append(module.source_digest(module.source_files()))
    assert digests[0] == digests[2] != digests[1]


def test_tables_of_measurements_say_when_the_code_was_not_the_commits(monkeypatch):
    found = {"commit": f"{'a' * 40}-dirty", "source": "c" * 64}
    monkeypatch.setattr(module, "versions", lambda: found)
    assert module.short_commit(7) == "aaaaaaa-dirty"
    found["commit"] = "b" * 40
    assert module.short_commit(7) == "bbbbbbb"
    del found["commit"]
    assert module.short_commit(7) == "source-ccccccc"


def test_every_benchmark_takes_its_commit_from_here():
    """The mark of changed files would be lost by a git of one's own, and by cutting the text."""
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        text = path.read_text()
        assert '"git"' not in text, path.name
        assert not re.search(r"commit[^\n]*\)\[:", text), path.name
        if '"commit"' in text or " commit " in text:
            assert "short_commit(" in text, path.name
