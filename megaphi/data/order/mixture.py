"""The training data: sources with weights, and stages that may change shares and lengths along the way.

Plain configuration, and the checks of names, weights and sizes that need no file. How a mixture becomes an order of
samples is in `mixture_order.py`, where its stages begin and end in `stages.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from megaphi.config import FilePath, Range, check_values
from megaphi.data.storage.files.remote import RemoteReading
from megaphi.errors import InputError

Split = Literal["training", "validation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One kind of text in the mixture."""

    name: str
    """Names the source in reports and in its shuffle key: another name is another order."""
    weight: Annotated[float, Range(above=0)]
    """Share of the training samples, in any unit: weights are divided by their sum."""
    paths: tuple[FilePath, ...]
    """Prefixes of .bin/.idx pairs, .npy files, .bin files without index or my_file.py:MyClass, read in this order."""
    validation_paths: tuple[FilePath, ...] = ()
    """The same, held out for validation; a source without any takes no part in it."""
    dtype: Literal["uint16", "uint32"] | None = None
    """Type of the tokens in files that have no index and no header."""
    document_end: Annotated[int, Range(minimum=0)] | None = None
    """The token id that ends every document, in formats that do not list documents (all but .bin/.idx)."""
    windows: Literal["stream", "documents"] = "stream"
    """stream: samples are cut from all tokens in a row. documents: each is of one document, from its start on."""
    shortest_document: Annotated[int, Range(minimum=0)] = 0
    """With windows=documents: documents of fewer tokens, their end included, are left out."""
    longest_document: Annotated[int, Range(minimum=2)] | None = None
    """With windows=documents: documents of more tokens are left out."""
    unique_tokens: Annotated[int, Range(minimum=1)] | None = None
    """Tokens that the source is expected to hold; a dry run counts epochs with it where the files are not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Share of a stage that comes from one source."""

    name: str
    """A source of the mixture."""
    weight: Annotated[float, Range(above=0)]
    """Share of the stage's samples, in any unit: weights are divided by their sum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stretch of the run with shares, and perhaps a sequence length, of its own."""

    name: str
    """Names the stage in reports."""
    tokens: Annotated[int, Range(minimum=1)] | None = None
    """Length, rounded up to whole steps; none lasts to the end of the run (the last stage only)."""
    shares: tuple[Share, ...] = ()
    """Sources and their shares; empty takes all with the weights of task.mixture.sources."""
    sequence_length: Annotated[int, Range(minimum=1, below=2**32)] | None = None
    """Tokens per sample in this stage; none takes batch.sequence_length."""
    global_batch: Annotated[int, Range(minimum=1)] | None = None
    """Sequences per step in this stage; none takes batch.global_batch."""
    micro_batch: Annotated[int, Range(minimum=1)] | None = None
    """Sequences per forward pass in this stage; none takes batch.micro_batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """The sources and stages that the model is trained on."""

    sources: tuple[Source, ...]
    stages: tuple[Stage, ...] = ()
    """One after the other; empty is one stage with the sources' weights. Every source continues where it stopped."""
    order: Literal["keyed", "megatron"] = "keyed"
    """keyed: nothing is built. megatron: the order of Megatron-LM's builders, to continue a run started there."""
    block_tokens: Annotated[int, Range(minimum=1)] | None = None
    """Sources are shuffled in blocks of a multiple of these: a later run with samples as long goes on in the epoch."""
    document_split: str | None = None
    """With order=megatron: Megatron-LM's --split (such as 969,30,1), if its splits shared their datasets."""
    isolate_documents: bool = False
    """Attend within documents only."""
    reset_positions: bool = False
    """Count positions from 0 in every document."""
    mask_document_ends: bool = False
    """Mask the target that follows the last token of a document: it begins an unrelated one."""
    remote: RemoteReading = field(default_factory=RemoteReading)
    """Reading from object storage, for sources whose paths are URLs."""


def check_sources(sources: Sequence[Source]) -> None:
    """Refuse an invalid mixture: no source, a weight that is not positive, a name used twice."""
    check_names([source.name for source in sources])
    for source in sources:
        check_values(source, where=f"task.mixture.sources.{source.name}")
        _check_windows(source)


def _check_windows(source: Source) -> None:
    shortest, longest = source.shortest_document, source.longest_document
    where = f"task.mixture.sources.{source.name}"
    if source.windows == "stream" and (shortest or longest is not None):
        field = "shortest_document" if shortest else "longest_document"
        raise InputError(f"{where}.{field} needs {where}.windows=documents: a stream is cut wherever samples end")
    if longest is not None and longest < shortest:
        raise InputError(f"{where}: longest_document={longest} is below shortest_document={shortest}")


def check_names(names: Sequence[str]) -> None:
    """Refuse sources that cannot be told apart: none, one without a name, two of one name."""
    if not names:
        raise InputError("the mixture has no sources: give task.mixture.sources at least one")
    if "" in names:
        raise InputError(f"source {names.index('')} of the mixture (counted from 0) has no name: names key the shuffle")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two sources of the mixture are named {twice!r}: names must differ, they key the shuffle")


def check_sizes(
    names: Sequence[str],
    *,
    token_counts: Sequence[int],
    sequence_length: int,
    block_tokens: Sequence[int],
    seed: int,
) -> None:
    """Refuse a source that does not hold one whole block and its last label, and numbers that are out of range."""
    if not 1 <= sequence_length < 1 << 32:
        raise InputError(f"sequence length {sequence_length} is not a positive number of tokens below 2^32")
    if not 0 <= seed < 1 << 64:
        raise InputError(f"seed={seed} is outside 0 .. 2^64 - 1")
    for name, tokens, block in zip(names, token_counts, block_tokens, strict=True):
        if block % sequence_length or not 1 <= block < 1 << 32:
            raise InputError(
                f"source {name!r} is shuffled in blocks of {block:,} tokens, which must be a multiple of the sequence"
                f" length {sequence_length:,}, below 2^32"
            )
        if tokens < block + 1:
            what = f"sample of sequence length {block:,}" if block == sequence_length else f"block of {block:,} tokens"
            raise InputError(
                f"source {name!r} has {tokens:,} tokens, but one {what} needs {block + 1:,}: add data to it, shorten"
                " the sequence, or take it out of the mixture"
            )
        if tokens > 1 << 62:
            raise InputError(f"source {name!r} has {tokens:,} tokens: 2^62 is the most")
