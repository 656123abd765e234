"""Token files: Megatron's .idx and .bin, .npy and files without a header, opened and read by the C++ reader.

The index and the tokens of a pair are damaged one at a time, beside an intact other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.fuzz.target import Target

NAMES = ("web_1.idx", "web_1.bin", "web_1.json", "web_1.u2.npy", "web_1.llmc.bin")


@cache
def intact() -> dict[str, bytes]:
    """The files of a corpus of sixty short documents, by name."""
    from tests.data.token_forms import write_corpus

    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder))
        return {name: (Path(folder) / name).read_bytes() for name in NAMES}


def read_pair(name: str, content: bytes) -> None:
    """Every document and every sample of a pair of which one file is damaged."""
    import numpy as np

    from megaphi.data.storage.formats.indexed_dataset import IndexedDataset

    for each in NAMES[:3]:
        Path(each).write_bytes(content if each == name else intact()[each])
    with IndexedDataset("web_1") as dataset:
        dataset.documents(np.arange(len(dataset)))
    read_samples("web_1")


def read_alone(name: str, content: bytes) -> None:
    """Every sample of a file without an index."""
    Path(name).write_bytes(content)
    read_samples(name, document_end=1, **({} if name.endswith(".npy") else {"dtype": "uint16"}))


def read_samples(path: str, **said: object) -> None:
    """The samples of an epoch, as training reads them, documents apart."""
    import numpy as np

    from megaphi.data.order.mixture import Mixture, Source
    from tests.data.token_forms import opened

    source = Source(name="web", weight=1, paths=(path,), **said)  # type: ignore[arg-type]
    mixture = Mixture(sources=(source,), isolate_documents=True, reset_positions=True, mask_document_ends=True)
    data = opened(mixture)
    data.batch(np.arange(64))


def pair(name: str) -> Target:
    def seeds() -> Sequence[bytes]:
        return [intact()[name]]

    def run(content: bytes) -> None:
        read_pair(name, content)

    kind = name.rpartition(".")[2]
    return Target(name=f"token files {kind}", run=run, seeds=seeds, tokens=(b"MMIDIDX\0\0",), short_inputs=100)


def alone(name: str) -> Target:
    def seeds() -> Sequence[bytes]:
        return [intact()[name]]

    def run(content: bytes) -> None:
        read_alone(name, content)

    kind = name.rpartition(".")[2] if name.endswith("npy") else "headerless"
    tokens = (b"\x93NUMPY", b"'shape': (", b"'descr': '|O'", b"(" * 300)
    return Target(name=f"token files {kind}", run=run, seeds=seeds, tokens=tokens, short_inputs=100)


TARGETS = (*map(pair, NAMES[:3]), *map(alone, NAMES[3:]))
