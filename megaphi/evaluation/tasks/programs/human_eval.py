r"""HumanEval and HumanEval+: the body of a function is asked for, and the answer runs against the task's own tests.

simple-evals asks five times, takes the first block marked `python`, throws away everything up to the end of the first
line that ends in a colon before four spaces, and puts what is left behind the prompt: imports and functions before the
one that was asked for are lost, and so is the first letter of an answer without such a line. Corrected, the answer runs
as it was written. HumanEval+ is not in simple-evals, so that these quirks do not apply to it.

Programs run with the limits of the grader (simple-evals: 3 s) and with the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, Switch, TaskResponse
from megaphi.evaluation.tasks.columns import text_column
from megaphi.evaluation.tasks.programs.numpy_stand_in import without_numpy
from megaphi.evaluation.tasks.programs.passes import ProgramTask, grade_programs
from megaphi.evaluation.tasks.programs.written_code import written_code
from megaphi.evaluation.tasks.wording import conversation, filled
from megaphi.grading.code_sandbox.test_cases import checked_tests
from megaphi.grading.question import CodeTests
from megaphi.sampling import Sampling

FIRST_PYTHON_BLOCK = Switch(
    name="first-python-block",
    on="The first block that is marked exactly `python` and closed counts; without one the whole response is code.",
    off="The last block that defines the function counts, however it is marked; without one, code before the first "
    "fence, or else the last block.",
    changes="grading",
)
CUT_AT_BODY = Switch(
    name="cut-at-body",
    on="All up to the first colon that four spaces on the next line follow is cut off, or the first letter if there is "
    "no such colon; the rest stands behind the prompt.",
    off="The program is run as it was written, behind the prompt only if it continues it.",
    changes="grading",
)
OPENING, CLOSING = "```python\n", "```"
WORDING = {
    "system": "",
    "question": (
        "Here is the head of a function with its description. Write the whole function so that it does what is "
        "described. Answer with the code of this function and nothing else.\n{prompt}"
    ),
}
RULES = Sampling(max_tokens=2_048, temperature=0.5)


def code_of(text: str, tests: CodeTests, on: frozenset[str]) -> str:
    """The program of a response under the switches `on`."""
    code = first_python_block(text) if FIRST_PYTHON_BLOCK.name in on else written_code(text, tests)
    if CUT_AT_BODY.name not in on:
        return code
    return tests.prefix + code[code.find(":\n    ") + 2 :]


def first_python_block(text: str) -> str:
    start = text.find(OPENING)
    end = text.find(CLOSING, start + len(OPENING))
    return text if start < 0 or end < 0 else text[start + len(OPENING) : end]


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionTask(ProgramTask):
    """Functions to be written from their head and description."""

    name: str = "humaneval"
    about: str = "HumanEval: 164 functions of Python, five answers to each (openai/openai_humaneval)"
    columns: tuple[str, ...] = ("task_id", "prompt", "test", "entry_point")
    switches: tuple[Switch, ...] = (FIRST_PYTHON_BLOCK, CUT_AT_BODY)
    rules: Sampling = RULES
    repeats: int = 5
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))

    def read(self, record: Record) -> Item:
        prompt, name = text_column(record, "prompt"), text_column(record, "entry_point").strip()
        tests = without_numpy(text_column(record, "test"))
        solution = record.get("canonical_solution")
        return Item(
            name=text_column(record, "task_id"),
            question=prompt,
            gold=solution if isinstance(solution, str) else "",
            key=checked_tests(CodeTests(language="python", tests=tests, entry_point=name, prefix=prompt)),
        )

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        prompt = conversation(self.wording, filled(self.wording["question"], prompt=item.question))
        return Continue(prompt=prompt, rules=self.rules, repeats=self.repeats)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        programs = [(one.item.key, code_of(one.text, one.item.key, on)) for one in responses]
        return grade_programs(responses, programs, tools, names=self.scores)


TASKS = (
    FunctionTask(),
    FunctionTask(
        name="humaneval_plus",
        about="HumanEval+: HumanEval with 80 times as many tests (evalplus/humanevalplus)",
        switches=(),
    ),
)
