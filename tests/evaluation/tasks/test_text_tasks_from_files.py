"""From files to results: records in JSON lines and Parquet, a manifest, prompts, canned answers, grades, quirks.

Of two items one is answered rightly and one wrongly, so that each headline score is a half.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from megaphi.conversation import Conversation
from megaphi.evaluation.data_files import make_manifest, read_items, read_manifest
from megaphi.evaluation.plan import make_plan
from megaphi.evaluation.result_files import read_evaluation, write_evaluation
from megaphi.evaluation.results import Evaluation
from megaphi.evaluation.run import AnsweredTask, result_of
from megaphi.evaluation.task import PHI4, Continue, GradingTools, TaskResponse, switches_on
from megaphi.evaluation.tasks import find_task
from megaphi.grading.grader import Grader
from megaphi.sampling import Sampling
from tests.evaluation.tasks.program_formats import FUNCTION, RECORD, WRONG, block
from tests.evaluation.tasks.sentence_data import sentence_data
from tests.evaluation.tasks.test_text_tasks_page import NAMES
from tests.grading.code_sandbox.machine import needs_isolation

pytestmark = pytest.mark.slow
EMPTY_DATE = {"day": "", "month": "", "year": ""}


def passage(name: str, number: str) -> dict[str, Any]:
    answer = {"number": number, "date": EMPTY_DATE, "spans": []}
    others = {"number": [number], "date": [EMPTY_DATE], "spans": [[]]}
    text = {"section_id": f"nfl_{name}", "query_id": name, "passage": f"Passage {name}.", "question": f"Why {name}?"}
    return {**text, "answer": answer, "validated_answers": others}


def trivia(name: str) -> dict[str, Any]:
    answer = {"value": name, "aliases": [name], "normalized_aliases": [name.lower()]}
    return {"question": f"Who is {name}?", "question_id": name, "answer": answer}


def sums(number: int) -> dict[str, Any]:
    code = f"def add{number}(x):\n    return x + {number}"
    tests = [f"assert add{number}({one}) == {one + number}" for one in range(3)]
    text = {"task_id": number, "text": f"Add {number}.", "code": code, "test_list": tests}
    return {**text, "test_setup_code": "", "challenge_test_list": []}


def fact(name: str) -> dict[str, Any]:
    return {"metadata": "{'topic': 'Art'}", "problem": f"Who is {name}?", "answer": name}


def arena(name: str) -> dict[str, Any]:
    return {
        "question_id": name,
        "category": "c",
        "cluster": "g",
        "turns": [{"content": f"Do {name}."}],
        "baseline": "No.",
    }


def instructed(key: int) -> dict[str, Any]:
    names = ["punctuation:no_comma", "detectable_format:number_bullet_lists"]
    return {"key": key, "prompt": f"List {key}.", "instruction_id_list": names, "kwargs": [{}, {"num_bullets": 1}]}


SETS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], tuple[str, str]]] = {
    "humaneval": ([RECORD, {**RECORD, "task_id": "Test/1"}], [], (block(FUNCTION), block(WRONG))),
    "humaneval_plus": ([RECORD, {**RECORD, "task_id": "Test/1"}], [], (block(FUNCTION), block(WRONG))),
    "mbpp": ([sums(5), sums(6)], [], (block(str(sums(5)["code"]) + "\n"), "no")),
    "mbpp_base": ([sums(5), sums(6)], [sums(1), sums(2), sums(3)], (str(sums(5)["code"]) + "\n", "no")),
    "drop": (
        [passage("a", "5"), passage("b", "6")],
        [passage(f"s{n}", "1") for n in range(4)],
        ("Answer: 5", "Answer: 5"),
    ),
    "simpleqa": ([fact("Miro"), fact("Klee")], [], ("It is right.", "It is wrong.")),
    "triviaqa": ([trivia("Miro"), trivia("Klee")], [trivia("Marc")], (" Miro", " Miro")),
    "arena_hard": ([arena("this"), arena("that")], [], ("It is right.", "It is wrong.")),
    "ifeval": ([instructed(1), instructed(2)], [], ("* one", "one, two")),
}
WITH_PROGRAMS = ("humaneval", "humaneval_plus", "mbpp", "mbpp_base")
EACH = [pytest.param(name, marks=needs_isolation) if name in WITH_PROGRAMS else name for name in SETS]


@pytest.fixture(scope="module", autouse=True)
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    pytest.importorskip("lm_eval", reason="the extra megaphi[eval] is not installed")
    with sentence_data(tmp_path_factory.mktemp("nltk")):
        yield


@dataclass(slots=True)
class Judge:
    """Finds right what says so, wherever it stands."""

    name: str = "judge"

    def answers(self, prompts: Sequence[Conversation], rules: Sampling) -> list[str | None]:
        return [self._answer(prompt.messages[-1].content) for prompt in prompts]

    def _answer(self, text: str) -> str:
        if "assistant A" not in text:
            return "A" if "It is right." in text else "B"
        answer = text.find("It is right.") if "It is right." in text else text.find("It is wrong.")
        stands_first = answer < text.find("No.")
        return "[[A>>B]]" if stands_first == ("It is right." in text) else "[[B>>A]]"


def written(folder: Path, name: str, kind: str) -> Path:
    for use, rows in zip(("test", "shots"), SETS[name][:2], strict=True):
        place = folder / name / f"{use}.{kind}"
        place.parent.mkdir(exist_ok=True)
        if rows and kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place)
        elif rows:
            place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make_manifest(folder, [name])


def test_the_sets_are_all_of_the_tasks_on_the_page() -> None:
    assert set(SETS) == set(NAMES)


@pytest.mark.parametrize("name", EACH)
def test_from_files_to_results(name: str, tmp_path: Path) -> None:
    plan = make_plan(
        [name],
        data=written(tmp_path, name, "jsonl"),
        protocol=PHI4,
        switches={},
        wording={},
        limit=None,
        lengths=(),
        max_tokens=64,
        has_judge=True,
        seed=0,
    )
    (planned,) = plan.tasks
    items = planned.data.items
    (tmp_path / "tables").mkdir()
    tables = read_manifest(written(tmp_path / "tables", name, "parquet"))[name]
    parquet = read_items(planned.task, tables)
    if name != "ifeval":  # its keys hold functions
        assert parquet.items == items
    assert [item.name for item in parquet.items] == [item.name for item in items]
    answers = SETS[name][2]
    responses = []
    for item, asked, text in zip(items, plan.asked_of(planned, items), answers, strict=True):
        assert isinstance(asked, Continue)
        assert asked.rules.max_tokens == 64
        responses += [TaskResponse(item=item, asked=asked, repeat=one, text=text) for one in range(asked.repeats)]
    answered = AnsweredTask(
        task=planned.task, on=planned.on, files=planned.files, items_in_files=len(items), responses=responses
    )
    with Grader(processes=1) as grader:
        result = result_of(answered, GradingTools(grader=grader, judge=Judge()))
    headline = [response.scores[planned.task.scores[0]] for response in result.responses]
    assert sum(headline) / len(headline) == 0.5
    assert {response.problem for response in result.responses} <= {"", "no answer extracted"}
    graded = {switch.name for switch in planned.task.switches if switch.changes == "grading"}
    assert set(result.quirks) == set(result.quirk_intervals) == graded
    assert all(low <= result.quirks[one] <= high for one, (low, high) in result.quirk_intervals.items())
    evaluation = Evaluation(
        model="m", identity={}, protocol=PHI4, judge="judge", seed=0, version="0", tasks={name: result}
    )
    write_evaluation(tmp_path / "results", evaluation)
    again = read_evaluation(tmp_path / "results").tasks[name]
    assert again.responses == result.responses
    assert (again.quirks, again.quirk_intervals) == (result.quirks, result.quirk_intervals)
    assert again.derived == result.derived


def test_a_task_asked_more_often_has_more_scores() -> None:
    task: Any = find_task("humaneval")
    assert replace(task, repeats=20).scores == ("pass@1", "pass@2", "pass@5", "pass@10")
    assert switches_on(task, "corrected", {}) == frozenset()
