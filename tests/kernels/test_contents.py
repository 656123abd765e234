"""The digest of compiled code: another place of the build does not change it, another constant in the code does."""

from __future__ import annotations

import hashlib
import subprocess
import sysconfig
from pathlib import Path

import pytest

from megaphi.engine.start.same_run import code_facts
from megaphi.kernels import contents
from megaphi.kernels.contents import kernels_digest, loaded_parts

COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]


def compiled(folder: Path, constant: str) -> bytes:
    folder.mkdir(parents=True)
    (folder / "code.c").write_text(f"double scaled(double x) {{ return x * {constant}; }}\n")
    subprocess.run([COMPILER, "-g", "-O2", "-shared", "-fPIC", "-o", folder / "code.so", folder / "code.c"], check=True)
    return (folder / "code.so").read_bytes()


def test_code_counts_and_the_place_of_its_build_does_not(tmp_path: Path) -> None:
    one, elsewhere = (compiled(tmp_path / name, "1.5") for name in ("one", "else/where"))
    other = compiled(tmp_path / "other", "1.25")
    assert hashlib.sha256(one).digest() != hashlib.sha256(elsewhere).digest()
    assert [*loaded_parts(one)] == [*loaded_parts(elsewhere)]
    assert [*loaded_parts(one)] != [*loaded_parts(other)]
    assert [*loaded_parts(b"not ELF")] == [b"not ELF"]


def test_kernels_of_another_build_are_another_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_facts()
    assert len(before["compiled kernels"]) == 16
    ending = sysconfig.get_config_var("EXT_SUFFIX")
    for name in contents.MODULES:
        (tmp_path / f"{name}{ending}").write_bytes((contents.PACKAGE / f"{name}{ending}").read_bytes())
    whole = kernels_digest()
    monkeypatch.setattr(contents, "PACKAGE", tmp_path)
    assert kernels_digest() == whole
    changed = bytearray((tmp_path / f"_T{ending}").read_bytes())
    code = changed.index(next(part for part in loaded_parts(bytes(changed)) if len(part) > 20_000))
    changed[code + 5_000] ^= 1
    (tmp_path / f"_T{ending}").write_bytes(changed)
    after = code_facts()
    assert [name for name in before if before[name] != after[name]] == ["compiled kernels"]
    (tmp_path / f"_T{ending}").unlink()
    assert kernels_digest() not in (None, whole)
