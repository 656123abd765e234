"""Resampled reasoning traces in the shape of the `math-rollouts` dataset (Bogdan et al. 2025, "Thought Anchors").

A folder for each problem: `problem.json`, `base_solution.json` (the trace), `chunks.json` or `chunks_labeled.json` (its
sentences), and `chunk_<i>/solutions.json`: rollouts from the prefix before sentence i, each with `is_correct`. So the
rollouts of sentence i estimate the success probability before it, those of sentence i + 1 the one after it, and their
difference is what the sentence changed. A rollout without a readable answer (`is_correct` null) is censored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.files import read_json, read_object
from megaphi.pivotal.interchange.pts_events import PivotalEvent, sentence_event
from megaphi.pivotal.methods.findings import Band, Counts
from megaphi.pivotal.methods.statistics.intervals import linear_difference, middle, wilson


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceEffect:
    """One sentence of a trace."""

    number: int
    text: str
    before: Counts
    """Rollouts from the prefix that ends before it."""
    after: Counts | None
    """Rollouts from the prefix that ends with it; None where nobody resampled the next sentence."""
    effect: Band | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResampledTrace:
    """A trace with the outcomes of rollouts from each of its sentences."""

    problem: str
    """Name of the folder."""
    question: str
    success: bool
    sentences: tuple[SentenceEffect, ...]
    fields: Mapping[str, Any]
    """All of problem.json: level, type, ground truth."""

    def prefix(self, number: int) -> str:
        """The text before sentence `number`."""
        return "".join(sentence.text for sentence in self.sentences[:number])


def read_resampled(folder: str | os.PathLike[str], *, confidence: float = 0.95) -> list[ResampledTrace]:
    """Every problem in a folder, or the one that the folder is. Raises InputError naming file and field."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}")
    problems = [root] if (root / "base_solution.json").is_file() else sorted(_problems(root), key=_number)
    if not problems:
        raise InputError(f"{root} holds no folder with a base_solution.json: expected problem_<number> folders")
    return [_trace(problem, confidence) for problem in problems]


def _problems(root: Path) -> list[Path]:
    return [path.parent for path in root.glob("*/base_solution.json")]


def _number(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.name)
    return (int(digits[-1]) if digits else 0, path.name)


def _trace(folder: Path, confidence: float) -> ResampledTrace:
    base = read_object(folder / "base_solution.json", what="base solution")
    success = base.get("is_correct")
    if not isinstance(success, bool):
        raise InputError(f"{folder / 'base_solution.json'}: is_correct={success!r}: expected true or false")
    texts = _sentences(folder)
    counts = [_counts(folder / f"chunk_{number}" / "solutions.json") for number in range(len(texts))]
    problem_file = folder / "problem.json"
    fields = read_object(problem_file, what="problem") if problem_file.is_file() else {}
    return ResampledTrace(
        problem=folder.name,
        question=str(fields.get("problem", "")),
        success=success,
        sentences=tuple(_effect(number, texts, counts, success, confidence) for number in range(len(texts))),
        fields=fields,
    )


def _sentences(folder: Path) -> list[str]:
    """Texts of the sentences: of chunks.json if it is there, else of chunks_labeled.json."""
    plain, labelled = folder / "chunks.json", folder / "chunks_labeled.json"
    if plain.is_file():
        texts = read_object(plain, what="sentences").get("chunks")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{plain}: chunks: expected a list of texts")
        return texts
    found = read_json(labelled, what="sentences")
    if not isinstance(found, list):
        raise InputError(f"{labelled}: expected a list of sentences")
    texts = []
    for number, item in enumerate(found):
        text = item.get("chunk") if isinstance(item, dict) else None
        if not isinstance(text, str):
            raise InputError(f"{labelled}: sentence {number}: chunk={text!r}: expected a text")
        texts.append(text)
    return texts


def _counts(path: Path) -> Counts | None:
    """Outcomes of the rollouts from before one sentence; None where there are none."""
    if not path.is_file():
        return None
    rollouts = read_json(path, what="rollouts")
    if not isinstance(rollouts, list):
        raise InputError(f"{path}: expected a list of rollouts")
    outcomes = []
    for number, rollout in enumerate(rollouts):
        if isinstance(rollout, dict) and "error" in rollout:  # a request that failed made no rollout
            continue
        outcome = rollout.get("is_correct", 0) if isinstance(rollout, dict) else 0
        if not (outcome is None or isinstance(outcome, bool)):
            raise InputError(f"{path}: rollout {number}: is_correct={outcome!r}: expected true, false or null")
        outcomes.append(outcome)
    return Counts(outcomes.count(True), outcomes.count(False), outcomes.count(None))


def _effect(
    number: int, texts: Sequence[str], counts: Sequence[Counts | None], success: bool, confidence: float
) -> SentenceEffect:
    before = counts[number] or Counts()
    is_last = number == len(texts) - 1
    # Nothing follows the last sentence: the outcome of the trace itself is known.
    after = Counts(int(success), int(not success)) if is_last else counts[number + 1]
    effect = None
    if before.n and after is not None and after.n:
        known = Band(float(success), float(success), float(success)) if is_last else wilson(after, confidence)
        effect = linear_difference(scale=1.0, known=0.0, weight=1.0, first=known, second=wilson(before, confidence))
    return SentenceEffect(number=number, text=texts[number], before=before, after=after, effect=effect)


def sentence_events(traces: Sequence[ResampledTrace]) -> Iterator[PivotalEvent]:
    """Sentences whose effect was estimated, as events of codelion/pts."""
    for trace in traces:
        for sentence in trace.sentences:
            if sentence.effect is None:
                continue
            before = middle(sentence.before)
            yield sentence_event(
                query=trace.question,
                context=trace.prefix(sentence.number),
                label=sentence.text,
                position=sentence.number,
                before=before,
                after=min(1.0, max(0.0, before + sentence.effect.estimate)),  # rounding
                question=trace.problem,
                details={"interval": [sentence.effect.low, sentence.effect.high]},
            )


def value_records(traces: Sequence[ResampledTrace]) -> Iterator[dict[str, Any]]:
    """Prefixes with the outcomes of rollouts from them: labels for a process reward model."""
    for trace in traces:
        for sentence in trace.sentences:
            counts = sentence.before
            if counts.n:
                yield {
                    "question": trace.problem,
                    "prompt": trace.question,
                    "prefix": trace.prefix(sentence.number),
                    "n": counts.successes + counts.failures,
                    "successes": counts.successes,
                    "censored": counts.censored,
                }
