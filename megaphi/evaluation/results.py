"""Results of an evaluation: a folder with `results.json` and, for each task, `TASK.jsonl` with every graded response.

`results.json` says all that is needed to make it again: the model's identity, the protocol, each switch, the rules of
sampling, the files with their hashes, the version of megaphi. Statistics and pictures are made from these files alone,
so that two folders can be compared long after the models are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from megaphi.evaluation.task import Problem

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class GradedResponse:
    """A line of `TASK.jsonl`."""

    item: str
    repeat: int
    cluster: str
    """Never empty here: the item's own name where it stands alone."""
    group: str
    question: str
    gold: str
    prompt: Any
    """Plain messages, a text, or {"context", "continuations"}."""
    text: str
    """The response; of scored continuations, the one that was chosen."""
    tokens: int
    finish: str
    """As in `Answer.finish`, or `refused`."""
    extracted: str
    scores: Mapping[str, float]
    problem: Problem
    note: str
    details: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """A task in `results.json`, with its graded responses."""

    task: str
    scores: tuple[str, ...]
    """Names of the scores; the first is the one that tables show."""
    derived: Mapping[str, float]
    """Figures that are functions of the means, such as an F1."""
    switches: Mapping[str, bool]
    rules: Mapping[str, Any]
    """Sampling rules, repeats, shots; {} for log-likelihoods."""
    files: tuple[Mapping[str, Any], ...]
    """Path, SHA-256, rows of each data file, and what it was used for (`items`, `shots`)."""
    items_in_files: int
    """Items that the files hold; fewer were asked with `--limit`."""
    quirks: Mapping[str, float]
    """Name of each switch of grading to the headline score with it on minus with it off, in points of 100, everything
    else as it was, on these responses."""
    quirk_intervals: Mapping[str, tuple[float, float]]
    """95 % interval of each of `quirks`, paired by item and clustered; {} in results that were written without."""
    responses: tuple[GradedResponse, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All that one run of `megaphi evaluate` found."""

    model: str
    """As named on the command line."""
    identity: Mapping[str, Any]
    """Facts that tell these weights and their tokenizer from all others; `step` and `tokens` of a checkpoint."""
    protocol: str
    judge: str
    """"" if there was none."""
    seed: int
    version: str
    """Version of megaphi, with the commit where it is known."""
    tasks: Mapping[str, TaskResult]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The command line, as given."""
