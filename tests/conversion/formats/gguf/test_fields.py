"""Metadata of GGUF files: what the `gguf` package itself reads, field by field, and one message where the file ends."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from megaphi.conversion.formats.gguf.fields import open_gguf
from megaphi.errors import InputError

KINDS = gguf.GGUFValueType
ARRAYS = {
    KINDS.STRING: ["", "a", "Ġthe", "🙂 and more than eight bytes", "\n"],
    KINDS.INT8: [-128, 0, 127],
    KINDS.UINT8: [0, 255],
    KINDS.INT16: [-32_768, 5],
    KINDS.UINT16: [65_535],
    KINDS.INT32: [-1, 1, 2, 3],
    KINDS.UINT32: [2**32 - 1],
    KINDS.INT64: [-(2**63), 2**63 - 1],
    KINDS.UINT64: [2**64 - 1, 0],
    KINDS.FLOAT32: [0.5, -1e30],
    KINDS.FLOAT64: [1e300, 0.1],
    KINDS.BOOL: [True, False, True],
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with an array of every kind, scalars and texts before and behind, and no tensor."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for kind, values in ARRAYS.items():
        writer.add_key_value(f"own.{kind.name}", values, KINDS.ARRAY, sub_type=kind)
        writer.add_uint32(f"behind.{kind.name}", 7)
    writer.add_key_value("own.nested", [[1, 2], [3]], KINDS.ARRAY)
    writer.add_string("last", "the end")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_every_field_holds_what_the_package_reads(file: Path) -> None:
    ours, theirs = open_gguf(file).fields, gguf.GGUFReader(file).fields
    assert list(ours) == list(theirs)
    for name, field in theirs.items():
        assert ours[name].contents() == field.contents(), name
        assert ours[name].types == field.types, name
    assert {kind: ours[f"own.{kind.name}"].contents() for kind in ARRAYS} | {KINDS.FLOAT32: [0.5, -1e30]} == ARRAYS


def test_a_file_that_ends_anywhere_is_one_message(file: Path, tmp_path: Path) -> None:
    content, cut = file.read_bytes(), tmp_path / "cut.gguf"
    for end in range(1, len(content) - len("the end"), 7):  # which meets every place within eight bytes
        cut.write_bytes(content[:end])
        with pytest.raises(InputError, match=r"cut\.gguf is corrupted or truncated"):
            open_gguf(cut)
