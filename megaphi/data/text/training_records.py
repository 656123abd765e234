"""Records of a training set (conversations, preference pairs): each is used, or left out and counted, or an error.

`read_each` finds the one form among those that are known whose fields a record has, and turns it into whatever a
function makes of it. The function returns what it made, or the reason for which the record is left out, or raises an
`InputError`; such records are all named at the end, or left out and counted (`bad_records`). Columns that the form does
not need are ignored and named once, but never one that changes what was said. So nothing is dropped silently: what is
missing afterwards is in the `SkipReport`, with the location of the first example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from megaphi.conversation import says_nothing
from megaphi.data.text.bad_records import BadRecords, OnBadRecords
from megaphi.data.text.documents import kind_of, read_records
from megaphi.data.text.input_files import LeftOut, files_by_input
from megaphi.errors import InputError, did_you_mean

TooLong = Literal["skip", "error"]
"""Treatment of a record that does not fit into a row: leave it out and count it, or stop."""

Made = TypeVar("Made")

CHANGES_WHAT_IS_SAID = (
    "tools functions history images image videos video audios audio documents chat_template_kwargs"
).split()
"""Columns that trainers render into the conversation: refused, unless they say nothing."""


class TooLongRecord(InputError):
    """A record that does not fit, where that is an error: it ends the reading, however bad records are treated."""


@dataclass(frozen=True, slots=True)
class Form:
    """The fields that make a record of one kind."""

    needs: tuple[str, ...]
    may: tuple[str, ...] = ()
    """Further fields that are honoured where they are there."""
    answers: tuple[str, ...] = ()
    """Fields that hold the targets: a record that has those of another form too is ambiguous."""
    is_rendered: bool = False
    """It holds token ids: other columns have no meaning."""


@dataclass(slots=True)
class Skipped:
    """Records left out for one reason."""

    count: int
    first: str
    """Place of the first of them."""


@dataclass(slots=True)
class SkipReport:
    """Number of records read, and the records left out."""

    read: int = 0
    skipped: dict[str, Skipped] = field(default_factory=dict)
    """By reason."""
    unused: dict[str, int] = field(default_factory=dict)
    """Ignored columns, with the number of records that have them."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Files of folders that were not read."""
    kept_of: dict[str, int] = field(default_factory=dict)
    """By input, in the order of reading: how many records were kept."""

    @property
    def kept(self) -> int:
        return self.read - sum(skipped.count for skipped in self.skipped.values())

    def skip(self, reason: str, where: str) -> None:
        """Count one record more that is left out."""
        self.skipped.setdefault(reason, Skipped(0, where)).count += 1

    def lines(self) -> list[str]:
        """For a log: what was read and kept, then a line for every reason, the columns and the files not used."""
        lines = [f"{self.read:,} records read, {self.kept:,} kept"] + [
            f"{skipped.count:,} left out: {reason} (first: {skipped.first})" for reason, skipped in self.skipped.items()
        ]
        if self.unused:
            columns = ", ".join(f"{name!r} ({count:,} records)" for name, count in self.unused.items())
            lines.append(f"columns not used: {columns}")
        return lines + self.left_out.lines()


def read_each(
    paths: Sequence[str],
    forms: Sequence[Form],
    make: Callable[[Form, dict[str, Any]], Made | str],
    report: SkipReport,
    *,
    bad_records: OnBadRecords,
) -> Iterator[tuple[str, Made]]:
    """(place, what `make` makes of it) for every record of `paths`, in order; a text from `make` is a reason to skip.

    Args:
        paths: files, folders or patterns of records, see `input_files.py`.
        forms: what a record may be; `make` is told which it is, and given its fields that are not null.
        report: filled while the records are read.
        bad_records: "error" reads on and then names all records that cannot be used; "skip" counts them.

    Raises:
        InputError: records that cannot be used; a file that cannot be read or has no record; or not one record that is
            kept.
    """
    bad = BadRecords(bad_records)
    columns = {*CHANGES_WHAT_IS_SAID, *(key for form in forms for key in (*form.needs, *form.may))}

    def refuse(where: object, reason: str) -> None:
        report.read += 1
        bad.add(where, reason)

    inputs = files_by_input(paths, texts=False, left_out=report.left_out)
    report.kept_of = dict.fromkeys(inputs, 0)
    for given, path in [(given, path) for given, files in inputs.items() for path in files]:
        read_before = report.read
        for where, record in read_records(path, refuse=refuse, columns=columns):
            fields = {key: value for key, value in record.items() if value is not None}
            try:
                form = matching_form(fields, forms)
                made = make(form, fields)
            except TooLongRecord as error:
                raise InputError(f"{where}: {error}") from None
            except InputError as error:
                refuse(where, str(error))
                continue
            report.read += 1
            for key in fields.keys() - {*form.needs, *form.may}:
                report.unused[key] = report.unused.get(key, 0) + 1
            if isinstance(made, str):
                report.skip(made, where)
            else:
                report.kept_of[given] += 1
                yield where, made
        if report.read == read_before:
            raise InputError(f"{path} is empty: it holds no record")
    bad.raise_if_refused()
    report.skipped |= {reason: Skipped(count, first) for reason, (count, first) in bad.summary().items()}
    report.unused = dict(sorted(report.unused.items()))
    if not report.kept:
        raise InputError(f"no record is left to train on: {'; '.join(report.lines())}")


def matching_form(record: dict[str, Any], forms: Sequence[Form]) -> Form:
    """The one form whose fields the record has; of two of which one needs all that the other does, the larger.

    Raises:
        InputError: there is none, there are several, or a column changes what was said in a way that is not known here.
    """
    fitting = [form for form in forms if record.keys() >= set(form.needs)]
    largest = [form for form in fitting if not any(set(form.needs) < set(other.needs) for other in fitting)]
    if not largest:
        raise InputError(_no_form(record, forms))
    form = largest[0]
    others = {key for other in forms for key in other.answers} - {*form.needs, *form.may}
    if len(largest) > 1 or not others.isdisjoint(record):
        both = " and ".join("+".join(form.needs) for form in largest[:2])
        doubtful = both if len(largest) > 1 else f"{both} and {min(others & record.keys())}"
        raise InputError(f"a record with {doubtful} is ambiguous: leave one of them out")
    for key in CHANGES_WHAT_IS_SAID:
        if not form.is_rendered and key in record and not says_nothing(record[key], key):
            raise InputError(f"the column {key!r} would change what is said, and is not understood: leave it out")
    return form


def _no_form(record: dict[str, Any], forms: Sequence[Form]) -> str:
    known = dict.fromkeys(key for form in forms for key in form.needs)
    expected = ", or ".join(" + ".join(form.needs) for form in forms)
    unknown = [key for key in record if key not in known]
    guesses = [(key, guess) for key in unknown if (guess := did_you_mean(key, known))]
    if guesses or (unknown and len(unknown) == len(record)):
        key, guess = guesses[0] if guesses else (unknown[0], "")
        return f"unknown key {key!r}.{guess} A record has {expected}"
    keys = ", ".join(map(repr, record)) or "no keys"
    return f"a record with {keys} cannot be understood: it needs {expected}"


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
    """Reason to leave out a record of `tokens`, None if it fits; `InputError` where that is to be an error."""
    if tokens <= sequence_length:
        return None
    if too_long == "error":
        raise TooLongRecord(
            f"{tokens:,} tokens do not fit into a sequence length of {sequence_length:,}: shorten the record, raise the"
            ' sequence length, or leave such records out with too_long="skip"'
        )
    return f"longer than the sequence length of {sequence_length:,} tokens"
