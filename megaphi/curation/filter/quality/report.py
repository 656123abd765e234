"""The report about a trained classifier: report.md for people, report.json for programs, curves.png for both.

All figures are of the test part, which neither training nor calibration nor the choice of the minimum has seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megaphi.curation.filter.quality.measures import (
    Judged,
    PortionOf,
    at_threshold,
    average_precision,
    by_class,
    calibration_errors,
    confusion,
    curve,
    reliability,
    worst_errors,
)
from megaphi.curation.filter.quality.train import TrainedClassifier
from megaphi.files import whole_file, write_json, write_text
from megaphi.foreign.markdown_cell import in_cell

ERRORS_SHOWN = 10
CHARACTERS_SHOWN = 400
THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def write_report(folder: Path, trained: TrainedClassifier) -> dict[str, Any]:
    """Write the three files; returns what is in report.json."""
    points = curve(trained.judged)
    parts = {name: getattr(trained.texts, name) for name in ("train", "calibration", "test")}
    found: dict[str, Any] = {
        "labels": list(trained.labels),
        "positive": trained.positive,
        "texts": {name: dict(Counter(item.label for item in part)) for name, part in parts.items()},
        "copies": trained.texts.copies,
        "contradictions": trained.texts.contradictions,
        "model_bytes": trained.model_bytes,
        "minimum": trained.minimum,
        "chosen": trained.chosen,
        "at_minimum": _plain(at_threshold(trained.judged, trained.minimum)),
        "thresholds": [{"minimum": value, **_plain(at_threshold(trained.judged, value))} for value in THRESHOLDS],
        "classes": {} if trained.positive else {name: _plain(row) for name, row in by_class(trained.judged).items()},
        "average_precision": average_precision(points),
        **calibration_errors(trained.judged),
        "reliability": reliability(trained.judged),
        "confusion": confusion(trained.judged, trained.minimum, classes=not trained.positive),
        "worst_errors": [_error(item) for item in worst_errors(trained.judged, trained.minimum, most=ERRORS_SHOWN)],
    }
    write_json(folder / "report.json", found)
    write_text(folder / "report.md", _markdown(found))
    _plot(folder / "curves.png", points, found["reliability"])
    return found


def _plain(portions: dict[str, PortionOf]) -> dict[str, Any]:
    return {name: asdict(share) if share.of else {**asdict(share), "share": None} for name, share in portions.items()}


def _error(item: Judged) -> dict[str, Any]:
    plain = asdict(item)
    return {**plain, "text": item.text[:CHARACTERS_SHOWN]}


def _markdown(found: dict[str, Any]) -> str:
    target = f"texts with the label `{found['positive']}`" if found["positive"] else "right answers"
    counts = [[part, *(labels.get(name, 0) for name in found["labels"])] for part, labels in found["texts"].items()]
    rows = [{"minimum": found["minimum"], **found["at_minimum"]}, *found["thresholds"]]
    lines = [
        "# Classifier",
        "",
        f"Figures are of the test part, with 95 % intervals (Wilson). Positive are {target}.",
        f"Minimum {found['minimum']:.3f}: {found['chosen']}. Model: {found['model_bytes']:,} bytes.",
        f"Left out: {found['copies']} copies, {found['contradictions']} texts with two labels.",
        "",
        *_table(["texts", *found["labels"]], counts),
        "",
        "## Precision and recall",
        "",
        *_table(["minimum", "precision", "recall", "kept"], [[f"{row['minimum']:.3f}", *_shares(row)] for row in rows]),
        "",
        f"Average precision {found['average_precision']:.3f}. The first line is the chosen minimum.",
        "",
        *_classes(found["classes"]),
        "## Calibration",
        "",
        f"Brier score {found['brier']:.4f}, expected calibration error {found['expected_calibration_error']:.4f}.",
        "",
        *_table(
            ["mean probability", "positive", "texts"],
            [[f"{row['mean_probability']:.3f}", _share(row), row["of"]] for row in found["reliability"]],
        ),
        "",
        "![Precision over recall, and calibration](curves.png)",
        "",
        "## Verdicts by source and right label",
        "",
    ]
    for name, row in found["confusion"].items():
        lines.append(f"- {in_cell(name)}: {', '.join(f'{verdict} {count}' for verdict, count in row.items())}")
    lines += ["", "## Worst errors", ""]
    for error in found["worst_errors"]:
        about = f"{error['probability']:.3f}, is {in_cell(error['label'])} ({in_cell(error['place'])})"
        lines += [f"- {about}: {in_cell(error['text'])}"]
    return "\n".join(lines) + "\n"


def _classes(rows: dict[str, Any]) -> list[str]:
    if not rows:
        return []
    cells = [[in_cell(name), *(_share(row[key]) for key in ("precision", "recall"))] for name, row in rows.items()]
    return ["## Classes", "", *_table(["class", "precision", "recall"], cells), ""]


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell) for cell in row)} |" for row in cells]


def _shares(row: dict[str, Any]) -> list[str]:
    return [_share(row[name]) for name in ("precision", "recall", "kept")]


def _share(portion: dict[str, Any]) -> str:
    if portion["share"] is None:
        return "none"
    return f"{portion['share']:.3f} ({portion['low']:.3f} to {portion['high']:.3f})"


def _plot(path: Path, points: Sequence[tuple[float, float, float]], rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.step([recall for _, _, recall in points], [precision for _, precision, _ in points], where="post")
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02), title="Precision over recall")
    right.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    shares = [row["share"] for row in rows]
    errors = [[row["share"] - row["low"] for row in rows], [row["high"] - row["share"] for row in rows]]
    right.errorbar([row["mean_probability"] for row in rows], shares, yerr=errors, fmt="o")
    right.set(xlabel="probability", ylabel="share that is positive", xlim=(0, 1), ylim=(0, 1), title="Calibration")
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
