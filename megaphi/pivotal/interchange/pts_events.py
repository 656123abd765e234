"""Events of codelion/pts, as JSON lines: pivotal tokens, sentences ("thought anchors") and latent events.

All three of its schemas are read: the one record per event of version 2, and the earlier pivotal tokens and thought
anchors. What a record holds beyond the fields here is kept in `record`, so writing an event again loses nothing.
Positions: of a pivotal token in the whole sequence, its prompt included; of a sentence, among the sentences; of a
latent event, whatever its own schema says. Latent events have a readout score in place of probabilities.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from megaphi.errors import InputError
from megaphi.files import whole_file
from megaphi.foreign.files import TEXT_BYTES, read_small
from megaphi.json_text import parse_json

SCHEMA_VERSION = "2.0"
EventKind = Literal["pivotal_token", "thought_anchor", "latent_metatoken"]
KINDS: tuple[EventKind, ...] = ("pivotal_token", "thought_anchor", "latent_metatoken")
SCALES = {"pivotal_token": "token", "thought_anchor": "sentence", "latent_metatoken": "latent"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PivotalEvent:
    """One token or sentence, and how much it changed the probability of success."""

    kind: EventKind
    model: str
    query: str
    """The question."""
    context: str
    """Text of the answer, and in some files of the prompt, before the event."""
    label: str
    """The token or the sentence."""
    position: int | None
    token: int | None
    before: float | None
    """P(success) without it."""
    after: float | None
    """P(success) with it."""
    record: Mapping[str, Any]
    """The whole record as it was read or will be written."""

    @property
    def effect(self) -> float | None:
        """`after` - `before`; None for a latent event, of which nothing was measured."""
        return None if self.before is None or self.after is None else self.after - self.before


def read_events(path: str | os.PathLike[str]) -> list[PivotalEvent]:
    """Read a file of events. Raises InputError with file, line and field."""
    try:
        lines = read_small(path, largest=TEXT_BYTES).split(b"\n")
    except FileNotFoundError:
        raise InputError(f"there is no file {os.fspath(path)}") from None
    return [_event(line, f"{os.fspath(path)}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def write_events(events: Iterable[PivotalEvent], path: str | os.PathLike[str]) -> None:
    with whole_file(path) as file:
        for event in events:
            file.write(json.dumps(event.record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def token_event(
    *,
    model: str,
    query: str,
    context: str,
    label: str,
    token: int,
    position: int,
    before: float,
    after: float,
    question: str,
    task: str,
    details: Mapping[str, Any],
) -> PivotalEvent:
    """A pivotal token of ours.

    Args:
        position: of the token in the whole sequence, its prompt included.
        question: name of the question in its file.
        task: "math", "code", "qa" or "generic", as that schema calls them.
        details: goes into the record's `metadata`: what its schema has no field for.
    """
    record = {
        "event_id": f"token_evt_{_digest(model, query, context, label)}",
        "event_type": "pivotal_token",
        "model_id": model,
        "task_type": task,
        "query": query,
        "context": context,
        "label": label,
        "search_method": "token_pts",
        "dataset_item_id": question,
        "position": position,
        "token_id": token,
        "intervention_type": "append_token",
        "metadata": {"pivot_context": context, "pivot_token": label, **details},
    }
    return _of_version_2(_with_effect(record, before, after), "a pivotal token")


def sentence_event(
    *,
    query: str,
    context: str,
    label: str,
    position: int,
    before: float,
    after: float,
    question: str,
    details: Mapping[str, Any],
) -> PivotalEvent:
    """A sentence whose effect was measured by resampling, by a model that nobody named.

    Args:
        position: of the sentence among the sentences.
    """
    record = {
        "event_id": f"sentence_evt_{_digest('unknown', query, str(position), label)}",
        "event_type": "thought_anchor",
        "model_id": "unknown",
        "task_type": "generic",
        "query": query,
        "context": context,
        "label": label,
        "search_method": "sentence_pts",
        "dataset_item_id": question,
        "position": position,
        "intervention_type": "replace_sentence",
        "metadata": {"sentence": label, "sentence_id": position, "prefix_context": context, **details},
    }
    return _of_version_2(_with_effect(record, before, after), "a sentence")


def _digest(*parts: str) -> str:
    """The identifying part of that schema's event ids: from the same parts the same id."""
    content = "\x1f".join(parts).encode("utf-8", "replace")
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()[:12]


def _with_effect(record: dict[str, Any], before: float, after: float) -> dict[str, Any]:
    """The record with the fields that all measured events have."""
    return {
        **record,
        "schema_version": SCHEMA_VERSION,
        "granularity": SCALES[record["event_type"]],
        "visibility": "emitted",
        "score": abs(after - before),
        "prob_before": before,
        "prob_after": after,
        "prob_delta": after - before,
        "is_positive": after > before,
        "tags": [record["search_method"], "positive" if after > before else "negative"],
    }


def _event(line: bytes, where: str) -> PivotalEvent:
    try:
        record = parse_json(line)
    except InputError as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: not an object with fields")
    if "event_type" in record:
        return _of_version_2(record, where)
    if "pivot_token" in record:
        names = ("pivot_context", "pivot_token", "pivot_token_id", None, "prob_before", "prob_after")
        return _made(record, where, "pivotal_token", names)
    if "sentence" in record:
        names = ("prefix_context", "sentence", None, "sentence_id", "prob_without_sentence", "prob_with_sentence")
        return _made(record, where, "thought_anchor", names)
    raise InputError(f"{where}: no event_type, pivot_token or sentence: not an event of codelion/pts")


def _of_version_2(record: dict[str, Any], where: str) -> PivotalEvent:
    kind = record["event_type"]
    if kind not in KINDS:
        raise InputError(f"{where}: event_type {kind!r}: expected one of {', '.join(KINDS)}")
    scale = record.get("granularity")
    if scale not in (None, SCALES[kind]):
        raise InputError(f"{where}: granularity {scale!r} of an event of type {kind}: expected {SCALES[kind]!r}")
    return _made(record, where, kind, ("context", "label", "token_id", "position", "prob_before", "prob_after"))


def _made(record: dict[str, Any], where: str, kind: EventKind, names: tuple[str | None, ...]) -> PivotalEvent:
    """Args: names: fields of context, label, token, position, before, after."""
    context, label, token, position, before, after = names
    event = PivotalEvent(
        kind=kind,
        model=_field(record, "model_id", str, where) or "unknown",
        query=_field(record, "query", str, where) or "",
        context=_field(record, context, str, where) or "",
        label=_field(record, label, str, where, needed=True),
        position=_field(record, position, int, where),
        token=_field(record, token, int, where),
        before=_probability(record, before, where),
        after=_probability(record, after, where),
        record=record,
    )
    if kind != "latent_metatoken" and event.effect is None:
        raise InputError(f"{where}: {before if event.before is None else after} is missing: an effect needs both")
    return event


def _field(record: dict[str, Any], name: str | None, kind: type, where: str, *, needed: bool = False) -> Any:
    value = None if name is None else record.get(name)
    if value is None and not needed:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = {str: "a text", int: "a whole number", float: "a number"}[kind]
        raise InputError(f"{where}: {name}={value!r}: expected {expected}")
    return value


def _probability(record: dict[str, Any], name: str | None, where: str) -> float | None:
    value = None if name is None else record.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise InputError(f"{where}: {name}={value!r}: expected a probability")
    return float(value)
