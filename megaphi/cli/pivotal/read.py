"""Show pivotal tokens and resampled sentences that other programs found, with intervals where counts are there.

Reads the JSON lines of codelion/pts (tokens, sentences, latent events, all schemas), and folders in the shape of the
math-rollouts dataset, whose sentences it turns into events with --events and into labels for a process reward model
with --values.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.pivotal.interchange.math_rollouts import ResampledTrace
    from megaphi.pivotal.interchange.pts_events import PivotalEvent

HELP = "pivotal tokens of codelion/pts, and resampled traces in the shape of math-rollouts"
EXAMPLE = """examples:
  megaphi pivotal read pivotal_tokens.jsonl --most 20
  megaphi pivotal read math_rollouts/deepseek-r1-distill-qwen-14b/temperature_0.6_top_p_0.95/correct_base_solution
  megaphi pivotal read correct_base_solution --values values.jsonl --events events.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=user_path, metavar="PATH", help="a file of events, or a folder of problems")
    parser.add_argument("--most", type=int, default=10, metavar="N", help="show the N largest effects (default 10)")
    parser.add_argument("--events", type=user_path, metavar="FILE", help="write sentences as events of codelion/pts")
    parser.add_argument("--values", type=user_path, metavar="FILE", help="write prefixes with (n, successes)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.most < 0:
        raise InputError(f"--most {arguments.most}: must not be negative")
    if Path(arguments.path).is_dir():
        return _show_traces(arguments)
    for option in ("events", "values"):
        if getattr(arguments, option) is not None:
            raise InputError(f"--{option} is for a folder of resampled traces; {arguments.path} is a file of events")
    from megaphi.pivotal.interchange.pts_events import read_events

    for line in lines_of_events(read_events(arguments.path), most=arguments.most):
        print(line)
    return 0


def lines_of_events(events: Sequence[PivotalEvent], *, most: int) -> Iterator[str]:
    """Lines with the number of each kind, and the events with the largest effects."""
    kinds = list(dict.fromkeys(event.kind for event in events))
    yield f"{len(events):,} events" + "".join(f", {sum(e.kind == kind for e in events):,} {kind}" for kind in kinds)
    measured = [(event, event.effect) for event in events if event.effect is not None]
    measured.sort(key=lambda item: -abs(item[1]))
    for event, effect in measured[:most]:
        yield f"{effect:+.2f} to {event.after:.2f}  {event.label!r} after {event.context[-60:]!r}"


def _show_traces(arguments: argparse.Namespace) -> int:
    from megaphi.pivotal.interchange.math_rollouts import read_resampled, sentence_events, value_records
    from megaphi.pivotal.interchange.pts_events import write_events
    from megaphi.pivotal.results import write_lines

    traces = read_resampled(arguments.path)
    for line in lines_of_traces(traces, most=arguments.most):
        print(line)
    if arguments.events is not None:
        write_events(sentence_events(traces), arguments.events)
    if arguments.values is not None:
        write_lines(arguments.values, value_records(traces))
    return 0


def lines_of_traces(traces: Sequence[ResampledTrace], *, most: int) -> Iterator[str]:
    """Lines with the numbers of traces and rollouts, and the sentences with the largest effects."""
    sentences = [(trace, sentence) for trace in traces for sentence in trace.sentences]
    rollouts = sum(sentence.before.n for _, sentence in sentences)
    right = sum(trace.success for trace in traces)
    yield f"{len(traces):,} traces ({right:,} right), {len(sentences):,} sentences, {rollouts:,} rollouts"
    measured = [(trace, sentence, sentence.effect) for trace, sentence in sentences if sentence.effect is not None]
    measured.sort(key=lambda item: -abs(item[2].estimate))
    for trace, sentence, effect in measured[:most]:
        yield (
            f"{effect.estimate:+.2f} ({effect.low:+.2f} to {effect.high:+.2f})  {trace.problem}, "
            f"sentence {sentence.number}: {sentence.text.strip()[:80]!r}"
        )
