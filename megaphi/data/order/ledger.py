"""The data ledger: what a run has read of every source, as every checkpoint records it, and what has changed since.

A source is cut into blocks; an epoch is one pass over its blocks in a shuffled order. A `Cursor` tells how far that
pass has come, so a run continues at the next token whatever its stage, weights or batch size are from then on. The
ledger also records the files of each source: a source whose files have changed cannot be continued, and the message
names the file that differs. Paths are not compared: data may move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from megaphi.config import Range, from_plain, to_plain
from megaphi.errors import InputError

LEDGER_VERSION = 1
Count = Annotated[int, Range(minimum=0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Read position within one source."""

    block_tokens: Count
    """Tokens of a block, the unit that is shuffled; 0 before the source is cut (again)."""
    blocks: Count
    """Blocks of an epoch."""
    first_epoch: Count
    """Number of the epoch in which the present pass over the blocks began."""
    tokens: Count
    """Consumed since then, whole samples."""
    drawn: Count
    """Tokens that training took from the source since the run began."""
    cut: str = "stream"
    """The rule by which samples are cut from the source: as one stream, or from which documents."""

    @property
    def next_epoch(self) -> int:
        """The first epoch that is entirely unread."""
        tokens_per_epoch = self.block_tokens * self.blocks
        return self.first_epoch + (-(-self.tokens // tokens_per_epoch) if tokens_per_epoch else 0)

    def fits(self, *, sequence_length: int, token_count: int, cut: str = "stream") -> bool:
        """Return whether samples of this length can be cut from the rest of the current blocks."""
        block = self.block_tokens
        if cut != self.cut or (cut != "stream" and block != sequence_length):
            return False
        return block > 0 and block % sequence_length == 0 and self.blocks == token_count // block

    def restarted(self) -> Cursor:
        """The cursor before the first block of an unseen epoch."""
        return replace(self, block_tokens=0, blocks=0, first_epoch=self.next_epoch, tokens=0)


UNREAD = Cursor(block_tokens=0, blocks=0, first_epoch=0, tokens=0, drawn=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRecord:
    """One dataset of a source."""

    name: str
    """Its path, to name it in messages."""
    tokens: Count
    documents: Count | None
    """None where its format does not say."""
    fingerprint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecord:
    """A source, what it consists of, and how far it has been read."""

    name: str
    datasets: tuple[DatasetRecord, ...]
    at_origin: Cursor
    """Position of the source when the current plan began."""
    now: Cursor


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentRecord:
    """Everything that determines the samples of a stage and their order."""

    first_sample: Count
    sequence_length: Annotated[int, Range(minimum=1)]
    sources: tuple[str, ...]
    shares: tuple[str, ...]
    """Exact fractions."""
    horizon: Count | None
    """Length that the blend was made for, where its placements depend on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The point of the run from which its samples are counted by the present plan."""

    step: Count = 0
    sample: Count = 0
    tokens: Count = 0


@dataclass(frozen=True)
class DataContinuation:
    """The point a run continues from: first sample, position of each source, and notes for the user."""

    origin: Origin
    cursors: Mapping[str, Cursor] = field(default_factory=dict)
    former: tuple[SourceRecord, ...] = ()
    """Sources that are no longer in the mixture."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """The state of a run's data: complete together with the number of its next sample."""

    order: str
    """keyed or megatron."""
    order_version: int
    seed: int
    origin: Origin
    segments: tuple[SegmentRecord, ...]
    """Stages begun since the origin."""
    sources: tuple[SourceRecord, ...]
    """Sources of the mixture, then those that were in it once."""
    version: int = LEDGER_VERSION

    def to_json(self) -> dict[str, Any]:
        """As it is written into a checkpoint's state."""
        return to_plain(self)


def read_ledger(state: Mapping[str, Any], *, where: str) -> Ledger:
    """The ledger in a checkpoint's state; `where` names the checkpoint in errors."""
    found = state.get("ledger")
    if found is None:
        raise InputError(
            f"{where} has no data ledger (an older version of megaphi wrote it), so its position in the data is not"
            f" known. Start a run in another folder with start.initial_checkpoint={where} to train its weights on"
        )
    if not isinstance(found, dict) or found.get("version") != LEDGER_VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        raise InputError(f"{where} has a data ledger of version {version}; this program reads version {LEDGER_VERSION}")
    return from_plain(Ledger, found, where=f"{where}: ledger")


def changed_data(before: Sequence[DatasetRecord], now: Sequence[DatasetRecord]) -> str | None:
    """Describe the differences between a source's datasets; None if they are the same in the same order."""
    old, new = [dataset.fingerprint for dataset in before], [dataset.fingerprint for dataset in now]
    if old == new:
        return None
    if sorted(old) == sorted(new):
        return "its datasets are in another order: " + ", ".join(dataset.name for dataset in now)
    by_name = {dataset.name: dataset for dataset in before}
    changes = [_change(by_name.get(dataset.name), dataset) for dataset in now if dataset.fingerprint not in old]
    names = {dataset.name for dataset in now}
    gone = [item for item in before if item.fingerprint not in new and item.name not in names]
    changes += [f"{dataset.name} is missing ({dataset.tokens:,} tokens)" for dataset in gone]
    return "; ".join(changes) or "a dataset occurs another number of times"


def _change(before: DatasetRecord | None, now: DatasetRecord) -> str:
    if before is None:
        return f"{now.name} is new ({now.tokens:,} tokens)"
    if before.tokens != now.tokens:
        return f"{now.name} had {before.tokens:,} tokens and has {now.tokens:,}"
    return f"{now.name} has other contents (fingerprint {before.fingerprint[:12]}, now {now.fingerprint[:12]})"
