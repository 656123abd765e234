"""The build: what it does without a compiler, with a wish it cannot grant, and what a source distribution holds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.test_house import ROOT


def setup(*words, **environment):
    """Run setup.py as pip does, but with this environment's packages."""
    return subprocess.run(
        [sys.executable, "setup.py", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


def build_into(folder, **environment):
    return setup("build_ext", "--build-temp", folder / "objects", "--build-lib", folder / "lib", **environment)


@pytest.mark.parametrize("compiler", ["/bin/false", "/no/such/compiler"])
def test_without_a_compiler_nothing_is_installed_and_one_message_says_why(tmp_path, compiler):
    done = build_into(tmp_path, CC=compiler, CXX=compiler, MEGAPHI_CUDA="0")
    assert done.returncode != 0
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "megaphi needs a C++17 compiler, and this one failed" in message
    assert compiler in message
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize(
    ("wish", "message"),
    [("yes", "MEGAPHI_CUDA='yes': must be auto, 0 or 1"), ("1", "/bin/false")],
)
def test_a_wish_that_cannot_be_granted_fails(tmp_path, wish, message):
    """Who asks for CUDA is told why there is none, instead of getting a build without it."""
    done = build_into(tmp_path, MEGAPHI_CUDA=wish, CC="/bin/false", CXX="/bin/false", CUDA_HOME=fake_toolkit(tmp_path))
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not list(tmp_path.rglob("*.so"))


def fake_toolkit(folder):
    """A CUDA toolkit whose compiler always fails."""
    compiler = folder / "toolkit" / "bin" / "nvcc"
    compiler.parent.mkdir(parents=True)
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    return str(folder / "toolkit")


def test_a_source_distribution_holds_all_that_is_compiled(tmp_path):
    done = setup("--quiet", "sdist", "--formats=tar", "--dist-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar")
    listing = subprocess.run(["tar", "tf", archive], capture_output=True, text=True, check=True).stdout
    inside = {line.split("/", 1)[-1] for line in listing.splitlines()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert sources
    assert sources <= inside
