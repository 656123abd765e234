"""A lineage in one line, for tables: recipe, input, what was taken out and why, and what was not done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMED = 4
"""Licences and kinds that are named, the most frequent first."""


def describe_lineage(record: Mapping[str, Any]) -> str:
    """A record in one line; fields that it lacks are left out."""
    given = record.get("input") or {}
    parts = [
        f"{record.get('recipe')} {str(record.get('fingerprint'))[:8]}: {record.get('documents') or 0:,} documents of"
        f" {given.get('portions') or 0:,} portions, {given.get('bytes') or 0:,} bytes",
        _part_of(record),
        _named("from", [_name_of(parent) for parent in record.get("derived_from") or ()]),
        _counted("kinds", record.get("synthetic") or {}),
        _counted("licences", record.get("licences") or {}),
        "without " + (", ".join(record.get("duplicates_removed") or ()) or "a step for duplicates"),
        _named("held to", [str(each.get("name")) for each in record.get("decontaminated") or ()]) or "no benchmarks",
    ]
    return "; ".join(part for part in parts if part)


def _name_of(record: Mapping[str, Any]) -> str:
    return f"{record.get('recipe')} {str(record.get('fingerprint'))[:8]}"


def _part_of(record: Mapping[str, Any]) -> str:
    """The share of the folder that was read, unless it is all of it."""
    files = record.get("files")
    if not isinstance(files, dict) or files.get("read") == files.get("of"):
        return ""
    return f"{files.get('read')} of its {files.get('of')} files"


def _named(word: str, names: list[str]) -> str:
    return f"{word} {', '.join(dict.fromkeys(names))}" if names else ""


def _counted(word: str, counts: Mapping[str, int]) -> str:
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(largest) - NAMED:,} more" if len(largest) > NAMED else ""
    named = ", ".join(f"{name} {count:,}" for name, count in largest[:NAMED])
    return f"{word}: {named}{more}" if largest else ""
