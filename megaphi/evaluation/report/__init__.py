"""Reports of an evaluation for people, made from its results alone: report.md and page.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megaphi.evaluation.results import Evaluation


def write_report(
    folder: Path, evaluation: Evaluation, *, statuses: Mapping[str, Mapping[str, str]] | None = None
) -> None:
    """Write report.md and page.html into the folder.

    Args:
        statuses: task to its items' statuses of contamination (`report.contamination.item_statuses`).

    Raises:
        InputError: a task without responses.
    """
    from megaphi.evaluation.report.markdown import report_lines
    from megaphi.evaluation.report.page import render_page
    from megaphi.evaluation.report.summary import summary_of
    from megaphi.files import whole_file

    summaries = [summary_of(result, statuses=(statuses or {}).get(name)) for name, result in evaluation.tasks.items()]
    texts = {
        "page.html": render_page(evaluation, summaries),
        "report.md": "\n".join(report_lines(evaluation, summaries)),
    }
    for name, text in texts.items():
        with whole_file(folder / name) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
