"""`megaphi report`: one HTML page about a run, or about several side by side; it loads nothing and runs no script.

Charts go over steps; of several runs over tokens, which they reach at different steps. Events of a run are lines in its
charts that tell their text when pointed at, and a table below. Everything that a file says passes through `markup`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from megaphi.config import leaves
from megaphi.engine.reporting.metric_names import METRICS, metric_of
from megaphi.engine.reporting.step_times import RankTimes, verdict
from megaphi.monitoring.comparison import (
    configuration_difference,
    losses_at_tokens,
    over_tokens,
    short_names,
    token_edges,
)
from megaphi.monitoring.history import History
from megaphi.monitoring.markup import Markup, element, joined, table
from megaphi.monitoring.observed_run import ObservedRun
from megaphi.monitoring.progress import progress_of
from megaphi.monitoring.quantities import duration, quantity
from megaphi.monitoring.sources import source_shares
from megaphi.monitoring.style import STYLE
from megaphi.monitoring.svg_chart import Line, Mark, line_chart

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
PROBLEMS = ("save_failed", "skipped", "rolled_back", "replica_differs", "lost_rank", "straggler", "restarted")
MOST_EVENTS, MOST_RANKS = 500, 16


def page(runs: Sequence[ObservedRun]) -> str:
    """The whole page."""
    names = short_names(runs)
    title = f"{', '.join(names)}: megaphi report"
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    content = [element("h1", ", ".join(names)), element("p", f"megaphi report of {made}", class_="quiet")]
    content += [_summary(name, run) for name, run in zip(names, runs, strict=True)]
    content += _charts(runs, names)
    if len(runs) > 1:
        content += _compared(runs, names)
    for name, run in zip(names, runs, strict=True):
        content += _about(run, name if len(runs) > 1 else "")
    return "<!doctype html>\n" + element("html", head, element("body", *content), lang="en")


def _summary(name: str, run: ObservedRun) -> Markup:
    progress, last = progress_of(run), run.history.last
    facts = {
        "step": f"{progress.step:,} of {progress.steps:,}" if progress.steps else f"{progress.step:,}",
        "tokens": quantity(progress.tokens),
        "loss": _value(last.get("loss")),
        "validation loss": _value(_newest(run.history, "validation_loss")),
        "tokens per second": f"{last['tokens_per_second']:,.0f}" if "tokens_per_second" in last else None,
        "MFU": f"{last['mfu']:.1%}" if "mfu" in last else None,
        "seconds per step": _value(progress.seconds_per_step, digits=3),
        "left": None if progress.seconds_left is None else duration(progress.seconds_left),
    }
    tiles = [
        element("div", element("b", value), element("span", fact)) for fact, value in facts.items() if value is not None
    ]
    state = element("span", progress.state, class_=f"state {progress.state}")
    about = element("p", state, f" {run.field('recipe', '')} {name}: {progress.text}")
    problems = [element("p", problem, class_="warning") for problem in run.problems]
    return element("section", about, element("div", *tiles, class_="tiles"), *problems)


def _value(number: float | None, *, digits: int = 5) -> str | None:
    return None if number is None or not math.isfinite(number) else f"{number:.{digits}g}"


def _newest(history: History, name: str) -> float | None:
    return history[name].values[-1] if len(history[name].values) else None


def _charts(runs: Sequence[ObservedRun], names: Sequence[str]) -> Iterator[Markup]:
    single = len(runs) == 1
    across = "steps" if single else "tokens"
    marks = _event_marks(runs[0]) if single else []

    def lines(metric: str, label: str = "", *, dots: bool = False) -> list[Line]:
        shown = [label] if single else [f"{name} {label}".strip() for name in names]
        points = (over_steps(run.history, metric) if single else over_tokens(run.history, metric) for run in runs)
        return [Line(name=name, points=each, dots=dots) for name, each in zip(shown, points, strict=True)]

    loss = [*lines("loss", "training"), *lines("validation_loss", "validation", dots=True)]
    parts = [line_chart(loss, marks, title="Loss", unit="of the objective", across=across)]
    parts += [
        line_chart(
            [line for name in _sourced(runs) for line in lines(name, name.partition("/")[2], dots=True)],
            marks,
            title="Validation loss by source",
            unit="of the objective",
            across=across,
        )
    ]
    for metric, title, unit in (
        ("tokens_per_second", "Throughput", "tokens per second"),
        ("mfu", "MFU", "share of the dense bf16 peak, causal attention, no recomputation"),
        ("gradient_norm", "Gradient norm", "L2, before clipping"),
        ("learning_rate", "Learning rate", ""),
    ):
        from_zero = metric != "gradient_norm"
        parts.append(line_chart(lines(metric), marks, title=title, unit=unit, across=across, from_zero=from_zero))
    memory = [*lines("host_memory_bytes", "host"), *lines("device_memory_bytes", "device")]
    memory = [Line(name=one.name, points=[(x, y / 1e9) for x, y in one.points]) for one in memory]
    parts.append(line_chart(memory, marks, title="Memory", unit="GB of rank 0, peak", across=across, from_zero=True))
    if single:
        phases = [line for name in runs[0].history.names("seconds/") for line in lines(name, name.partition("/")[2])]
        parts.append(line_chart(phases, marks, title="Phases", unit="seconds of rank 0", across=across, from_zero=True))
    for name in _of_objective(runs):
        parts.append(line_chart(lines(name), marks, title=name, unit="mean of the objective", across=across))
    yield element("div", *parts, class_="charts")


def over_steps(history: History, name: str) -> list[tuple[float, float]]:
    """(step, value) of a metric."""
    return list(zip(history[name].steps, history[name].values, strict=True))


def _sourced(runs: Sequence[ObservedRun]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.history.names("validation_loss/")))


def _of_objective(runs: Sequence[ObservedRun]) -> list[str]:
    """Names that the schema does not have: means of the objective in training."""
    names = dict.fromkeys(name for run in runs for name in run.history.names())
    return [name for name in names if metric_of(name) is None and not name.startswith("validation_")]


def _event_marks(run: ObservedRun) -> list[Mark]:
    return [
        Mark(x=event["step"], text=f"{event['kind']}: {event['text']}", is_problem=_is_problem(event))
        for event in run.events[-MOST_EVENTS:]
    ]


def _is_problem(event: Mapping[str, Any]) -> bool:
    return event["kind"] in PROBLEMS or event.get("failed") is True


def _compared(runs: Sequence[ObservedRun], names: Sequence[str]) -> Iterator[Markup]:
    """Losses at the same tokens, and how the configurations differ from the first run's."""
    edges = token_edges(runs)
    columns = [losses_at_tokens(run.history, edges) for run in runs]
    rows = ([quantity(edge), *(_value(column[row]) for column in columns)] for row, edge in enumerate(edges))
    yield element("h2", "Losses at the same tokens")
    yield table(["mean loss up to", *names], ([cell if cell is not None else "-" for cell in row] for row in rows))
    sources = [[name, *(_value(_newest(run.history, name)) or "-" for run in runs)] for name in _sourced(runs)]
    if sources:
        yield element("h2", "Last validation losses")
        yield table(["", *names], sources)
    for name, run in zip(names[1:], runs[1:], strict=True):
        found = configuration_difference(runs[0], run)
        yield element("h2", f"Fields of {name} that differ from {names[0]}: {len(found)}")
        if found:
            yield table(["field", names[0], name], ([path, _shown(old), _shown(new)] for path, old, new in found))


