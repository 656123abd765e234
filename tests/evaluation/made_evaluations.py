"""Evaluations without a model: items of given difficulty, answered by coins, with problems and hostile texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from megaphi.evaluation.results import Evaluation, GradedResponse, TaskResult

HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\"> | *a* `b`"


def response(item: str, score: float, **fields: Any) -> GradedResponse:
    given = {
        "item": item,
        "repeat": 0,
        "cluster": item,
        "group": "",
        "question": f"What is {item}?",
        "gold": "B",
        "prompt": [{"role": "user", "content": f"What is {item}? Answer with a letter."}],
        "text": f"I think that it is {'B' if score else 'C'}.",
        "tokens": 7,
        "finish": "stop",
        "extracted": "B" if score else "C",
        "scores": {"accuracy": score},
        "problem": "",
        "note": "",
        "details": {},
    }
    return GradedResponse(**(given | fields))


def task(name: str, responses: Sequence[GradedResponse], **fields: Any) -> TaskResult:
    given: dict[str, Any] = {
        "task": name,
        "scores": tuple(responses[0].scores) if responses else ("accuracy",),
        "derived": {},
        "switches": {"first-answer": True},
        "rules": {"temperature": 0.5, "max_tokens": 2048, "repeats": 1},
        "files": ({"path": f"{name}.jsonl", "sha256": "ab" * 32, "rows": len(responses), "use": "items"},),
        "items_in_files": len({one.item for one in responses}),
        "quirks": {"first-answer": 1.25},
        "quirk_intervals": {"first-answer": (-0.5, 3.0)},
        "responses": tuple(responses),
    }
    return TaskResult(**(given | fields))


def evaluation(*tasks: TaskResult, **fields: Any) -> Evaluation:
    given: dict[str, Any] = {
        "model": "runs/sft",
        "identity": {"checkpoint": "runs/sft", "step": 100, "tokens": 5_000},
        "protocol": "phi4-2024-11",
        "judge": "",
        "seed": 1,
        "version": "0.1.0",
        "tasks": {one.task: one for one in tasks},
    }
    return Evaluation(**(given | fields))


def coins(name: str, rates: Sequence[float], *, seed: int, repeats: int = 1, **fields: Any) -> TaskResult:
    """One response to each item and repeat, right with the item's rate."""
    generator = np.random.default_rng(seed)
    found = [
        response(f"q{number:05}", float(generator.random() < rate), repeat=repeat)
        for number, rate in enumerate(rates)
        for repeat in range(repeats)
    ]
    return task(name, found, **fields)


def changed(result: TaskResult, change: Callable[[int, GradedResponse], Mapping[str, Any]]) -> TaskResult:
    """The task with fields of its responses changed, by their number."""
    made = [replace(one, **change(number, one)) for number, one in enumerate(result.responses)]
    return replace(result, responses=tuple(made))
