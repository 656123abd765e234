"""report.md of an evaluation: scores with intervals, what was no answer, the published column, the ledger of quirks.

All scores are in points of 100. Nothing that a model or a stranger wrote is markup here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from megaphi.errors import InputError
from megaphi.evaluation.report.published import PUBLISHED, STAGES, PublishedScore
from megaphi.evaluation.report.summary import TaskSummary
from megaphi.evaluation.results import Evaluation
from megaphi.evaluation.statistics.strength import elo_difference
from megaphi.evaluation.task import PHI4
from megaphi.evaluation.tasks import find_task
from megaphi.evaluation.tasks.long_context.published import PHI4_LONG_CONTEXT
from megaphi.foreign.markdown_cell import in_cell
from megaphi.pivotal.methods.findings import Band


def points(band: Band | None) -> str:
    """`82.6 ± 5.8`, in points of 100: half the length of the interval, which is not symmetric near 0 and 100."""
    return "–" if band is None else f"{100 * band.estimate:.1f} ± {50 * (band.high - band.low):.1f}"


def ends(band: Band) -> str:
    return f"{100 * band.low:.1f} to {100 * band.high:.1f}"


def report_lines(evaluation: Evaluation, summaries: Sequence[TaskSummary]) -> list[str]:
    return [
        f"# {in_cell(evaluation.model)}: evaluation by {in_cell(evaluation.protocol)}",
        "",
        *_facts(evaluation),
        *_scores(evaluation, summaries),
        *_problems(summaries),
        *_further(summaries),
        *_contamination(summaries),
        *_groups(summaries),
        *_ledger(summaries),
        *_stages(summaries),
        *_files(summaries),
    ]


def _facts(evaluation: Evaluation) -> list[str]:
    facts = {
        **{name: value for name, value in evaluation.identity.items() if isinstance(value, str | int | float)},
        "judge": evaluation.judge or "none",
        "seed": evaluation.seed,
        "megaphi": evaluation.version,
    }
    return [*(f"- {in_cell(str(name))}: {in_cell(str(value))}" for name, value in facts.items()), ""]


def _scores(evaluation: Evaluation, summaries: Sequence[TaskSummary]) -> Iterator[str]:
    yield "| task | items | answers | score | 95 % interval | problems wrong | problems left out | Phi-4, published | |"
    yield "|---|---:|---:|---:|---|---:|---:|---:|---|"
    for one in summaries:
        cells = (
            in_cell(f"{one.result.task}: {one.result.scores[0]}"),
            f"{one.items:,}",
            f"{one.graded.answers:,}",
            points(one.score),
            ends(one.score),
            points(one.as_wrong),
            points(one.left_out),
            *published_cells(one, evaluation.protocol),
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "± is half a 95 % interval, clustered by question and by items that hang together (docs/statistics.md). The "
        "noise of a published score is that of one answer to each of its questions."
    )
    partial = [one.result for one in summaries if one.items < one.result.items_in_files]
    for result in partial:
        asked = len({one.item for one in result.responses})
        yield f"Of {in_cell(result.task)}, {asked:,} of {result.items_in_files:,} items in its files were asked."
    for one in summaries:
        published = PUBLISHED.get(one.result.task)
        if published and published.note:
            yield f"Published score of {one.result.task}: {published.note}."
    yield ""


def published_cells(one: TaskSummary, protocol: str) -> tuple[str, str]:
    """The published score, and how the one measured here stands to it."""
    published = PUBLISHED.get(one.result.task)
    if published is None:
        return "–", ""
    shown = f"{published.score:.1f} ± {published.half_width:.1f}"
    measured = one.derived.get(published.figure) if published.figure else one.score
    if not isinstance(measured, Band):
        return shown, ""
    return shown, f"{published.figure} {against(measured, published, protocol)}".strip()


def against(score: Band, published: PublishedScore, protocol: str) -> str:
    """The difference to a published score, and whether both intervals together explain it."""
    difference = 100 * score.estimate - published.score
    noise = math.hypot(50 * (score.high - score.low), published.half_width)
    words = "within noise" if abs(difference) <= noise else "beyond noise"
    other = "" if protocol == PHI4 else f"; published by {published.protocol}"
    return f"{difference:+.1f}, {words}{other}"


def _problems(summaries: Sequence[TaskSummary]) -> Iterator[str]:
    found = [one for one in summaries if one.problems]
    if not found:
        yield from ("Every response was an answer that could be graded.", "")
        return
    yield from ("## Responses that were no answer", "", "| task | problem | responses | share |", "|---|---|---:|---:|")
    for one in found:
        for problem, count in one.problems.items():
            share = 100 * count / one.graded.answers
            yield f"| {in_cell(one.result.task)} | {in_cell(problem)} | {count:,} | {share:.1f} % |"
    yield ""


def _further(summaries: Sequence[TaskSummary]) -> Iterator[str]:
    rows = []
    for one in summaries:
        rows += [(one.result.task, name, points(band), ends(band)) for name, band in one.others.items()]
        for name, value in one.derived.items():
            if isinstance(value, Band):
                shown = f"{value.estimate:.4g}", f"{value.low:.4g} to {value.high:.4g}"
            else:
                shown = f"{value:.4g}", "its function is not known here"
            rows.append((one.result.task, f"{name} (not in points)", *shown))
            if name == "win_rate" and isinstance(value, Band):
                elo = elo_difference(value)
                span = f"{elo.low:.0f} to {elo.high:.0f}"
                rows.append((one.result.task, "Elo ahead of the baseline", f"{elo.estimate:+.0f}", span))
    if rows:
        yield from ("## Further figures", "", "| task | figure | value | 95 % interval |", "|---|---|---:|---|")
        yield from (f"| {in_cell(task)} | {in_cell(name)} | {value} | {band} |" for task, name, value, band in rows)
        yield ""


def _contamination(summaries: Sequence[TaskSummary]) -> Iterator[str]:
    """Scores by what stands in the training data; tasks that were not scanned are named."""
    if not any(one.contamination for one in summaries):
        return
    yield from (
        "## Contamination",
        "",
        "| task | items are | items | score | 95 % interval |",
        "|---|---|---:|---:|---|",
    )
    for cells in contamination_rows(summaries):
        yield f"| {' | '.join(map(in_cell, cells))} |"
    yield ""
    if missing := not_scanned(summaries):
        yield from (f"Not scanned: {', '.join(map(in_cell, missing))}.", "")


def contamination_rows(summaries: Sequence[TaskSummary]) -> Iterator[tuple[str, ...]]:
    """Task, status of contamination, items, score and interval."""
    for one in summaries:
        for status, (items, band) in one.contamination.items():
            yield one.result.task, status, f"{items:,}", points(band), ends(band)


def not_scanned(summaries: Sequence[TaskSummary]) -> list[str]:
    return [one.result.task for one in summaries if not one.contamination]


def _groups(summaries: Sequence[TaskSummary]) -> Iterator[str]:
    """Tables of groups; lengths of long contexts stand beside the published score at that length."""
    for one in summaries:
        if one.groups:
            published = {str(length): score for length, score in PHI4_LONG_CONTEXT.get(one.result.task, {}).items()}
            more = (" Phi-4, published |", "---:|") if published else ("", "")
            yield from (f"## {in_cell(one.result.task)} by group", "")
            yield from (f"| group | items | score |{more[0]}", f"|---|---:|---:|{more[1]}")
            for name, (items, band) in one.groups.items():
                known = f" {published.get(name, '–')} |" if published else ""
                yield f"| {in_cell(name)} | {items:,} | {points(band)} |{known}"
            yield ""


def _ledger(summaries: Sequence[TaskSummary]) -> Iterator[str]:
    """Each switch, and the points that the score changes by on these answers if it alone is on instead of off."""
    rows = []
    for one in summaries:
        for name, state in one.result.switches.items():
            worth = one.result.quirks.get(name)
            moved = _unmeasured(one.result.task, name) if worth is None else f"{worth:+.2f}"
            cells = (in_cell(one.result.task), in_cell(name), "on" if state else "off", moved, quirk_ends(one, name))
            rows.append(f"| {' | '.join(cells)} |")
    if rows:
        yield from (
            "## Ledger of quirks",
            "",
            "| task | switch | here | points, on minus off | 95 % interval |",
            "|---|---|---|---:|---|",
        )
        yield from rows
        yield ""


def quirk_ends(one: TaskSummary, name: str) -> str:
    """`-0.4 to +1.2`, the interval of the points that a switch moves, paired by item; `–` where there is none."""
    ends = one.result.quirk_intervals.get(name)
    return "–" if ends is None else f"{ends[0]:+.1f} to {ends[1]:+.1f}"


def _unmeasured(task: str, name: str) -> str:
    """The reason that a switch has no points: one of grading is left out only where its judge is absent."""
    try:
        grading = {switch.name for switch in find_task(task).switches if switch.changes == "grading"}
    except InputError:  # a task of the user's own, or of another version
        return "not measured"
    return "not measured: needs a judge" if name in grading else "needs new answers"


def _stages(summaries: Sequence[TaskSummary]) -> Iterator[str]:
    known = [(one.result.task, PUBLISHED[one.result.task].stages) for one in summaries if one.result.task in PUBLISHED]
    rows = [(task, stages) for task, stages in known if stages]
    if rows:
        yield from ("## Phi-4 by stage of post-training, as published", "", f"| task | {' | '.join(STAGES)} |")
        yield f"|---|{'---:|' * len(STAGES)}"
        yield from (f"| {task} | {' | '.join(f'{score:.1f}' for score in stages)} |" for task, stages in rows)
        yield ""


def _files(summaries: Sequence[TaskSummary]) -> Iterator[str]:
    found = [(one.result.task, file) for one in summaries for file in one.result.files]
    names = list(dict.fromkeys(name for _, file in found for name in file))
    if found:
        yield from ("## Files", "", f"| task | {' | '.join(map(in_cell, names))} |", f"|---|{'---|' * len(names)}")
        for task, file in found:
            yield f"| {in_cell(task)} | {' | '.join(in_cell(str(file.get(name, ''))) for name in names)} |"
        yield ""
