"""The plan of an evaluation: tasks with their items and switches, checked before any model is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megaphi.errors import InputError, did_you_mean
from megaphi.evaluation.data_files import TaskFiles, TaskItems, read_items, read_manifest
from megaphi.evaluation.task import Asked, Continue, EvaluationTask, GeneratedTask, Item, switches_on
from megaphi.evaluation.tasks import find_task
from megaphi.tokenizer.interface import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTask:
    """A task, and all that is known of it before a model is there."""

    task: EvaluationTask
    on: frozenset[str]
    """Names of the switches that are on."""
    files: TaskFiles
    data: TaskItems

    @property
    def asks_judge(self) -> bool:
        """True if a judge grades it, or would with one switch of grading turned, as the ledger of quirks does."""
        return bool(self.task.judge_requests(self.on) or self.judge_requests_of_ledger)

    @property
    def judge_requests_of_ledger(self) -> int:
        """Requests to a judge about one response, at most, in all gradings with one switch turned."""
        graded = [switch.name for switch in self.task.switches if switch.changes == "grading"]
        return sum(self.task.judge_requests(self.on ^ {name}) for name in graded)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationPlan:
    """Tasks in the order in which they were named."""

    tasks: tuple[PlannedTask, ...]
    protocol: str
    limit: int | None
    lengths: tuple[int, ...]
    max_tokens: int | None
    """Tokens of an answer at most, where a task would let it have more."""
    seed: int

    def asked_of(self, planned: PlannedTask, items: Sequence[Item]) -> list[Asked]:
        """The request to a model about each item. Raises InputError that names the item."""
        found = []
        for item in items:
            try:
                asked = planned.task.ask(item, planned.data.shots, planned.on)
            except InputError as error:
                raise InputError(f"task {planned.task.name}, item {item.name}: {error}") from None
            if self.max_tokens is not None and isinstance(asked, Continue):
                most = min(self.max_tokens, asked.rules.max_tokens)
                asked = replace(asked, rules=replace(asked.rules, max_tokens=most))
            found.append(asked)
        return found

    def items_of(self, planned: PlannedTask, tokenizer: Tokenizer) -> list[Item]:
        """The items to ask: those of the files, or made to fill contexts of the evaluated model's tokens."""
        task, data = planned.task, planned.data
        if not isinstance(task, GeneratedTask):
            return data.items[: self.limit]
        count = self.limit or task.items_wanted
        return [
            item
            for tokens in self.lengths
            for item in task.generate(
                data.items, data.shots, tokens=tokens, count=count, seed=self.seed, tokenizer=tokenizer
            )
        ]


def make_plan(
    names: Sequence[str],
    *,
    data: Path | None,
    protocol: str,
    switches: Mapping[str, bool],
    wording: Mapping[str, Any],
    limit: int | None,
    lengths: tuple[int, ...],
    max_tokens: int | None,
    has_judge: bool,
    seed: int,
) -> EvaluationPlan:
    """Read and check everything that needs no model.

    Raises:
        InputError: a task, switch or wording that is none; a task whose files the manifest lacks, or whose files are
            wrong; a task that needs a judge, and there is none.
    """
    for name, value in (("limit", limit), ("max-tokens", max_tokens)):
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: must be at least 1")
    if len(set(names)) < len(names):
        raise InputError(f"--tasks {','.join(names)}: a task is named twice")
    tasks = _reworded([find_task(name) for name in names], wording)
    known = {switch.name for task in tasks for switch in task.switches}
    for name in switches:
        if name not in known:
            raise InputError(f"--switch {name}: no task named has it.{did_you_mean(name, sorted(known))}")
    manifest = read_manifest(data) if data is not None else {}
    planned = []
    for task in tasks:
        on = switches_on(task, protocol, switches)
        if task.judge_requests(on) and not has_judge:
            raise InputError(f"task {task.name} is graded by a judge under these switches: name one with --judge")
        files = _files_of(task, manifest, data)
        items = read_items(task, files) if files.items else TaskItems([], [])
        planned.append(PlannedTask(task=task, on=on, files=files, data=items))
    return EvaluationPlan(
        tasks=tuple(planned), protocol=protocol, limit=limit, lengths=lengths, max_tokens=max_tokens, seed=seed
    )


def _files_of(task: EvaluationTask, manifest: Mapping[str, TaskFiles], place: Path | None) -> TaskFiles:
    if task.name in manifest:
        return manifest[task.name]
    if isinstance(task, GeneratedTask) and not task.columns:
        return TaskFiles()
    if place is None:
        raise InputError(f"task {task.name} needs data: name a manifest with --manifest (see --write-manifest)")
    raise InputError(f"{place} has no files for task {task.name}.{did_you_mean(task.name, list(manifest))}")


def _reworded(tasks: Sequence[EvaluationTask], wording: Mapping[str, Any]) -> list[EvaluationTask]:
    """The tasks with templates of the user's. Raises InputError for one that a task does not have."""
    names = {task.name for task in tasks}
    for name, templates in wording.items():
        if name not in names:
            raise InputError(
                f"--wording: {name!r} is none of the tasks to evaluate.{did_you_mean(name, sorted(names))}"
            )
        if not isinstance(templates, Mapping) or not all(isinstance(text, str) for text in templates.values()):
            raise InputError(f"--wording: {name!r} must be an object of texts")
    found = []
    for task in tasks:
        given = wording.get(task.name, {})
        known: Mapping[str, str] = getattr(task, "wording", {})
        for template in given:
            if template not in known:
                hint = did_you_mean(template, list(known))
                raise InputError(f"--wording: task {task.name} has no template {template!r}.{hint}")
        changed: Any = task
        found.append(replace(changed, wording={**known, **given}) if given else task)
    return found
