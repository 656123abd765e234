"""MBPP: short programs from a sentence and three assertions, for chat models and, 3-shot, for base models.

Both forms of the dataset are read: the whole one (`text`) and the one that people checked (`prompt`). The answer must
define the function that its assertions call. Not in simple-evals; the base form is that of the dataset's paper (Austin
et al. 2021), in which examples end with a mark that also ends an answer.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megaphi.errors import InputError
from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, TaskResponse
from megaphi.evaluation.tasks.columns import has_column, json_value, label_column, text_column, texts_column
from megaphi.evaluation.tasks.programs.passes import ProgramTask, grade_programs
from megaphi.evaluation.tasks.programs.written_code import written_code
from megaphi.evaluation.tasks.wording import chosen_shots, conversation, filled
from megaphi.grading.code_sandbox.test_cases import checked_tests
from megaphi.grading.question import CodeTests
from megaphi.sampling import Sampling

END = "[DONE]"
WORDING = {
    "system": "",
    "question": (
        "Write Python code for the following task. The assertions below must hold; keep the name of the function that "
        "they call.\n\n{task}\n\n{assertions}\n\nAnswer with one block of code."
    ),
}
BASE_WORDING = {
    "opening": "",
    "question": "Task for an expert in Python: {task} These assertions must hold:\n\n{assertions}\n[BEGIN]\n",
    "solution": "{code}\n[DONE]\n\n",
}
RULES = Sampling(max_tokens=2_048, temperature=0.5)
BASE_RULES = Sampling(max_tokens=512, stop=(END,))


@dataclass(frozen=True, slots=True)
class AssertedProgram:
    """The tests that are run, and the assertions that the model is shown."""

    tests: CodeTests
    shown: tuple[str, ...]


def asserted_item(record: Record) -> Item:
    """A task by the columns of either form of MBPP."""
    task = text_column(record, "text|prompt").strip()
    code = text_column(record, "code").replace("\r\n", "\n").strip()
    assertions = tuple(one.strip() for one in texts_column(record, "test_list"))
    setup = record.get("test_setup_code") if isinstance(record.get("test_setup_code"), str) else ""
    imports = json_value(record["test_imports"]) if has_column(record, "test_imports") else []
    if not isinstance(imports, list) or not all(isinstance(one, str) for one in imports):
        raise InputError("column 'test_imports' must be a list of texts")
    lines = [*imports, str(setup).replace("\r\n", "\n"), *assertions]
    tests = CodeTests(
        language="python", tests="\n".join(filter(str.strip, lines)), entry_point=called_function(code, assertions)
    )
    return Item(
        name=label_column(record, "task_id") or task,
        question=task,
        gold=code,
        key=AssertedProgram(checked_tests(tests), assertions),
    )


def called_function(code: str, assertions: Sequence[str]) -> str:
    """The function of the reference solution that the assertions call. Raises InputError if there is none."""
    try:
        defined = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        tests = ast.parse("\n".join(assertions))
    except SyntaxError as error:
        raise InputError(f"columns 'code' and 'test_list' must be programs of Python: {error.msg}") from None
    calls = [node.func.id for node in ast.walk(tests) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    called = [name for name in calls if name in defined]
    if not called:
        raise InputError("the assertions of column 'test_list' call no function that column 'code' defines")
    return called[0]


def _asked(template: str, item: Item) -> str:
    return filled(template, task=item.question, assertions="\n".join(item.key.shown))


@dataclass(frozen=True, kw_only=True, slots=True)
class AssertedTask(ProgramTask):
    """Programs to be written from a sentence and assertions."""

    name: str = "mbpp"
    about: str = "MBPP: 500 short programs of Python, or 257 of them checked (google-research-datasets/mbpp)"
    columns: tuple[str, ...] = ("task_id", "text|prompt", "code", "test_list")
    rules: Sampling = RULES
    repeats: int = 1
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))

    def read(self, record: Record) -> Item:
        return asserted_item(record)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        if not self.shots:
            chat = conversation(self.wording, _asked(self.wording["question"], item))
            return Continue(prompt=chat, rules=self.rules, repeats=self.repeats)
        worked = chosen_shots(self.name, self.shots, item, shots, same_group=False)
        parts = [self.wording["opening"]]
        for one in worked:
            parts += [_asked(self.wording["question"], one), filled(self.wording["solution"], code=one.gold)]
        prompt = "".join(parts) + _asked(self.wording["question"], item)
        return Continue(prompt=prompt, rules=self.rules, repeats=self.repeats)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        programs = [(one.item.key.tests, written_code(one.text.split(END)[0], one.item.key.tests)) for one in responses]
        return grade_programs(responses, programs, tools, names=self.scores)


TASKS = (
    AssertedTask(),
    AssertedTask(
        name="mbpp_base",
        about="MBPP for base models, 3-shot, the examples from the dataset's split `prompt`",
        rules=BASE_RULES,
        wording=dict(BASE_WORDING),
        shots=3,
    ),
)
