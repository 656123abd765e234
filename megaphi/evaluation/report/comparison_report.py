"""A comparison for people: a table of paired differences, the items that changed, and scores over checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megaphi.evaluation.report.comparison import ComparedTask, unshared_tasks
from megaphi.evaluation.report.markdown import points
from megaphi.evaluation.report.plots import checkpoint_plot
from megaphi.evaluation.results import Evaluation
from megaphi.evaluation.statistics.clustered import CONFIDENCE
from megaphi.files import explain_write_errors, whole_file, whole_folder
from megaphi.foreign.markdown_cell import in_cell
from megaphi.pivotal.methods.findings import Band

PLOT = "scores.png"


def comparison_lines(evaluations: Mapping[str, Evaluation], rows: Sequence[ComparedTask], *, items: int) -> list[str]:
    """Args: items: changed items of each task that are named."""
    first, *others = evaluations
    against = "after is | " if len(others) > 1 else ""
    lines = [f"Evaluations against {in_cell(first)} (before), in points of 100:", ""]
    lines.append(f"| task | {against}items | before | after | difference | 95 % interval | p | detectable | |")
    lines.append(f"|---|{'---|' if against else ''}---:|---:|---:|---:|---|---:|---:|---|")
    lines += [_row(row, several=len(others) > 1) for row in rows]
    lines += ["", *_notes(rows), *_unshared(evaluations)]
    if items:
        lines += _changed(rows, items)
    return lines


def _row(row: ComparedTask, *, several: bool) -> str:
    paired = row.paired
    low, high = 100 * paired.difference.low, 100 * paired.difference.high
    cells = [
        in_cell(f"{row.task}, {row.subset}" if row.subset else row.task),
        *([in_cell(row.name)] if several else []),
        f"{paired.items:,}",
        points(row.first),
        points(row.second),
        f"{100 * paired.difference.estimate:+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        _p(paired.p_value),
        f"{100 * paired.smallest_detectable:.1f}",
        verdict(row),
    ]
    return f"| {' | '.join(cells)} |"


def verdict(row: ComparedTask) -> str:
    """`within noise`, `better` or `worse`; `(alone)` where it does not stand among all comparisons made here."""
    if row.paired.within_noise:
        return "within noise"
    word = "better" if row.paired.difference.estimate > 0 else "worse"
    return word if row.adjusted_p < 1 - CONFIDENCE else f"{word} (alone)"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _notes(rows: Sequence[ComparedTask]) -> list[str]:
    tests = sum(not row.subset for row in rows)
    lines = [
        "Differences are of the same items, clustered; detectable is the true difference that as many items like these "
        "would show in 80 % of evaluations.",
    ]
    if tests > 1:
        found = sum(not row.paired.within_noise and not row.subset for row in rows)
        stand = sum(row.adjusted_p < 1 - CONFIDENCE and not row.subset for row in rows)
        lines.append(
            f"Of {tests} comparisons {tests * (1 - CONFIDENCE):.1f} would be called different by chance; {found} are, "
            f"and {stand} of them stand if all are taken together (Holm). (alone) marks the others."
        )
    for row in rows:
        paired = row.paired
        tried = f"{in_cell(row.task)}: {paired.better:,} items better, {paired.worse:,} worse"
        exact = "" if paired.mcnemar is None else f", McNemar's exact p {_p(paired.mcnemar)}"
        alike = "" if paired.correlation is None else f", correlation {paired.correlation:.2f}"
        problems = f", answers with a problem {row.problems[0]:,} and {row.problems[1]:,}" if any(row.problems) else ""
        if not row.subset:
            lines.append(f"- {tried}{exact}{alike}{problems}")
    return [*lines, ""]


def _unshared(evaluations: Mapping[str, Evaluation]) -> list[str]:
    missing = unshared_tasks(evaluations)
    if not missing:
        return []
    told = "; ".join(f"{in_cell(task)} (in {', '.join(map(in_cell, names))})" for task, names in missing.items())
    return [f"Not in all evaluations, and left out: {told}", ""]


def _changed(rows: Sequence[ComparedTask], most: int) -> list[str]:
    lines: list[str] = []
    for row in rows:
        if row.changed and not row.subset:
            shown = row.changed[:most]
            of = f" (the first {len(shown)} of {len(row.changed):,})" if len(shown) < len(row.changed) else ""
            lines += [f"Items of {in_cell(row.task)} that changed{of}, {in_cell(row.name)}:", ""]
            lines += [f"- {in_cell(item)}: {before:.2f} to {after:.2f}" for item, before, after in shown]
            lines.append("")
    return lines


def places_of(evaluations: Mapping[str, Evaluation]) -> tuple[str, dict[str, float]]:
    """The axis of a plot over checkpoints and each evaluation's place: steps, else tokens, else the order given."""
    for axis in ("step", "tokens"):
        found = {name: one.identity.get(axis) for name, one in evaluations.items()}
        values = [value for value in found.values() if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(values) == len(found) == len(set(values)):
            return axis, {name: float(value) for name, value in zip(found, values, strict=True)}
    return "evaluation, in the order given", {name: float(place) for place, name in enumerate(evaluations, start=1)}


def write_comparison(
    folder: Path, evaluations: Mapping[str, Evaluation], rows: Sequence[ComparedTask], *, items: int
) -> None:
    """Write comparison.md, comparison.json and changed_items.jsonl; of three evaluations or more, scores.png too.

    Raises:
        InputError: the folder exists already.
    """
    texts = {
        "comparison.md": "\n".join(comparison_lines(evaluations, rows, items=items)) + "\n",
        "comparison.json": json.dumps([_record(row) for row in rows], indent=2) + "\n",
        "changed_items.jsonl": "".join(
            json.dumps({"task": row.task, "evaluation": row.name, "item": item, "before": before, "after": after})
            + "\n"
            for row in rows
            if not row.subset
            for item, before, after in row.changed
        ),
    }
    with whole_folder(folder) as partial:
        for name, text in texts.items():
            with whole_file(partial / name) as file:
                file.write(text.encode("utf-8", "backslashreplace"))
        if len(evaluations) > 2:
            with whole_file(partial / PLOT) as file, explain_write_errors(folder):
                _plot(evaluations, rows).savefig(file, format="png", dpi=150)


def _plot(evaluations: Mapping[str, Evaluation], rows: Sequence[ComparedTask]) -> Any:
    axis, places = places_of(evaluations)
    order = sorted(places, key=lambda name: places[name])
    first = next(iter(evaluations))
    bands: dict[str, dict[str, Band]] = {}
    for row in rows:
        if not row.subset:
            bands.setdefault(row.task, {first: row.first})[row.name] = row.second
    scores = {task: [found.get(name) for name in order] for task, found in bands.items()}
    return checkpoint_plot([places[name] for name in order], scores, axis)


def _record(row: ComparedTask) -> dict[str, Any]:
    plain = asdict(row)
    del plain["changed"]
    return {**plain, "verdict": verdict(row), "changed_items": len(row.changed)}
