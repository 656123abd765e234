"""The build: what it does without a compiler, with a wish it cannot grant, and what comes out of it.

Compiling takes minutes, so the wheel of the source distribution is made with the modules that this checkout has
compiled already; everything else of it, and that it works elsewhere, is as pip makes it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.test_house import ROOT


def setup(*words, cwd=ROOT, **environment):
    """Run setup.py as pip does, but with this environment's packages."""
    return subprocess.run(
        [sys.executable, "setup.py", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
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
    """An impossible MEGAPHI_CUDA fails the build with the reason, instead of building without CUDA."""
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


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory):
    """The folder that the source distribution unpacks to."""
    folder = tmp_path_factory.mktemp("distribution")
    done = setup("--quiet", "sdist", "--formats=tar", "--dist-dir", folder)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar")
    shutil.unpack_archive(archive, folder, filter="data")
    return folder / archive.stem


def files_below(folder):
    """Paths relative to `folder`, without what running leaves there; a link to a folder is one."""
    found = (Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
    return {str(path.relative_to(folder)) for path in found if path.suffix != ".pyc"}


def test_a_source_distribution_holds_all_that_is_compiled(source_distribution):
    assert files_below(ROOT / "csrc")
    assert files_below(ROOT / "csrc") <= files_below(source_distribution / "csrc")


@pytest.fixture(scope="module")
def wheel(source_distribution, tmp_path_factory):
    """(where the wheel of the source distribution is unpacked, the names in it)"""
    folder = tmp_path_factory.mktemp("wheel")
    library = folder / "library"
    (library / "megaphi").mkdir(parents=True)
    for module in (ROOT / "megaphi").glob("*.so"):
        shutil.copy(module, library / "megaphi")
    (folder / "build.cfg").write_text(f"[build]\nbuild_lib = {library}\n")
    done = setup(
        *("--quiet", "build_py", "bdist_wheel", "--skip-build", "--dist-dir", folder),
        cwd=source_distribution,
        DIST_EXTRA_CONFIG=str(folder / "build.cfg"),
    )
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("megaphi-*.whl")
    with ZipFile(archive) as opened:
        opened.extractall(folder / "installed")
        return folder / "installed", opened.namelist()


def test_a_wheel_of_the_source_distribution_holds_the_package(wheel):
    installed, names = wheel
    assert files_below(ROOT / "megaphi") == files_below(installed / "megaphi")
    (information,) = (name for name in names if name.endswith("/entry_points.txt"))
    assert "megaphi = megaphi.cli:main" in (installed / information).read_text()


def test_a_wheel_of_the_source_distribution_works_outside_the_checkout(wheel, tmp_path):
    """Compiled code, recipes and the server's page, from a folder that knows nothing of this one."""
    installed, _ = wheel
    (tmp_path / "text.txt").write_text("a text of some words " * 50)
    program = (
        "import megaphi, megaphi._C\n"
        "from megaphi.cli import main\n"
        "from megaphi.generation.server.chat_page import PAGE\n"
        "commands = 'tokenize text.txt --output data/own --vocabulary 1024 --processes 1',"
        " 'mixture quickstart_pretrain mixture.sources.web.paths=data/own', 'inspect dataset data/own'\n"
        "codes = [main(words.split()) for words in commands]\n"
        "print(codes, megaphi.__file__, megaphi._C.__file__, len(PAGE.read_text()) > 1000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codes, own, compiled, page = done.stdout.splitlines()[-1].rsplit(" ", 3)
    assert codes == "[0, 0, 0]", done.stdout + done.stderr
    assert str(installed / "megaphi") in own
    assert str(installed / "megaphi") in compiled
    assert page == "True"
    assert (tmp_path / "data/own.bin").is_file()


def test_the_torch_that_an_import_would_find_is_the_one_to_build_with(tmp_path):
    """That of PYTHONPATH, or which an environment inherits (venv --system-site-packages), though there is another."""
    header = tmp_path / "inherited/torch/include/torch/csrc/stable/library.h"
    header.parent.mkdir(parents=True)
    header.touch()
    program = (
        "import runpy, setuptools\n"
        "setuptools.setup = lambda **settings: None\n"
        "print(runpy.run_path('setup.py')['TORCH'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "inherited")},
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "inherited/torch")
