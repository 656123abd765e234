"""Labelled texts for a classifier, from JSON lines or Parquet, and the split of them.

A record has a text and either a label or a score (by people or by `LabelPages`). The split goes by a hash of the text:
a text is always on the same side, whatever else is added to the files, and copies of it cannot stand on two sides. Or
whole sources are the test part: texts of a source resemble each other, and unseen ones show what was learned. The same
text twice with one label counts once; with two labels it says nothing, and is left out and counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megaphi.curation.filter.record_fields import value_at
from megaphi.curation.filter.words import tokens_of
from megaphi.data.text.bad_records import BadRecords
from megaphi.data.text.documents import read_records
from megaphi.errors import InputError, did_you_mean

HIGH, LOW = "high", "low"
"""The labels that scores become."""
LINE_BREAK = "⏎"
_ZEROS = str.maketrans("123456789", "000000000")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text with the label that a classifier is to find."""

    text: str
    label: str
    source: str
    place: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledTexts:
    """All texts of the files, in three parts."""

    train: list[Labelled] = field(default_factory=list)
    calibration: list[Labelled] = field(default_factory=list)
    test: list[Labelled] = field(default_factory=list)
    copies: int = 0
    contradictions: int = 0
    """Texts that came with two labels."""

    @property
    def labels(self) -> list[str]:
        return sorted({item.label for part in (self.train, self.calibration, self.test) for item in part})


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordKeys:
    """Names of a record's fields; `metadata.topic` is the field `topic` of the object `metadata`."""

    text: str = "text"
    label: str = "label"
    score: str = "score"
    source: str = "source"


def read_labelled(
    paths: Sequence[str],
    *,
    keys: RecordKeys,
    minimum_score: float,
    shares: tuple[float, float],
    seed: int,
    test_sources: Collection[str] = (),
) -> LabelledTexts:
    """Read and split the labelled texts of all files.

    Args:
        minimum_score: a score from here on is the label `high`.
        shares: of the texts, for calibration and test.
        test_sources: sources that are the test part, whole and alone, if there are any.

    Raises:
        InputError: a record has no text, or neither label nor score; all such records are named. A test source has no
            text.
    """
    bad = BadRecords("error")
    labels: dict[str, dict[str, Labelled]] = {}
    copies = 0
    for path in paths:
        for place, record in read_records(Path(path), refuse=bad.add):
            item = _labelled(record, keys, minimum_score, place, bad)
            if item is not None:
                known = labels.setdefault(_digest(item.text, seed), {})
                copies += item.label in known
                known.setdefault(item.label, item)
    bad.raise_if_refused()
    _check_sources(test_sources, {item.source for known in labels.values() for item in known.values()})
    parts: tuple[list[Labelled], list[Labelled], list[Labelled]] = ([], [], [])
    for digest, known in sorted(labels.items()):
        if len(known) == 1:
            (item,) = known.values()
            drawn = int(digest[:12], 16) / 16**12
            is_test = item.source in test_sources if test_sources else shares[0] <= drawn < sum(shares)
            parts[2 if is_test else 1 if drawn < shares[0] else 0].append(item)
    contradictions = sum(len(known) > 1 for known in labels.values())
    train, calibration, test = parts
    return LabelledTexts(train=train, calibration=calibration, test=test, copies=copies, contradictions=contradictions)


def _check_sources(test_sources: Collection[str], known: set[str]) -> None:
    for source in test_sources:
        if source not in known:
            raise InputError(f"test_sources: no text is of the source {source!r}.{did_you_mean(source, sorted(known))}")


def check_parts(texts: LabelledTexts) -> None:
    """Raises InputError where a part lacks a label, so that nothing could be learned or measured."""
    if len(texts.labels) < 2:
        raise InputError(f"all texts have the label {', '.join(texts.labels) or '(there are none)'}: give two at least")
    for name in ("train", "calibration", "test"):
        counts = Counter(item.label for item in getattr(texts, name))
        missing = [label for label in texts.labels if not counts[label]]
        if missing:
            raise InputError(f"no text with the label {missing[0]!r} is in the part for {name}: give more of them")


def features_of(text: str, *, longest: int) -> str:
    """The line that fastText sees: lower-case words and signs, all digits 0, line breaks as a sign."""
    return " ".join(tokens_of(text[:longest].replace("\n", LINE_BREAK).lower().translate(_ZEROS)))


def _labelled(
    record: Mapping[str, Any], keys: RecordKeys, minimum_score: float, place: str, bad: BadRecords
) -> Labelled | None:
    text, label, score = (value_at(record, key) for key in (keys.text, keys.label, keys.score))
    if not isinstance(text, str) or not text.strip():
        bad.add(place, f"no text in the field {keys.text!r}")
    elif isinstance(label, str) and label:
        return Labelled(text, label, str(value_at(record, keys.source) or "all"), place)
    elif isinstance(score, int | float) and not isinstance(score, bool):
        label = HIGH if score >= minimum_score else LOW
        return Labelled(text, label, str(value_at(record, keys.source) or "all"), place)
    else:
        bad.add(place, f"neither a label in the field {keys.label!r} nor a number in the field {keys.score!r}")
    return None


def _digest(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
