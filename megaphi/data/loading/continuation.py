"""From a checkpoint's ledger to the position where its run continues, with the mixture as it is now.

Nothing changed: the plan is counted from where it was counted before, so the next sample is the one that would have
followed. The plan was edited (weights, sources, stages, batch size): it is counted from this step on, and every
source continues where it stopped; a new one begins, and a removed one keeps its position in case it returns. The data
changed: refused, unless the user accepts it; a changed source then begins an unseen epoch.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from megaphi.data.order.ledger import Cursor, DataContinuation, DatasetRecord, Ledger, Origin, changed_data
from megaphi.data.order.permutation import ORDER_VERSION
from megaphi.data.order.run_order import RunOrder
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.data.loading.loader import OpenMixture


def continue_run(
    ledger: Ledger, mixture: OpenMixture, *, position: Origin, accept_changed_data: bool, where: str
) -> DataContinuation:
    """Work out how `mixture`, freshly opened, continues at `position` of the run that `ledger` belongs to.

    Raises:
        InputError: a source does not hold what it held, or the seed or the kind of order differ, and that was not
            accepted; or a run in Megatron's order was edited.
    """
    changes = _changes(ledger, mixture)
    if changes and not accept_changed_data:
        listed = "; ".join(f"source {name!r}: {what}" if name else what for name, what in changes.items())
        raise InputError(
            f"the data is not what {where} was trained on: {listed}. Put it back, or set"
            " start.accept_changed_data=true: sources that changed then"
            " begin a new epoch, the others continue where they stopped"
        )
    names = {source.name for source in mixture.sources}
    former = tuple(record for record in ledger.sources if record.name not in names)
    if not changes:
        cursors = {record.name: record.at_origin for record in ledger.sources}
        same = mixture.at(ledger.origin, cursors).order
        is_same_plan = same.position_at(position.step) == position and same.begun(position.sample) == ledger.segments
        if is_same_plan and _stands_where(ledger, same.cursors(position.sample)):
            return DataContinuation(ledger.origin, cursors, former)
    if mixture.order.kind == "megatron":
        raise InputError(
            f"the mixture, its weights or the batch size differ from those of {where}, and Megatron's order can only be"
            " continued unchanged: put them back, or set task.mixture.order=keyed in a run with another folder"
        )
    everything = "" in changes
    cursors = {
        record.name: record.now.restarted() if everything or record.name in changes else record.now
        for record in ledger.sources
    }
    former = tuple(replace(record, at_origin=record.now) for record in former)
    heading = f"the mixture was edited: from step {position.step} on it is read by the new plan"
    return DataContinuation(position, cursors, former, (heading, *_notes(mixture, cursors, changes, origin=position)))


def warm_start(ledger: Ledger, mixture: OpenMixture) -> DataContinuation:
    """A new run whose sources continue where those of an earlier run stopped, as far as they are the same.

    Of another seed or order there is no such place: every source then begins an unseen epoch.

    Raises:
        InputError: the new run reads in Megatron's order, which always begins at its first sample.
    """
    order, now = mixture.order, mixture.datasets()
    if order.kind == "megatron":
        raise InputError(
            "start.continue_sources=true needs task.mixture.order=keyed: Megatron's order cannot begin in the middle"
        )
    changes = _changed_sources(ledger, now)
    if (ledger.order, ledger.order_version, ledger.seed) != (order.kind, ORDER_VERSION, order.seed):
        changes = {record.name: "it was read in another order, or with another seed" for record in ledger.sources}
    cursors = {
        record.name: record.now.restarted() if record.name in changes else record.now for record in ledger.sources
    }
    former = tuple(replace(item, at_origin=item.now) for item in ledger.sources if item.name not in now)
    return DataContinuation(Origin(), cursors, former, tuple(_notes(mixture, cursors, changes, origin=Origin())))


def _stands_where(ledger: Ledger, cursors: Mapping[str, Cursor]) -> bool:
    """Return whether the plan has read of each source what the ledger says: blocks of another size are another plan."""
    return all(cursors[record.name] == record.now for record in ledger.sources if record.name in cursors)


def _changes(ledger: Ledger, mixture: OpenMixture) -> dict[str, str]:
    """Source name -> what is different; under "" what concerns all of them."""
    order = mixture.order
    if (ledger.order, ledger.order_version) != (order.kind, ORDER_VERSION):
        raise InputError(
            f"this run reads its data in the order {ledger.order!r}, version {ledger.order_version}; the configuration"
            f" and this program use {order.kind!r}, version {ORDER_VERSION}"
        )
    changes: dict[str, str] = {}
    if ledger.seed != order.seed:
        changes[""] = f"seed was {ledger.seed} and is {order.seed}"
    return changes | _changed_sources(ledger, mixture.datasets())


def _changed_sources(ledger: Ledger, now: Mapping[str, Sequence[DatasetRecord]]) -> dict[str, str]:
    """Name of each source of both that does not hold what it held -> what is different."""
    found = {
        record.name: changed_data(record.datasets, now[record.name]) for record in ledger.sources if record.name in now
    }
    return {name: what for name, what in found.items() if what is not None}


def _notes(
    mixture: OpenMixture, cursors: Mapping[str, Cursor], changed: Container[str], *, origin: Origin
) -> list[str]:
    """Tell the user how each source continues."""
    notes = []
    order = mixture.at(origin, cursors).order
    assert isinstance(order, RunOrder)  # Megatron's is not continued by another plan
    first = order.first_cursors()
    for source in mixture.describe():
        cursor = cursors.get(source.name)
        if cursor is None:
            notes.append(f"source {source.name} is new: it begins")
        elif source.name in changed or "" in changed:
            notes.append(f"source {source.name} has changed: it begins epoch {cursor.first_epoch}")
        elif (begun := first.get(source.name, cursor)).first_epoch != cursor.first_epoch:
            notes.append(
                f"source {source.name} begins epoch {begun.first_epoch}, {cursor.drawn:,} tokens in: "
                + _why_not_on(cursor, begun)
            )
        else:
            notes.append(
                f"source {source.name} goes on: {cursor.drawn:,} tokens, {cursor.drawn / source.tokens:.2f} epochs"
            )
    return notes


def _why_not_on(before: Cursor, now: Cursor) -> str:
    """The reason why the epoch at `before` cannot be finished by the plan whose first cursor is `now`."""
    if before.cut != now.cut:
        return f"it was read as {before.cut}, now as {now.cut}"
    if now.cut != "stream":
        return f"its windows had another length or number ({before.blocks:,} of {before.block_tokens:,} tokens)"
    return (
        f"its blocks of {before.block_tokens:,} tokens do not divide into the new samples"
        " (the earlier run's task.mixture.block_tokens plans for that)"
    )
