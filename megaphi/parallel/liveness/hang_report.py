"""The operation at which the ranks of a job part, from the dumps of their flight recorders.

The ranks of a process group start the same collectives in the same order, so the first number at which their records
differ is where the job hangs: one rank has not come to it, or has started another operation, or with other sizes. Of
several such groups the one that has waited longest is named first: the others usually wait for its ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megaphi.parallel.liveness.dumps import Dump, Operation
from megaphi.parallel.rendezvous.differences import named

OF_UNEQUAL_SIZES = ("all_to_all", "alltoall", "alltoall_base", "scatter", "gather", "allgather_into_tensor_coalesced")
"""Collectives in which ranks may give different sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parting:
    """The first operation of a process group at which its ranks part."""

    group: str
    purpose: str
    number: int
    kind: str
    """`missing`, `operation` or `size`."""
    there: Mapping[int, Operation]
    """By rank, of those that have started it."""
    missing: Sequence[int]
    """Ranks of the group with a dump that have not."""
    last: Mapping[int, Operation]
    """The last operation of each missing rank in this group."""
    undumped: Sequence[int]
    """Ranks of the group without a dump."""

    @property
    def since_ns(self) -> int:
        """Time at which the first rank began to wait."""
        return min(operation.started_ns for operation in self.there.values())


def partings(dumps: Sequence[Dump]) -> list[Parting]:
    """One for each process group whose ranks differ, the one that has waited longest first."""
    purposes = {group: purpose for dump in dumps for group, purpose in dump.purposes.items()}
    found = [_parting(group, purpose, dumps) for group, purpose in purposes.items()]
    return sorted((one for one in found if one is not None), key=lambda one: one.since_ns)


def _parting(group: str, purpose: str, dumps: Sequence[Dump]) -> Parting | None:
    records = {dump.rank: {one.number: one for one in dump.operations.get(group, ())} for dump in dumps}
    told = {rank for dump in dumps for rank in dump.members.get(group, ())}
    ranks = sorted(rank for rank in records if rank in told or records[rank])
    undumped = sorted(told - set(records))
    started = [rank for rank in ranks if records[rank]]
    if not started:
        return None
    first = max(min(records[rank]) for rank in started)  # older ones have left some rank's recorder
    for number in sorted({number for rank in started for number in records[rank] if number >= first}):
        there = {rank: records[rank][number] for rank in started if number in records[rank]}
        missing = [rank for rank in ranks if rank not in there]
        if kind := _difference(there, missing):
            last = {rank: records[rank][max(records[rank])] for rank in missing if records[rank]}
            return Parting(
                group=group,
                purpose=purpose,
                number=number,
                kind=kind,
                there=there,
                missing=missing,
                last=last,
                undumped=undumped,
            )
    return _waiting_for_undumped(group, purpose, records, undumped)


def _difference(there: Mapping[int, Operation], missing: Sequence[int]) -> str:
    names = {operation.name for operation in there.values()}
    if len(names) > 1:
        return "operation"
    if not names & set(OF_UNEQUAL_SIZES) and len({operation.sizes for operation in there.values()}) > 1:
        return "size"
    return "missing" if missing and there else ""


def _waiting_for_undumped(
    group: str, purpose: str, records: Mapping[int, Mapping[int, Operation]], undumped: Sequence[int]
) -> Parting | None:
    """All ranks with a dump agree, but some have none, and the last operation was not completed."""
    last = {rank: found[max(found)] for rank, found in records.items() if found}
    if not undumped or all(operation.state == "completed" for operation in last.values()):
        return None
    number = max(operation.number for operation in last.values())
    return Parting(
        group=group, purpose=purpose, number=number, kind="missing", there=last, missing=(), last={}, undumped=undumped
    )


def missing_dumps(dumps: Sequence[Dump]) -> list[int]:
    """Ranks up to the highest one known that have no dump."""
    known = {dump.rank for dump in dumps}
    told = {rank for dump in dumps for ranks in dump.members.values() for rank in ranks}
    return sorted(set(range(max(known | told) + 1)) - known)


def describe(parting: Parting) -> list[str]:
    """The lines of a report about one process group."""
    first = next(iter(parting.there.values()))
    where = f"group {parting.group} ({parting.purpose}), number {parting.number:,}"
    waiting = sorted(parting.there)
    if parting.kind != "missing":
        what = "different operations" if parting.kind == "operation" else f"{first.name} of different sizes"
        return [f"{where}: the ranks have started {what}", *_by_operation(parting.there)]
    lines = [f"{where}, {first.name}{f' of {first.shape}' if first.shape else ''}: {named(waiting, {})} waits"]
    if len(waiting) > 1:
        lines[0] = lines[0].removesuffix("waits") + "wait"
    lines += _by_operation(parting.there)
    for rank in parting.missing:
        last = parting.last.get(rank)
        before = (
            f"its last here is {last.name} {last.number:,}, at {last.place}" if last else "it has started none here"
        )
        lines.append(f"  rank {rank} has not entered it: {before}")
    if parting.undumped:
        lines.append(f"  {named(parting.undumped, {})} left no dump")
    return lines


def _by_operation(there: Mapping[int, Operation]) -> list[str]:
    """Lines of ranks that have started the same operation at the same place."""
    groups: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for rank, one in there.items():
        groups[one.name, one.shape, one.state, one.place].append(rank)
    return [
        f"  {named(ranks, {})}: {name}{f' of {shape}' if shape else ''}, {state}, at {place or '(no stack)'}"
        for (name, shape, state, place), ranks in groups.items()
    ]
