"""Files and classes that are no tokens, or not those that the source says: each is one message that names them."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.formats.dataset_formats import open_dataset
from megaphi.data.storage.reader import TokenReader
from megaphi.data.storage.streams import TokenStream
from megaphi.errors import InputError
from tests.data.token_forms import OWN, VOCABULARY, opened


def npy(array, **fields):
    file = io.BytesIO()
    np.save(file, array, **fields)
    return file.getvalue()


def header_of(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


NUMBERS = np.arange(100) % 50
WRONG = {
    "uint8": ("d.npy", npy(NUMBERS.astype("u1")), {}, r"d\.npy holds uint8 .*must be uint16, uint32, int32"),
    "int64": ("d.npy", npy(NUMBERS), {}, r"holds int64 .*Convert it: numpy\.save"),
    "int16": ("d.npy", npy(NUMBERS.astype("i2")), {}, "holds int16"),
    "big-endian": ("d.npy", npy(NUMBERS.astype(">u2")), {}, r"holds uint16 \(>u2\).*little-endian"),
    "float": ("d.npy", npy(NUMBERS.astype("f4")), {}, "holds float32"),
    "bool": ("d.npy", npy(NUMBERS > 3), {}, "holds bool"),
    "fields": ("d.npy", npy(np.zeros(4, [("id", "u2")])), {}, "holds void16"),
    "two dimensions": ("d.npy", npy(NUMBERS.astype("u2").reshape(4, 25)), {}, r"shape \(4, 25\): .*must be one row"),
    "Fortran": ("d.npy", npy(np.asfortranarray(NUMBERS.astype("u2").reshape(4, 25))), {}, "in Fortran's order"),
    "no dimension": ("d.npy", npy(np.uint16(3)), {}, r"shape \(\): "),
    "pickle": ("d.npy", npy(np.array([1, "a"], object), allow_pickle=True), {}, "pickled Python objects"),
    "version 3": ("d.npy", b"\x93NUMPY\x03\x00" + npy(NUMBERS)[8:], {}, r"version 3\.0 of \.npy"),
    "cut in the tokens": ("d.npy", npy(NUMBERS.astype("u2"))[:-3], {}, "truncated: it has 325 bytes, .* describes 328"),
    "cut in the header": ("d.npy", npy(NUMBERS.astype("u2"))[:40], {}, "corrupted: its .npy header cannot be read"),
    "cut in the magic": ("d.npy", b"\x93NUMPY", {}, "corrupted: its .npy header cannot be read"),
    "a longer file": ("d.npy", npy(NUMBERS.astype("u2")) + b"\0\0", {}, "corrupted: it has 330 bytes"),
    "a header of nonsense": ("d.npy", header_of("{{((" * 9), {}, "corrupted: its .npy header cannot be read"),
    "a negative shape": (
        "d.npy", header_of("{'descr': '<u2', 'fortran_order': False, 'shape': (-3,), }\n"), {}, "d.npy is corrupted",
    ),
    "another dtype than said": ("d.npy", npy(NUMBERS.astype("u2")), {"dtype": "uint32"}, "source's dtype is uint32"),
    "an npy without header": ("d.npy", NUMBERS.astype("u2").tobytes(), {}, "no header .*OLMo.* dtype=uint16 or uint32"),
    "no npy": ("d.npy", None, {}, r"dataset file not found: .*d\.npy"),
    "an empty npy": ("d.npy", npy(np.empty(0, "u2")), {}, "source 'web' has no documents"),
    "a bin without dtype": ("d.bin", NUMBERS.astype("u2").tobytes(), {}, r"d\.bin has no \.idx beside.*dtype=uint16"),
    "half a token": ("d.bin", b"abc", {"dtype": "uint16"}, "has 3 bytes, no whole number of uint16 tokens"),
    "half a wide token": ("d.bin", bytes(66), {"dtype": "uint32"}, "no whole number of uint32 tokens"),
    "uint32 as uint16": ("d.bin", NUMBERS.astype("u4").tobytes(), {"dtype": "uint16"}, "looks like uint32"),
    "uint16 as uint32": ("d.bin", NUMBERS.astype("u2").tobytes(), {"dtype": "uint32"}, r"holds token \d+, but the"),
    "llm.c of another dtype": (
        "d.bin", np.array([20240801, 7, 100, *[0] * 253], "<i4").tobytes() + NUMBERS.astype("u4").tobytes(),
        {"dtype": "uint16"}, r"holds uint32 by its header \(llm\.c's\)",
    ),
    "llm.c cut": (
        "d.bin", np.array([20240520, 1, 100, *[0] * 253], "<i4").tobytes() + NUMBERS[:90].astype("u2").tobytes(),
        {"dtype": "uint16"}, "corrupted: 1,204 bytes, but 100 tokens by its header",
    ),
    "an empty bin": ("d.bin", b"", {"dtype": "uint16"}, "source 'web' has no documents"),
    "ids beyond the vocabulary": ("d.npy", npy((NUMBERS + 60_000).astype("u2")), {}, "holds token 60049, but"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_tokens_is_refused_by_name(kind, tmp_path):
    name, content, said, message = WRONG[kind]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        opened(Mixture(sources=(Source(name="web", weight=1, paths=(f"{tmp_path}/{name}",), **said),)))


OWN_WRONG = {
    "no class": ("own.py:Shard:x", "", "has no class 'Shard'. Did you mean 'Shards'"),
    "no file": ("other.py:Shards", "", "there is no file .*other.py"),
    "no name": ("own.py", "", "name a class too, as in .*own.py:my_dataset"),
    "a dtype": ("own.py:Good", "", "leave the source's dtype out"),
    "no argument": ("own.py:Shards", "", "own.py:Shards.*TypeError: .*missing 1 required positional argument"),
    "fails when made": ("own.py:Fails", "class Fails:\n def __init__(self): 1 / 0\n", r"line \d+: ZeroDivisionError"),
    "no read": ("own.py:Mute", "class Mute:\n def __len__(self): return 9\n", "Mute has no method read"),
    "fails when read": (
        "own.py:Bad", "class Bad(Good):\n def read(self, start, count): raise KeyError(start)\n",
        r"dataset .*own.py:Bad'?: read\(\d+, \d+\): .*own.py, line \d+: KeyError",
    ),
    "too few": (
        "own.py:Bad", "class Bad(Good):\n def read(self, start, count): return np.arange(count - 1)\n",
        r"gave int64 of shape \(\d+,\), not \d+ whole numbers in one row",
    ),
    "floats": (
        "own.py:Bad", "class Bad(Good):\n def read(self, start, count): return np.zeros(count)\n", "gave float64",
    ),
    "ragged": (
        "own.py:Bad", "class Bad(Good):\n def read(self, start, count): return [[1], [2, 3]]\n", "gave object",
    ),
}  # fmt: skip
GOOD = """
class Good:
    def __len__(self): return 100
    def read(self, start, count): return np.arange(start, start + count)
