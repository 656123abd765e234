"""The questions that ship: form, points, ids, references that keep the rules of form, and code that does what is said.

Every program of a `verification` runs and prints what the file says: the bug is there, the reference cures it, the
counterexample is one. Python, C, C++ and SQL run in the sandbox; Rust and JavaScript where their compilers are.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megaphi.evaluation.data_files import read_items, read_manifest
from megaphi.evaluation.task import Item
from megaphi.evaluation.tasks import find_task
from megaphi.evaluation.tasks.guided.guides import Guide
from megaphi.grading.code_sandbox.sandbox import CodeSandbox
from megaphi.grading.question import CodeTests
from tests.grading.code_sandbox.machine import needs_isolation

FOLDER = Path(__file__).parents[4] / "examples" / "guided_questions"
SKILLS = {
    "debugging_code": "debugging code",
    "extending_code": "extending code",
    "explaining_code": "explaining code",
    "proof_errors": "finding the error in a proof",
    "related_problems": "writing related problems",
    "exact_formats": "writing under exact format rules",
}
RECORDS: dict[str, list[dict[str, Any]]] = {
    path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(FOLDER.glob("*.jsonl"))
}
ALL = [record for records in RECORDS.values() for record in records]
IN_SANDBOX = {"python": "python", "sql": "python", "c": "c", "cpp": "c++"}
COMPILERS = {"rust": "rustc", "javascript": "node"}
SQL = """\
import sqlite3
connection = sqlite3.connect(":memory:")
connection.executescript({setup!r})
for row in connection.execute({query!r}):
    print("|".join(map(str, row)))
"""


def item_of(record: dict[str, Any]) -> Item:
    return find_task("guided").read(record)


def runs_in(languages: set[str]) -> list[tuple[str, str, str, str]]:
    """(id, language, program, what it prints) of every run in these languages."""
    found = []
    for record in ALL:
        verified = record.get("verification")
        if verified is None or verified["language"] not in languages:
            continue
        for run in verified["runs"]:
            source = verified[run["of"]] if run["of"] else ""
            if verified["language"] == "sql":
                program = SQL.format(setup=run["driver"], query=source)
            else:
                program = "\n".join(part for part in (source, run["driver"]) if part) + "\n"
            found.append((record["id"], verified["language"], program, run["prints"]))
    return found


def test_there_are_forty_questions_over_six_skills() -> None:
    assert set(RECORDS) == set(SKILLS)
    assert len(ALL) >= 40
    assert all(record["skill"] == SKILLS[name] for name, records in RECORDS.items() for record in records)
    assert all(len(records) >= 7 for records in RECORDS.values())
    assert len({record["id"] for record in ALL}) == len({record["question"] for record in ALL}) == len(ALL)
    assert Counter(record["level"] for record in ALL).keys() == {"easy", "medium", "hard"}
    assert {record["language"] for record in ALL} >= {"python", "cpp", "c", "sql", "rust", "javascript"}


def test_the_manifest_is_of_these_files() -> None:
    task = find_task("guided")
    found = read_items(task, read_manifest(FOLDER / "manifest.json")["guided"])
    assert sorted(item.name for item in found.items) == sorted(record["id"] for record in ALL)


@pytest.mark.parametrize("record", ALL, ids=lambda record: record["id"])
def test_a_question_is_complete(record: dict[str, Any]) -> None:
    fields = {"id", "skill", "language", "level", "question", "guide", "reference"}
    assert fields <= set(record) <= fields | {"verification"}
    guide = item_of(record).key
    assert isinstance(guide, Guide)
    assert sum(one.points for one in guide.criteria) == 10
    assert len(guide.criteria) >= 3
    assert guide.points_by_check(guide.reference) == [one.points for one in guide.checked]
    for criterion in guide.judged:
        assert f"{criterion.points}:" in criterion.earns or " for each" in criterion.earns or "1: " in criterion.earns
    if record["skill"].endswith("format rules"):
        assert len(guide.checked) >= 2
        assert guide.points_by_check("I would rather not.\nSorry; here is something else, 1.") != [
            one.points for one in guide.checked
        ]


@pytest.mark.parametrize("record", [one for one in ALL if one.get("verification")], ids=lambda record: record["id"])
def test_what_is_run_stands_in_the_question_and_the_reference(record: dict[str, Any]) -> None:
    verified = record["verification"]
    assert verified.get("code", "") in record["question"]
    assert verified.get("fixed", "") in record["reference"]
    if record["skill"] in ("debugging code", "extending code"):
        assert {run["of"] for run in verified["runs"]} == {"code", "fixed"}
    if record["skill"] == "explaining code":
        assert {run["of"] for run in verified["runs"]} == {"code"}


@needs_isolation
def test_programs_print_what_the_questions_say() -> None:
    runs = runs_in(set(IN_SANDBOX))
    assert len(runs) > 35
    tests = [
        CodeTests(language=IN_SANDBOX[language], tests=json.dumps([{"stdin": "", "stdout": prints}]))
        for _, language, _, prints in runs
    ]
    with CodeSandbox(workers=2, languages=sorted(set(IN_SANDBOX.values()))) as sandbox:
        verdicts = sandbox.grade([(test, program) for test, (_, _, program, _) in zip(tests, runs, strict=True)])
    wrong = [
        (name, verdict.reason) for (name, *_), verdict in zip(runs, verdicts, strict=True) if verdict.outcome != "right"
    ]
    assert wrong == []


@pytest.mark.parametrize("language", COMPILERS)
def test_programs_of_other_languages_print_what_the_questions_say(language: str, tmp_path: Path) -> None:
    if shutil.which(COMPILERS[language]) is None:
        pytest.skip(f"{COMPILERS[language]} is not installed")
    for number, (name, _, program, prints) in enumerate(runs_in({language})):
        source = tmp_path / f"program{number}.{'rs' if language == 'rust' else 'js'}"
        source.write_text(program)
        command = [COMPILERS["javascript"], str(source)]
        if language == "rust":
            command = [str(source.with_suffix(""))]
            subprocess.run(["rustc", "-o", *command, str(source)], check=True, capture_output=True, timeout=60)
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
        assert (name, done.stdout) == (name, prints)