def _about(run: ObservedRun, name: str) -> Iterator[Markup]:
    """The parts of a run that no chart shows: sources, phases, ranks, events, configuration, versions."""
    of = f" of {name}" if name else ""
    shares = source_shares(run)
    read, planned = sum(one.read for one in shares), sum(one.planned or 0 for one in shares)
    if read:
        yield element("h2", f"Sources{of}, at the last save")
        rows = (
            [
                one.name,
                f"{one.read:,}",
                f"{one.read / read:.2%}",
                f"{one.planned / planned:.2%}" if planned and one.planned is not None else "not known",
                f"{one.epochs:.3f}" if one.epochs is not None else "not known",
            ]
            for one in shares
        )
        yield table(["source", "tokens read", "share read", "share planned", "epochs"], rows)
    if run.ranks:
        yield from _ranks(run.ranks, of)
    if run.events:
        yield element("h2", f"Events{of}")
        yield table(["time", "step", "kind", "text", "facts"], (_event(event) for event in run.events[-MOST_EVENTS:]))
        if len(run.events) > MOST_EVENTS:
            yield element("p", f"and {len(run.events) - MOST_EVENTS:,} earlier ones in events.jsonl")
    versions = run.checkpoint.get("versions")
    if isinstance(versions, Mapping):
        yield element("h2", f"Versions{of}")
        yield table(["package", "version"], versions.items())
    if run.config:
        fields = table(["field", "value"], ([path, _shown(value)] for path, value in leaves(dict(run.config))))
        yield element("h2", f"Configuration{of}")
        yield element("details", element("summary", "all fields"), fields)
    rows = ([metric.name, metric.unit, metric.meaning, metric.when] for metric in METRICS)
    if not name:
        legend = table(["name", "unit", "meaning", "when"], rows)
        yield element("details", element("summary", "names of metrics.jsonl"), legend)


def _ranks(ranks: Mapping[int, RankTimes], of: str) -> Iterator[Markup]:
    slowest = sorted(ranks, key=lambda rank: ranks[rank].own_work, reverse=True)[:MOST_RANKS]
    phases = list(dict.fromkeys(phase for rank in slowest for phase in ranks[rank].seconds))
    rows = (
        [rank, f"{ranks[rank].host}, {ranks[rank].place}"]
        + [f"{1e3 * one:.1f}" for one in (ranks[rank].own_work, *(ranks[rank].seconds.get(name, 0) for name in phases))]
        for rank in slowest
    )
    yield element("h2", f"Milliseconds of a step by rank{of}")
    yield element("p", f"{len(ranks)} ranks, the slowest first; {verdict(ranks)}")
    yield table(["rank", "place", "own work", *phases], rows)


def _event(event: Mapping[str, Any]) -> list[object]:
    facts = {name: value for name, value in event.items() if name not in ("time", "step", "kind", "text")}
    kind = element("span", event["kind"], class_="problem" if _is_problem(event) else None)
    said = joined(element("div", f"{name}: {_shown(value)}") for name, value in facts.items())
    return [event["time"], f"{event['step']:,}", kind, event["text"], said]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
