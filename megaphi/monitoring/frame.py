"""One frame of `megaphi watch`: everything about a run that fits into a terminal, as lines of text.

Names and texts of the run are a stranger's: each line is made visible and cut to the width, so that nothing in a file
can move the cursor or pass for a line of ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from megaphi.engine.reporting.step_times import verdict
from megaphi.foreign.visible_text import one_line
from megaphi.monitoring.history import History
from megaphi.monitoring.observed_run import ObservedRun
from megaphi.monitoring.progress import Progress, progress_of
from megaphi.monitoring.quantities import duration, quantity
from megaphi.monitoring.sources import source_shares
from megaphi.monitoring.text_chart import line_chart

LEAST_WIDTH, CHART_HEIGHT = 40, 8
SMOOTHED = 20
"""Steps of the mean that is shown beside the last loss."""
MOST_EVENTS, MOST_SOURCES = 6, 8


def frame(run: ObservedRun, *, width: int, now: float | None = None, unicode: bool = True) -> list[str]:
    """The lines of a frame at `now`, in seconds since 1970."""
    progress = progress_of(run, now=now)
    width = max(width, LEAST_WIDTH)
    lines = [
        f"{run.field('recipe', 'run')}   {run.folder}",
        progress.text,
        *_progress(progress, width=width, unicode=unicode),
        *_losses(run.history, width=width, unicode=unicode),
        *_speed(run.history, progress),
        *_phases(run),
        *_checkpoint(run),
        *_sources(run),
        *_events(run),
        *run.problems,
    ]
    return [one_line(line)[:width] for line in lines]


def _progress(progress: Progress, *, width: int, unicode: bool) -> Iterator[str]:
    if not progress.step:
        yield "no step has been taken yet"
        return
    full, empty = "█░" if unicode else "#."
    if progress.steps:
        length = max(10, min(40, width - 50))
        done = math.floor(progress.share * length)
        yield (
            f"step {progress.step:,} of {progress.steps:,}  {full * done}{empty * (length - done)} "
            f"{math.floor(100 * progress.share)} %   {quantity(progress.tokens)} tokens"
        )
    else:
        yield f"step {progress.step:,}   {quantity(progress.tokens)} tokens"
    left, silent = progress.seconds_left, progress.silent_seconds
    said = [f"{duration(left)} left"] if left is not None else []
    if progress.seconds_per_step is not None:
        said.append(f"{progress.seconds_per_step:.3g} s a step with everything")
    if silent is not None:
        said.append(f"last record {duration(silent)} ago")
    yield ", ".join(said)


def _losses(history: History, *, width: int, unicode: bool) -> Iterator[str]:
    losses, validated = history["loss"], history["validation_loss"]
    if not losses.steps:
        return
    recent = losses.last(SMOOTHED)
    text = f"loss {losses.values[-1]:.4f}"
    if len(recent) > 1:
        text += f" (mean of {len(recent)}: {math.fsum(recent) / len(recent):.4f})"
    if validated.steps:
        text += f"   validation {validated.values[-1]:.4f} at step {validated.steps[-1]:,}"
    yield ""
    yield f"{text}   gradient norm {history.last.get('gradient_norm', math.nan):.3g}   rate {_rate(history)}"
    points = list(zip(losses.steps, losses.values, strict=True))
    marks = list(zip(validated.steps, validated.values, strict=True))
    yield from line_chart(points, marks, width=width, height=CHART_HEIGHT, braille=unicode)
    by_source = history.names("validation_loss/")
    if by_source:
        yield "validation: " + ", ".join(
            f"{name.partition('/')[2]} {history[name].values[-1]:.4f}" for name in by_source if history[name].steps
        )
    yield ""


def _rate(history: History) -> str:
    return f"{history.last.get('learning_rate', math.nan):.3g}"


def _speed(history: History, progress: Progress) -> Iterator[str]:
    last = history.last
    if "tokens_per_second" not in last:
        return
    text = f"speed      {last['tokens_per_second']:,.0f} tokens/s"
    if "tokens_per_second_per_device" in last:
        text += f" ({last['tokens_per_second_per_device']:,.0f} per device)"
    text += f"   MFU {last['mfu']:.1%}" if "mfu" in last else f"   {last.get('teraflops_per_device', 0):.3g} TFLOP/s"
    memory = [
        f"{quantity(last[name], binary=True)} {where}"
        for name, where in (("host_memory_bytes", "host"), ("device_memory_bytes", "device"))
        if name in last
    ]
    yield text + (f"   memory {', '.join(memory)}" if memory else "")


def _phases(run: ObservedRun) -> Iterator[str]:
    """Phases of rank 0, and which rank is slow."""
    history = run.history
    names = history.names("seconds/")
    recent = {name.partition("/")[2]: math.fsum(history[name].values[-SMOOTHED:]) for name in names}
    total = math.fsum(recent.values())
    if total > 0:
        largest = sorted(recent, key=recent.__getitem__, reverse=True)
        yield "phases     " + ", ".join(f"{name} {recent[name] / total:.1%}" for name in largest)
    if len(run.ranks) > 1:
        yield f"ranks      {len(run.ranks)}; {verdict(run.ranks)}"


def _checkpoint(run: ObservedRun) -> Iterator[str]:
    step = run.checkpoint.get("step")
    if isinstance(step, int):
        failures = int(run.history.last.get("checkpoint_failures", 0))
        failed = f"; {failures} saves have failed" if failures else ""
        yield f"checkpoint step {step:,}, {max(0, run.history.step - step):,} steps ago{failed}"
    else:
        yield "checkpoint none yet"


def _sources(run: ObservedRun) -> Iterator[str]:
    shares = source_shares(run)
    read, planned = (sum(getattr(one, name) or 0 for one in shares) for name in ("read", "planned"))
    if len(shares) < 2 or not read:
        return
    for place, one in enumerate(sorted(shares, key=lambda one: one.read, reverse=True)[:MOST_SOURCES]):
        text = f"{'' if place else 'sources':<10} {one.name:<20.20} {one.read / read:6.1%}"
        text += f" (planned {one.planned / planned:.1%})" if one.planned is not None and planned else ""
        yield text + f" {quantity(one.read):>9} tokens" + (f", {one.epochs:.2f} epochs" if one.epochs else "")
    if len(shares) > MOST_SOURCES:
        yield f"{'':<10} and {len(shares) - MOST_SOURCES} more"


def _events(run: ObservedRun) -> Iterator[str]:
    for place, event in enumerate(run.events[-MOST_EVENTS:]):
        at = event["time"].replace("T", " ")[:19]
        yield f"{'' if place else 'events':<10} {at}  step {event['step']:,}  {event['kind']}: {event['text']}"
