"""Token datasets as large as Phi-4's that take little room: real indices beside sparse files of tokens.

A corpus is Phi-4's five sources at a fraction of their size: 20 million documents each at fraction 1, with the unique
tokens of the paper and the samples of its 424,000 steps, so that every fraction is read as many times as the whole. The
.idx is written for real, with lengths of documents drawn from a log-normal distribution and scaled to the exact total;
the .bin is one hole of the right size (5.2 TB for the web), which reads as token 0. The surprising fact: documents are
then 15,000 to 65,000 tokens long, ten times those of the real web, which spares whoever must walk over documents.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megaphi.data.storage.formats.indexed_dataset import CODE_OF_DTYPE, HEADER, MAGIC, VERSION
from megaphi.files import whole_file
from megaphi.recipes.phi4_14b import phi4_14b_pretrain
from megaphi.stages.pretrain import mixture_of

DOCUMENTS = 20_000_000
"""Documents of every source, at fraction 1."""
CHUNK = 1 << 20
"""Documents that are drawn and written at a time."""
SPREAD = 1.0
"""Standard deviation of the logarithm of a document's length."""
DTYPE = np.dtype("<i4")
TOKENIZER = "of the benchmark"
"""The tokenizer that PREFIX.json names, so that opening trusts it and does not scan the tokens."""


@dataclass(frozen=True)
class Corpus:
    """Sources on disk, and the run that reads them."""

    fraction: float
    names: tuple[str, ...]
    weights: tuple[float, ...]
    paths: tuple[tuple[str, ...], ...]
    """Prefixes of the pairs of each source."""
    tokens: int
    """Unique tokens of all sources."""
    documents: int
    total_samples: int
    sequence_length: int
    global_batch: int
    vocabulary_size: int

    @property
    def files(self) -> list[Path]:
        """Every .idx and .bin."""
        return [Path(path + ending) for paths in self.paths for path in paths for ending in (".idx", ".bin")]


def make_corpus(folder: Path, *, fraction: float) -> Corpus:
    """The corpus of this size in `folder`; pairs that are there already are used again."""
    run = phi4_14b_pretrain()
    documents = max(1, round(DOCUMENTS * fraction))
    sizes = [round((source.unique_tokens or 0) * fraction) for source in mixture_of(run).sources]
    pieces = _pieces(folder, largest=max(sizes) * DTYPE.itemsize)
    paths = []
    for seed, (source, tokens) in enumerate(zip(mixture_of(run).sources, sizes, strict=True)):
        own = [folder / f"{source.name}_{fraction:g}_{piece}_of_{pieces}" for piece in range(pieces)]
        for piece, path in enumerate(own):
            write_pair(path, documents=documents // pieces, tokens=tokens // pieces, seed=100 * seed + piece)
        paths.append(tuple(map(str, own)))
    return Corpus(
        fraction=fraction,
        names=tuple(source.name for source in mixture_of(run).sources),
        weights=tuple(source.weight for source in mixture_of(run).sources),
        paths=tuple(paths),
        tokens=sum(tokens // pieces * pieces for tokens in sizes),
        documents=documents // pieces * pieces * len(sizes),
        total_samples=round(run.training.steps * run.batch.global_batch * fraction),
        sequence_length=run.batch.sequence_length,
        global_batch=run.batch.global_batch,
        vocabulary_size=run.model.vocabulary,
    )


def _pieces(folder: Path, *, largest: int) -> int:
    """Into how many pairs a source must be cut so that the file system takes its files: 1 where a file may be large."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / "probe"
    for pieces in (1, 4, 16, 64, 256, 1024):
        try:
            with open(probe, "wb") as file:
                file.truncate(largest // pieces)
        except OSError as error:
            if error.errno not in (errno.EFBIG, errno.EINVAL):
                raise
        else:
            return pieces
        finally:
            probe.unlink(missing_ok=True)
    raise SystemExit(f"the file system of {folder} takes no file of {largest // 1024:,} bytes: choose another --folder")


def write_pair(prefix: Path, *, documents: int, tokens: int, seed: int) -> None:
    """PREFIX.bin, .json and .idx of so many documents and tokens; nothing if they are there already."""
    index = Path(f"{prefix}.idx")
    if index.exists():
        return
    with open(f"{prefix}.bin", "wb") as file:
        file.truncate(tokens * DTYPE.itemsize)
    Path(f"{prefix}.json").write_text(json.dumps({"tokenizer": TOKENIZER}))
    generator = np.random.default_rng(seed)
    with whole_file(index) as file:
        file.write(HEADER.pack(MAGIC, VERSION, CODE_OF_DTYPE[DTYPE], documents, documents + 1))
        written = 0  # tokens
        for first in range(0, documents, CHUNK):
            end = min(first + CHUNK, documents)
            lengths = document_lengths(end - first, tokens=tokens * end // documents - written, generator=generator)
            ends = (written + np.cumsum(lengths, dtype=np.int64)) * DTYPE.itemsize
            file.seek(HEADER.size + 4 * first)
            file.write(lengths.astype("<i4").data)
            file.seek(HEADER.size + 4 * documents + 8 * first)
            file.write((ends - lengths * DTYPE.itemsize).astype("<i8").data)
            file.seek(HEADER.size + 12 * documents + 8 * first)
            file.write(np.arange(first, end, dtype="<i8").data)
            written += int(lengths.sum())
        file.write(np.array([documents], dtype="<i8").data)


def document_lengths(documents: int, *, tokens: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Log-normal lengths of at least one token that sum to `tokens` exactly."""
    drawn = np.exp(SPREAD * generator.standard_normal(documents))
    lengths = 1 + np.floor(drawn * ((tokens - documents) / drawn.sum())).astype(np.int64)
    lengths[np.argmax(lengths)] += tokens - int(lengths.sum())
    return lengths
