"""Metadata of GGUF files: what the `gguf` package itself reads, field by field, and one message where the file ends."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from megaphi.conversion.formats.gguf.gguf_file import decoded, read_gguf
from megaphi.errors import InputError
from tests.conversion.formats.gguf.gguf_model import write_gguf

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
    ours, theirs = read_gguf(file).fields, gguf.GGUFReader(file).fields
    assert list(ours) == [name for name in theirs if not name.startswith("GGUF.")]
    for name, value in ours.items():
        flat = [number for inner in value for number in inner] if name == "own.nested" else decoded(value)
        assert flat == theirs[name].contents(), name
    assert {kind: decoded(ours[f"own.{kind.name}"]) for kind in ARRAYS} | {KINDS.FLOAT32: [0.5, -1e30]} == ARRAYS


def test_every_tensor_lies_where_the_package_finds_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    ours = read_gguf(path).tensors
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        found = theirs[name]
        assert (tensor.kind, tensor.bytes, tensor.first_byte) == (found.tensor_type, found.n_bytes, found.data_offset)
        assert list(tensor.shape) == list(reversed(found.shape.tolist()))


def test_a_file_that_ends_anywhere_is_one_message(file: Path, tmp_path: Path) -> None:
    content, cut = file.read_bytes(), tmp_path / "cut.gguf"
    for end in range(1, len(content) - len("the end"), 7):  # which meets every place within eight bytes
        cut.write_bytes(content[:end])
        with pytest.raises(InputError, match=r"cut\.gguf is corrupted or truncated"):
            read_gguf(cut)
