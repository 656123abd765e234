"""Records of a training set (conversations, preference pairs): each is used, or left out and counted, or an error.

`read_each` turns every record of some files into whatever a function makes of it. The function returns what it made, or
the reason for which the record is left out, or raises an `InputError`, which gets the record's place in front. So there
is no fourth way: what is missing afterwards stands in the `SkipReport`, with the place of the first example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from megaphi.data.documents import RECORD_ENDINGS, find_files, kind_of, read_records
from megaphi.errors import InputError, did_you_mean

TooLong = Literal["skip", "error"]
"""What to do with a record that does not fit into a row: leave it out and count it, or stop."""

Made = TypeVar("Made")


@dataclass(slots=True)
class Skipped:
    """Records left out for one reason."""

    count: int
    first: str
    """Place of the first of them."""


@dataclass(slots=True)
class SkipReport:
    """How many records were read, and which were left out."""

    read: int = 0
    skipped: dict[str, Skipped] = field(default_factory=dict)
    """By reason."""

    @property
    def kept(self) -> int:
        return self.read - sum(skipped.count for skipped in self.skipped.values())

    def skip(self, reason: str, where: str) -> None:
        """Count one record more that is left out."""
        self.skipped.setdefault(reason, Skipped(0, where)).count += 1

    def lines(self) -> list[str]:
        """For a log: what was read and kept, then a line for every reason."""
        return [f"{self.read:,} records read, {self.kept:,} kept"] + [
            f"{skipped.count:,} left out: {reason} (first: {skipped.first})" for reason, skipped in self.skipped.items()
        ]


def read_each(
    paths: Sequence[str], make: Callable[[dict[str, Any]], Made | str], report: SkipReport
) -> Iterator[tuple[str, Made]]:
    """(place, what `make` makes of it) for every record of `paths`, in order; a text from `make` is a reason to skip.

    Args:
        paths: files, folders or patterns; .jsonl, .jsonl.gz, .jsonl.zst, .parquet.
        report: filled while the records are read.

    Raises:
        InputError: of `make`, with the record's place in front; a file that cannot be read or has no record; or not one
            record that is kept.
    """
    for path in find_files(paths, endings=RECORD_ENDINGS):
        read_before = report.read
        for where, record in read_records(path):
            report.read += 1
            try:
                made = make({key: value for key, value in record.items() if value is not None})
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            if isinstance(made, str):
                report.skip(made, where)
            else:
                yield where, made
        if report.read == read_before:
            raise InputError(f"{path} is empty: it holds no record")
    if not report.kept:
        raise InputError(f"nothing is left to train on: {'; '.join(report.lines())}")


def matching_form(record: dict[str, Any], forms: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The form whose keys are the record's. Raises `InputError` where there is none."""
    for form in forms:
        if record.keys() == set(form):
            return form
    known = dict.fromkeys(key for form in forms for key in form)
    expected = ", or ".join(" + ".join(form) for form in forms)
    unknown = [key for key in record if key not in known]
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r}.{did_you_mean(unknown[0], known)} A record has {expected}")
    keys = ", ".join(map(repr, record)) or "no keys"
    raise InputError(f"a record with {keys} cannot be understood: it needs {expected}")


def token_ids(value: Any, key: str, *, vocabulary: int) -> NDArray[np.int32]:
    """A JSON list of token ids as an array. Raises `InputError` for anything else, or an id outside the vocabulary."""
    if not isinstance(value, list):
        raise InputError(f"{key!r} must be a list of token ids, not {kind_of(value)}")
    if not value:
        raise InputError(f"{key!r} is empty")
    if set(map(type, value)) != {int}:
        place = next(place for place, token in enumerate(value) if type(token) is not int)
        raise InputError(f"{key!r} must hold whole numbers, but at position {place} stands {value[place]!r}")
    if not 0 <= min(value) <= max(value) < vocabulary:
        place = next(place for place, token in enumerate(value) if not 0 <= token < vocabulary)
        raise InputError(
            f"{key!r} holds {value[place]} at position {place}, which is outside the vocabulary of {vocabulary} tokens:"
            " was it made with another tokenizer?"
        )
    return np.array(value, dtype=np.int32)


def reason_if_too_long(tokens: int, *, sequence_length: int, too_long: TooLong) -> str | None:
    """Why a record of `tokens` is left out, None if it fits; `InputError` where that is to be an error."""
    if tokens <= sequence_length:
        return None
    if too_long == "error":
        raise InputError(
            f"{tokens:,} tokens do not fit into a sequence length of {sequence_length:,}: shorten the record, raise the"
            ' sequence length, or leave such records out with too_long="skip"'
        )
    return f"longer than the sequence length of {sequence_length:,} tokens"
