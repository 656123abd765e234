"""The same tokens in every format that a source may name: a pair of .bin and .idx, and `FORMS`.

Each is written by NumPy or by hand, none by code of ours but the pair. Every document ends with `END`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from megaphi.data.loading.loader import open_mixture
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter

END, VOCABULARY = 1, 1_000
OWN = """
import numpy as np

class Shards:
    def __init__(self, path):
        self.tokens = np.fromfile(path, dtype=np.uint16)

    def __len__(self):
        return len(self.tokens)

    def read(self, start, count):
        return self.tokens[start : start + count]

class Documented(Shards):
    def document_starts(self, start, count):
        ends = np.flatnonzero(self.tokens[:-1] == 1) + 1
        return ends[(ends >= start) & (ends < start + count)]
"""
FORMS = {
    "numpy uint16": ("{}.u2.npy", {}),
    "numpy uint32": ("{}.u4.npy", {}),
    "numpy int32": ("{}.i4.npy", {}),
    "OLMo's npy": ("{}.olmo.npy", {"dtype": "uint16"}),
    "headerless uint16": ("{}.u2.bin", {"dtype": "uint16"}),
    "headerless uint32": ("{}.u4.bin", {"dtype": "uint32"}),
    "llm.c uint16": ("{}.llmc.bin", {"dtype": "uint16"}),
    "own class": ("{folder}/own.py:Shards:{}.u2.bin", {}),
    "own class with documents": ("{folder}/own.py:Documented:{}.u2.bin", {"document_end": None}),
}


def write_forms(prefix, tokens):
    """The same tokens as a pair and in every other form; documents end with END, and with the data."""
    tokens = np.asarray(tokens)
    ends = np.flatnonzero(tokens == END) + 1
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        for document in np.split(tokens, ends[:-1]):
            writer.add_document(document)
        writer.finish({})
    for name in ("u2", "u4", "i4"):
        np.save(f"{prefix}.{name}.npy", tokens.astype(name))
        tokens.astype(name).tofile(f"{prefix}.{name}.bin")
    tokens.astype("u2").tofile(f"{prefix}.olmo.npy")
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(tokens)
    with open(f"{prefix}.llmc.bin", "wb") as file:
        file.write(header.tobytes() + tokens.astype("u2").tobytes())


def write_corpus(folder):
    """web is three datasets, code one; documents of 1 to 30 tokens. Returns the folder."""
    (folder / "own.py").write_text(OWN)
    draw = np.random.default_rng(4)
    for name in ("web_1", "web_2", "web_10", "code"):
        documents = [[*draw.integers(2, VOCABULARY, draw.integers(0, 30)), END] for _ in range(60)]
        write_forms(folder / name, np.concatenate(documents))
    return folder


def source_of(folder, form, name, datasets, **fields):
    if form == "pair":
        return Source(name=name, paths=tuple(f"{folder}/{one}" for one in datasets), **fields)
    pattern, said = FORMS[form]
    paths = tuple(pattern.format(f"{folder}/{one}", folder=folder) for one in datasets)
    held_out = paths[:1]
    return Source(name=name, paths=paths, validation_paths=held_out, **{"document_end": END, **said, **fields})


def mixture_of(folder, form, **fields):
    web = source_of(folder, form, "web", ("web_1", "web_2", "web_10"), weight=3)
    code = source_of(folder, form, "code", ("code",), weight=1)
    if form == "pair":
        web, code = (dataclasses.replace(one, validation_paths=one.paths[:1]) for one in (web, code))
    documents = {"isolate_documents": True, "reset_positions": True, "mask_document_ends": True}
    return Mixture(sources=(web, code), **{**documents, **fields})


def opened(mixture, **changes):
    settings = {"sequence_length": 16, "seed": 5, "tokenizer_fingerprint": None, "vocabulary_size": VOCABULARY}
    return open_mixture(mixture, **{**settings, **changes})


def assert_same(one, other):
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert left is not None, field.name
        assert left.dtype == right.dtype
        assert (left == right).all(), field.name
