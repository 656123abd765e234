"""The report of a run, in two files: report.md with the funnel and the reasons, report.html with samples too.

The page needs nothing else, has no scripts, and all texts on it are escaped: they are what strangers wrote.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from megaphi.curation.pipeline.plan import CurationPlan
from megaphi.curation.report.funnel import Funnel, FunnelStep, funnel_of
from megaphi.files import whole_file
from megaphi.foreign.markdown_cell import in_cell

TEMPLATE = Path(__file__).with_name("page.html")
LONGEST_SETTINGS = 2_000
"""Characters of a step's settings in report.md; report.html has all of them."""


def write_report(plan: CurationPlan) -> None:
    """Write report.md and report.html into the folder of a finished run."""
    funnel = funnel_of(plan)
    for name, text in (("report.md", markdown(funnel)), ("report.html", page(funnel))):
        with whole_file(plan.folder / name) as file:
            file.write(text.encode("utf-8", "backslashreplace"))


def markdown(funnel: Funnel) -> str:
    """The funnel as a table, and the reasons of every step."""
    lines = [f"# Curation: {in_cell(funnel.recipe)}", "", introduction(funnel), ""]
    lines += ["| step | documents in | out | of all read | characters out | seconds | MB/s |", "|---|" + "---:|" * 6]
    for step in funnel.steps:
        cells = [
            in_cell(step.name),
            f"{step.counts.came.documents:,}",
            f"{step.counts.left.documents:,}",
            f"{step.share_of_read:.1%}",
            f"{step.counts.left.characters:,}",
            f"{step.counts.seconds:,.1f}",
            speed(step),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for step in funnel.steps:
        if step.rejected:
            lines += ["", f"## {in_cell(step.name)}", "", in_cell(step.settings, longest=LONGEST_SETTINGS), ""]
            lines += ["| reason | documents | first sample |", "|---|---:|---|"]
            lines += [
                f"| {in_cell(one.reason)} | {one.count:,} | {in_cell(one.samples[0].detail) if one.samples else ''} |"
                for one in step.rejected
            ]
    return "\n".join(lines) + "\n"


def introduction(funnel: Funnel) -> str:
    """The whole run in a sentence."""
    read, written = funnel.steps[0].counts, funnel.steps[-1].counts
    return (
        f"{read.came.documents:,} records read from {funnel.input_bytes:,} bytes in {funnel.shards:,} shards, "
        f"{written.left.documents:,} documents of {written.left.characters:,} characters written; "
        f"{funnel.seconds:,.1f} seconds of all processes together, {funnel.between.seconds:,.1f} of them for the disk "
        "between stages."
    )


def speed(step: FunnelStep) -> str:
    """Its rate, "" where no time was measured."""
    rate = step.megabytes_per_second
    return "" if rate is None else f"{rate:,.1f}"


def page(funnel: Funnel) -> str:
    """The page."""
    widest = max([step.counts.left.documents for step in funnel.steps] + [1])
    return _template().render(funnel=funnel, introduction=introduction(funnel), speed=speed, widest=widest)


@cache
def _template() -> Any:
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text())
