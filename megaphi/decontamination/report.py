"""The report of a scan, in four files: report.json, items.jsonl, report.md and page.html.

items.jsonl has a line for every evaluated item, in the order of the benchmark files: set, item and status are what an
evaluation needs to score with and without contaminated items. The page holds the evidence: the item's text beside the
place in the training data and what both have in common. Everything on it is escaped, and it needs nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from megaphi.decontamination.findings import ScanFindings
from megaphi.decontamination.item_index import ItemIndex
from megaphi.decontamination.rule import STATUSES
from megaphi.files import write_json, write_text
from megaphi.foreign.markdown_cell import in_cell

TEMPLATE = Path(__file__).with_name("page.html")
MOST_SHOWN = 2_000
"""Items on a page: a browser shows these at once. items.jsonl holds all."""
MOST_NAMED = 20
"""Contaminated items of a set that the Markdown names."""


def item_records(findings: ScanFindings, index: ItemIndex) -> list[dict[str, Any]]:
    """A line of items.jsonl for every item."""
    records = []
    for number, item in enumerate(index.items):
        record: dict[str, Any] = {
            "set": item.set,
            "item": item.name,
            "status": findings.status_of(number, index),
            "place": item.place,
        }
        if (exact := findings.exact.get(number)) is not None:
            record["exact"] = {"gram": exact.gram, "training_text": exact.first.name, "training_texts": exact.texts}
        if (overlap := findings.overlap.get(number)) is not None:
            record["overlap"] = {
                "share": round(overlap.share, 4),
                "shared": overlap.shared,
                "of": overlap.smaller,
                "training_text": overlap.text.name,
            }
        records.append(record)
    return records


def set_summaries(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each set its items by status, as numbers and as shares of all."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        counts.setdefault(record["set"], Counter())[record["status"]] += 1
    return {
        name: {
            "items": count.total(),
            **{status: count[status] for status in STATUSES},
            "shares": {status: round(count[status] / count.total(), 6) for status in STATUSES},
        }
        for name, count in counts.items()
    }


def write_report(folder: Path, findings: ScanFindings, index: ItemIndex, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the four files into `folder`; returns the content of report.json.

    Args:
        about: what was scanned and how, for report.json.
    """
    records = item_records(findings, index)
    report = {"rule": asdict(index.rule), "sets": set_summaries(records), "training_texts": findings.texts, **about}
    write_json(folder / "report.json", report)
    write_text(folder / "items.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))
    write_text(folder / "report.md", _whole(markdown(report, records)))
    write_text(folder / "page.html", _whole(page(report, records, [item.text for item in index.items])))
    return report


def _whole(text: str) -> str:
    """Replace lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def markdown(report: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """The sets as a table, and the first contaminated items of each."""
    lines = ["# Contamination", "", _told(report), "", f"| set | items | {' | '.join(STATUSES)} |", "|---" * 6 + "|"]
    for name, one in report["sets"].items():
        cells = (f"{one[status]:,} ({one['shares'][status]:.1%})" for status in STATUSES)
        lines.append(f"| {in_cell(name)} | {one['items']:,} | {' | '.join(cells)} |")
    for name in report["sets"]:
        worst = [record for record in records if record["set"] == name and record["status"] == "contaminated"]
        if worst:
            lines += ["", f"## {in_cell(name)}", "", "| item | training text | shared |", "|---|---|---|"]
            rows = ((one["item"], *evidence(one)[0]) for one in worst[:MOST_NAMED])
            lines += [f"| {' | '.join(map(in_cell, row))} |" for row in rows]
        if len(worst) > MOST_NAMED:
            lines += ["", f"{len(worst) - MOST_NAMED:,} more in items.jsonl."]
    return "\n".join(lines) + "\n"


def _told(report: Mapping[str, Any]) -> str:
    rule, texts = report["rule"], report["training_texts"]
    return (
        f"{sum(texts.values()):,} training texts: {', '.join(f'{texts[status]:,} {status}' for status in STATUSES)}. "
        f"Contaminated: a shared run of {rule['exact_words']} words, or at least {rule['contaminated_share']:g} of the "
        f"runs of {rule['overlap_words']}; partial: more than {rule['partial_share']:g} of them; unchecked: fewer than "
        f"{rule['overlap_words']} words."
    )


def evidence(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(training text, what it shares) of an item, the stronger first."""
    found = []
    if "exact" in record:
        exact = record["exact"]
        more = f" (and {exact['training_texts'] - 1:,} other texts)" if exact["training_texts"] > 1 else ""
        found.append((f"{exact['training_text']}{more}", f"“{exact['gram']}”"))
    if "overlap" in record:
        overlap = record["overlap"]
        found.append((overlap["training_text"], f"{overlap['shared']:,} of {overlap['of']:,} short runs"))
    return found


def page(report: Mapping[str, Any], records: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> str:
    """The page; contaminated items come first. `texts` are those of the items."""
    numbers = [number for number, record in enumerate(records) if record["status"] in ("contaminated", "partial")]
    numbers.sort(key=lambda number: STATUSES.index(records[number]["status"]))
    shown = [
        {**records[number], "text": texts[number], "evidence": evidence(records[number])}
        for number in numbers[:MOST_SHOWN]
    ]
    return _template().render(
        introduction=_told(report), sets=report["sets"], statuses=STATUSES, items=shown, more=len(numbers) - len(shown)
    )


@cache
def _template() -> Any:
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text())