"""


@pytest.mark.parametrize("kind", OWN_WRONG)
def test_what_goes_wrong_in_a_class_of_the_users_is_one_message(kind, tmp_path):
    path, text, message = OWN_WRONG[kind]
    (tmp_path / "own.py").write_text(OWN.replace("class Documented", GOOD + text + "\nclass Documented"))
    said = {"dtype": "uint16"} if kind == "a dtype" else {}
    with pytest.raises(InputError, match=message) as error:
        opened(Mixture(sources=(Source(name="web", weight=1, paths=(f"{tmp_path}/{path}",), **said),)))
    assert "\n" not in str(error.value)


def test_a_negative_id_of_a_class_is_found_when_it_is_read(tmp_path):
    bad = "class Late(Good):\n def __len__(self): return 300_000\n def read(self, start, count):\n"
    bad += "  return np.where(np.arange(start, start + count) == 100_001, -7, 5)\n"
    (tmp_path / "own.py").write_text(OWN + GOOD + bad)
    data = opened(Mixture(sources=(Source(name="web", weight=1, paths=(f"{tmp_path}/own.py:Late",)),)))
    runs = data.reader.windows([0], [100_000], 10)
    with pytest.raises(InputError, match=r"source 'web': .*own\.py:Late holds token -7 at token 100,001 "):
        data.reader.read(runs, rows=1, count=10, vocabulary_size=VOCABULARY)


def test_a_fingerprint_of_the_class_itself_counts(tmp_path):
    for version in (1, 2):
        (tmp_path / f"own_{version}.py").write_text(
            OWN + GOOD + f"class Named(Good):\n def fingerprint(self): return 'version {version}'\n"
        )
    first, second = (open_dataset(f"{tmp_path}/own_{version}.py:Named") for version in (1, 2))
    assert (first.tokens(0, 100) == second.tokens(0, 100)).all()
    assert first.fingerprint != second.fingerprint


def test_a_file_that_shrinks_while_in_use_and_a_wide_id_are_told_with_their_place(tmp_path):
    tokens = np.full(3_000, 5, "u4")
    tokens[2_999] = 4_000_000_000
    np.save(tmp_path / "d.npy", tokens)
    data = open_dataset(f"{tmp_path}/d.npy")
    reader = TokenReader([TokenStream((data,), "web")])
    runs = reader.windows([0], [2_990], 10)
    with pytest.raises(InputError, match=r"holds token 4000000000 at token 2,999 \(byte 12,124\)"):
        reader.read(runs, rows=1, count=10, vocabulary_size=VOCABULARY)
    with open(tmp_path / "d.npy", "r+b") as file:
        file.truncate(200)
    with pytest.raises(InputError, match=r"source 'web': .*d\.npy ends at or before byte"):
        reader.read(runs, rows=1, count=10, vocabulary_size=VOCABULARY)
