"""Scan training data for benchmark items, part by part, in several processes; a scan that was ended goes on.

What was found in a part is a line of a journal, named by the part, the items and the rule; the same command takes such
lines over. Places of lines in large files are bytes until the end, when each file is read once to count its lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megaphi.data.contamination.data_parts import DataPart
from megaphi.data.text.bad_records import BadRecords, OnBadRecords
from megaphi.data.text.documents import line_numbers
from megaphi.decontamination.findings import ScanFindings, TextPlace, scan_texts
from megaphi.decontamination.item_index import ItemIndex
from megaphi.json_log import JsonLog
from megaphi.log import logger, progress_bar
from megaphi.worker_processes import each_in_processes

PartResult = tuple[dict[str, Any], dict[str, list[Any]]]
"""Findings as plain values, and the records that hold no text, by reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingRules:
    """Rules for reading texts."""

    text_key: str = "text"
    """Field or column of a record that holds its text."""
    bad_records: OnBadRecords = "error"


@dataclass(slots=True)
class DataScan:
    """A scan of all data."""

    findings: ScanFindings = field(default_factory=ScanFindings)
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Records left out because they hold no text: by reason, how many, and the place of the first."""
    taken_over: int = 0
    """Number of parts that an earlier, interrupted scan had done."""

    def add(self, result: PartResult, part: int) -> None:
        found, left_out = result
        self.findings.merge(ScanFindings.from_plain(found, part=part))
        for reason, (count, first) in left_out.items():
            before, place = self.left_out.get(reason, (0, first))
            self.left_out[reason] = (before + count, min(place, first))


_index: list[ItemIndex] = []
"""The index of this process."""


def scan_data(
    parts: Sequence[DataPart],
    index: ItemIndex,
    rules: ReadingRules,
    *,
    journal: Path,
    processes: int,
    show_progress: bool = True,
) -> DataScan:
    """Scan every part and merge what was found.

    Args:
        journal: file for what was found in each part; it may hold that of an earlier scan.

    Raises:
        InputError: a part cannot be read, or another process is writing the journal.
    """
    keys = [_key(part, index, rules) for part in parts]
    done: dict[str, PartResult] = {}
    scan = DataScan()
    total = sum(part.size_bytes for part in parts)

    def remember(record: Any) -> None:
        done[record["part"]] = (record["findings"], record["left_out"])

    log = JsonLog(journal, remember, what="the findings of a part", exclusive=True)
    try:
        missing = [number for number, key in enumerate(keys) if key not in done]
        for number in set(range(len(parts))).difference(missing):
            scan.add(done[keys[number]], number)
        scan.taken_over = len(parts) - len(missing)
        if scan.taken_over:
            logger.info("%d of %d parts were scanned by an earlier run", scan.taken_over, len(parts))
        left = sum(parts[number].size_bytes for number in missing)
        jobs = [(number, parts[number]) for number in missing]
        advice = "run the same command again, with fewer processes; what was scanned is kept"
        with progress_bar(total=total, initial=total - left, unit="B", label="scan", visible=show_progress) as bar:
            for (number, part), result in each_in_processes(
                _scan_part, jobs, rules, processes=processes, prepare=_Prepare(index), advice=advice
            ):
                log.add({"part": keys[number], "findings": result[0], "left_out": result[1]})
                scan.add(result, number)
                bar.update(part.size_bytes)
    finally:
        log.close()
    scan.findings = _with_lines(scan.findings)
    return scan


@dataclass(frozen=True, slots=True)
class _Prepare:
    """Gives a process the index, which is pickled once for each."""

    index: ItemIndex

    def __call__(self) -> None:
        _index[:] = [self.index]


def _scan_part(job: tuple[int, DataPart], rules: ReadingRules) -> PartResult:
    number, part = job
    bad = BadRecords(rules.bad_records)
    findings = scan_texts(part.texts(number, text_key=rules.text_key, refuse=bad.add), _index[0])
    bad.raise_if_refused()
    return findings.to_plain(), bad.summary()


def _key(part: DataPart, index: ItemIndex, rules: ReadingRules) -> str:
    return hashlib.sha256(f"{index.fingerprint} {rules} {part.identity}".encode()).hexdigest()


def _with_lines(findings: ScanFindings) -> ScanFindings:
    """The same findings with lines in the place of bytes."""
    starts: dict[str, set[int]] = {}
    for place in findings.places():
        if place.byte is not None:
            starts.setdefault(place.name, set()).add(place.byte)
    lines = {file: line_numbers(Path(file), bytes_of) for file, bytes_of in starts.items()}

    def counted(place: TextPlace) -> TextPlace:
        if place.byte is None:
            return place
        return replace(place, name=f"{place.name}:{lines[place.name][place.byte]}", byte=None)

    return findings.renamed(counted)
