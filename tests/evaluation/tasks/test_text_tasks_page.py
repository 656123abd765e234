"""docs/evaluation_texts.md: its tables hold what the tasks say of themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from megaphi.evaluation.tasks import find_task

PAGE = Path(__file__).parents[3] / "docs" / "evaluation_texts.md"
NAMES = (
    *("humaneval", "humaneval_plus", "mbpp", "mbpp_base", "drop", "simpleqa", "triviaqa"),
    *("ifeval", "arena_hard"),
)


def rows() -> list[str]:
    """A row for each task, and one for each switch."""
    tasks = [find_task(name) for name in NAMES]
    found = []
    for task in tasks:
        columns = ", ".join(f"`{name}`".replace("|", "` or `") for name in task.columns)
        scores = ", ".join(f"`{name}`" for name in (*task.scores, *task.derived))
        found.append(f"| `{task.name}` | {task.about} | {columns} | {task.shots or ''} | {scores} |")
    switches = {switch.name: switch for task in tasks for switch in task.switches}
    for one in switches.values():
        of = ", ".join(f"`{task.name}`" for task in tasks if one in task.switches)
        found.append(f"| `{one.name}` | {of} | {one.on} | {one.off} |")
    return found


def test_the_tables_hold_every_task_and_every_switch() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert [row for row in rows() if row not in lines] == []
    assert len([line for line in lines if line.startswith("| `")]) == len(rows())


def test_the_program_that_joins_answers_makes_records_of_arena_hard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    question = {"question_id": "q", "category": "c", "cluster": "g", "turns": [{"content": "Name a prime."}]}
    answer = {"question_id": "q", "model_id": "gpt-4-0314", "choices": [{"index": 0, "turns": [{"content": "Seven."}]}]}
    Path("question.jsonl").write_text(json.dumps(question) + "\n")
    Path("gpt-4-0314.jsonl").write_text(json.dumps(answer) + "\n")
    exec(program, {})
    item = find_task("arena_hard").read(json.loads(Path("arena_hard.jsonl").read_text()))
    assert (item.name, item.question, item.key) == ("q", "Name a prime.", "Seven.")
