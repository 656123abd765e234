"""Files of a judged run: pairs for the DPO stage, every judgement, what was left out, a report and a histogram.

They hold no time and no path of a machine: a second run that is answered from the journal writes the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from megaphi.conversation import to_plain
from megaphi.foreign.markdown_cell import in_cell
from megaphi.pivotal.preference.bias import rank_correlation, share
from megaphi.pivotal.preference.judge import JudgedRun, JudgeSettings
from megaphi.pivotal.preference.judging import LEAST, MOST, SCORES
from megaphi.pivotal.preference.record_files import said, write_records, write_report

PICTURE = "scores.png"


def write_judged(folder: Path, run: JudgedRun, settings: JudgeSettings) -> None:
    """Fill `folder`."""
    write_records(folder / "pairs.jsonl", pair_records(run))
    write_records(folder / "judged.jsonl", _judged_records(run))
    write_records(folder / "left_out.jsonl", run.left_out.records())
    if run.judged:
        draw_histogram(folder / PICTURE, run)
    write_report(folder / "report.md", report_lines(run, settings))


def pair_records(run: JudgedRun) -> list[dict[str, Any]]:
    """As `data/packed/preference_pairs.py` reads them; it passes over the fields after the first three."""
    return [
        {
            "messages": to_plain(run.prompts[pair.chosen.prompt].conversation),
            "accepted": pair.chosen.text,
            "rejected": pair.rejected.text,
            "question": run.prompts[pair.chosen.prompt].name,
            "accepted_model": pair.chosen.model,
            "rejected_model": pair.rejected.model,
            "difference": pair.difference,
            "broken_tie": pair.broken_tie,
        }
        for pair in run.pairs
    ]


def _judged_records(run: JudgedRun) -> list[dict[str, Any]]:
    return [
        {
            "question": run.prompts[item.response.prompt].name,
            "name": item.response.name,
            "model": item.response.model,
            "tokens": item.response.tokens,
            "text": item.response.text,
            "judgements": [asdict(judgement) for judgement in item.judgements],
        }
        for item in run.judged
    ]


def report_lines(run: JudgedRun, settings: JudgeSettings) -> list[str]:
    rule = settings.pairs
    by = "accuracy" if rule.by == "accuracy" else "the mean of accuracy, style and detail"
    margin = f", by at least {rule.margin:g}" if rule.margin else ""
    sampled = f"{run.responses:,} responses ({settings.samples} of each of {len(settings.models)} samplers)"
    lines = [
        "# Judged pairs",
        "",
        f"{len(run.prompts):,} prompts, {sampled}, {len(run.judged):,} of them judged, {len(run.pairs):,} pairs.",
        "",
        f"- Judge: {in_cell(settings.judge)}, {'each response alone' if settings.mode == 'pointwise' else 'every two'}"
        f"{' responses in both orders' if settings.mode == 'pairwise' else ''}, faults before scores.",
        f"- A pair is the higher {by} over the lower{margin}; ties: {rule.ties}; pairs of a prompt: {rule.pick}.",
        f"- Ties broken by `--ties {rule.ties}`: {sum(pair.broken_tie for pair in run.pairs):,} pairs.",
        "",
    ]
    return [*lines, *_sampler_table(run), "", *_bias_lines(run, settings), "", *run.left_out.table(), *_picture(run)]


def _sampler_table(run: JudgedRun) -> list[str]:
    """Means and wins of each sampler."""
    lines = [
        "| sampler | judged | accuracy | style | detail | chosen | rejected |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for model in dict.fromkeys(item.response.model for item in run.judged):
        own = [item for item in run.judged if item.response.model == model]
        means = " | ".join(f"{sum(item.mean(name) for item in own) / len(own):.2f}" for name in SCORES)
        chosen = sum(pair.chosen.model == model for pair in run.pairs)
        rejected = sum(pair.rejected.model == model for pair in run.pairs)
        lines.append(f"| {in_cell(model)} | {len(own):,} | {means} | {chosen:,} | {rejected:,} |")
    return lines


def _bias_lines(run: JudgedRun, settings: JudgeSettings) -> list[str]:
    lengths = [float(len(item.response.text)) for item in run.judged]
    groups = [item.response.prompt for item in run.judged]
    lines = ["## Length", ""]
    for name in ("accuracy", "overall"):
        scores = [item.mean(name) for item in run.judged]
        found = rank_correlation(lengths, scores, groups, seed=settings.seed)
        lines.append(f"- Rank correlation of {name} with the number of characters: {said(found)}.")
    sides = [(len(pair.chosen.text), len(pair.rejected.text)) for pair in run.pairs if not pair.broken_tie]
    longer, shorter = sum(a > b for a, b in sides), sum(a < b for a, b in sides)
    lines += [
        f"- Pairs whose longer side won: {_share(longer, shorter)} (0.5 where length does not matter; ties that were"
        " broken are not counted).",
        "",
        "## Position",
        "",
    ]
    if settings.mode == "pointwise":
        return [*lines, "Every response was judged alone: there is no position. `--mode pairwise` measures it."]
    return [
        *lines,
        f"- Comparisons that the first response won: {_share(run.first_won, run.second_won)} (0.5 where position does"
        f" not matter: both orders were asked). {run.undecided:,} comparisons had no winner.",
        f"- In {run.orders_disagreed:,} pairs the two orders named different winners.",
    ]


def _share(successes: int, failures: int) -> str:
    """Counts and their share."""
    counted = f"{successes:,} of {successes + failures:,}"
    return f"{counted}, a share of {said(share(successes, failures))}" if successes + failures else counted


def _picture(run: JudgedRun) -> list[str]:
    return ["", f"![histogram of accuracy, style and detail]({PICTURE})"] if run.judged else []


def draw_histogram(path: Path, run: JudgedRun) -> None:
    """Counts of every score, the three side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    FigureCanvasAgg(figure)
    values = range(LEAST, MOST + 1)
    for axes, name in zip(figure.subplots(1, len(SCORES), sharey=True), SCORES, strict=True):
        found = [getattr(judgement, name) for item in run.judged for judgement in item.judgements]
        bars = axes.bar(values, [found.count(value) for value in values], color="#4c72b0")
        axes.bar_label(bars)
        axes.set_title(name)
        axes.set_xticks(values)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("judgements")
    figure.savefig(path, dpi=110, metadata={"Software": None})
