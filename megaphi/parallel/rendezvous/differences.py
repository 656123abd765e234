"""Differences between the ranks of a job, by field, rank and host.

A fact is a field and its value as text. Ranks with one value are named together: `ranks 8-15 (node8)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Facts = Mapping[str, str]
"""Field -> value, which must be the same on all ranks."""
ABSENT = "nothing"
LONGEST_VALUE = 160
MOST_FIELDS = 12


def differences(facts: Mapping[int, Facts], hosts: Mapping[int, str]) -> str | None:
    """One line per field that is not the same on all ranks; None if there is none."""
    fields = list(dict.fromkeys(field for one in facts.values() for field in one))
    first = facts[min(facts)]
    differing = [
        field for field in fields if any(one.get(field, ABSENT) != first.get(field, ABSENT) for one in facts.values())
    ]
    lines = [f"  {field}: {_values(field, facts, hosts)}" for field in differing[:MOST_FIELDS]]
    if len(differing) > MOST_FIELDS:
        lines.append(f"  and {len(differing) - MOST_FIELDS} more")
    return "\n".join(lines) or None


def _values(field: str, facts: Mapping[int, Facts], hosts: Mapping[int, str]) -> str:
    ranks: dict[str, list[int]] = {}
    for rank in sorted(facts):
        ranks.setdefault(facts[rank].get(field, ABSENT), []).append(rank)
    return ", ".join(f"{_shortened(value)} on {named(who, hosts)}" for value, who in ranks.items())


def _shortened(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else f"{value[: LONGEST_VALUE // 2]} … {value[-LONGEST_VALUE // 2 :]}"


def named(ranks: Iterable[int], hosts: Mapping[int, str]) -> str:
    """`rank 3 (node0)`, `ranks 0-7, 9 (node0, node1)`; without a host where it is not known."""
    numbers = sorted(ranks)
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    names = list(dict.fromkeys(hosts[number] for number in numbers if number in hosts))
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    text = ("rank " if len(numbers) == 1 else "ranks ") + ", ".join("-".join(map(str, span)) for span in spans)
    return f"{text} ({shown})" if shown else text
