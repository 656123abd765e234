"""Seeds for the benchmark of synthetic data: pages of Debian packages, and functions of examples/small_model.

The functions come one by one without their docstrings, whose examples become tests, and four at a time as modules.
"""

from __future__ import annotations

import ast
import doctest
import json
import shutil
from pathlib import Path
from typing import Any

from megaphi.files import write_text

PAGES = (
    "python3.11/html/tutorial/appetite",
    "python3.11/html/tutorial/interactive",
    "html/en-US/sect.quotas",
    "html/en-US/sect.asynchronous-task-scheduling-anacron",
)
FUNCTIONS = Path(__file__).parents[1] / "examples" / "small_model" / "functions.py"
IN_A_MODULE = 4


def write_pages(packages: Path, folder: Path) -> Path:
    """The folder with the pages, as HTML."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        (found, *_) = packages.glob(f"**/{name}.html")
        shutil.copy(found, folder)
    return folder


def write_functions(folder: Path) -> Path:
    """The file of JSON lines with functions and modules."""
    nodes = [node for node in ast.parse(FUNCTIONS.read_text()).body if isinstance(node, ast.FunctionDef)]
    tests = [_tests(node) for node in nodes]
    texts = [_without_docstring(node) for node in nodes]
    records = [
        _record(node.name, text, tests={"tests": asserted, "entry_point": node.name})
        for node, text, asserted in zip(nodes, texts, tests, strict=True)
    ]
    for start in range(0, len(texts), IN_A_MODULE):
        records.append(_record(f"module{start // IN_A_MODULE}", "\n\n\n".join(texts[start : start + IN_A_MODULE])))
    write_text(folder / "functions.jsonl", "".join(json.dumps(one) + "\n" for one in records))
    return folder / "functions.jsonl"


def _record(name: str, text: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "source": FUNCTIONS.name, "text": text, "code_language": "python", **more}


def _tests(node: ast.FunctionDef) -> str:
    examples = doctest.DocTestParser().get_examples(ast.get_docstring(node) or "")
    return "\n".join(f"assert {one.source.strip()} == {one.want.strip()}" for one in examples)


def _without_docstring(node: ast.FunctionDef) -> str:
    node.body = node.body[1:]
    return ast.unparse(node)
