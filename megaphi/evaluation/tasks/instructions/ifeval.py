"""IFEval: 541 prompts with instructions that a program checks (Zhou et al. 2023). Four figures belong together.

A prompt is followed if all of its instructions are; the figures by instruction count each one. *Strict* takes the
response as it is. *Loose* is content if one of eight variants follows: with and without its first line, its last line,
and the asterisks of emphasis. Not in simple-evals; which of the four Phi-4's report prints is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megaphi.errors import InputError
from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, TaskResponse
from megaphi.evaluation.tasks.columns import (
    column,
    item_name,
    json_value,
    plain_value,
    shown,
    text_column,
    texts_column,
)
from megaphi.evaluation.tasks.instructions.checkers import Check, make_check
from megaphi.evaluation.tasks.quirks import without_answer
from megaphi.evaluation.tasks.unjudged import UnjudgedTask
from megaphi.evaluation.tasks.wording import conversation, filled
from megaphi.sampling import Sampling

MOST = 10
"""Instructions of one prompt; the dataset has at most three."""
WORDING = {"system": "", "question": "{question}"}
RULES = Sampling(max_tokens=2_048, temperature=0.5)
Means = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a prompt, and its check."""

    name: str
    check: Check


def instructed_item(record: Record) -> Item:
    """A prompt by the columns of google/IFEval."""
    prompt, names = text_column(record, "prompt"), texts_column(record, "instruction_id_list")
    arguments = json_value(column(record, "kwargs")[1])
    if not isinstance(arguments, list | tuple) or len(arguments) != len(names):
        raise InputError(f"column 'kwargs' must be a list of {len(names)} objects, not {shown(arguments)}")
    if len(names) > MOST:
        raise InputError(f"column 'instruction_id_list' has {len(names)} instructions: at most {MOST} are understood")
    checks = [make_check(name, _given(one), prompt) for name, one in zip(names, arguments, strict=True)]
    return Item(
        name=item_name(record, "key", prompt),
        question=prompt,
        gold=", ".join(names),
        key=tuple(Instruction(name, check) for name, check in zip(names, checks, strict=True)),
        group=names[0].split(":")[0],
    )


def _given(arguments: Any) -> dict[str, Any]:
    """Arguments that are given: tables fill the others with nulls, and give whole numbers as floats."""
    if arguments is not None and not isinstance(arguments, Mapping):
        raise InputError(f"column 'kwargs' must hold objects, not {shown(arguments)}")
    given = {name: plain_value(value) for name, value in (arguments or {}).items() if value is not None}
    return {name: int(value) if isinstance(value, float) else value for name, value in given.items() if value == value}


def variants(text: str) -> list[str]:
    """The response, and without its first line, its last, and both; each as it is and without asterisks."""
    lines = text.split("\n")
    parts = ["\n".join(one).strip() for one in (lines[1:], lines[:-1], lines[1:-1])]
    return [form for one in (text, *parts) for form in (one, one.replace("*", ""))]


def _ratio(part: str) -> Callable[[Means], float]:
    return lambda means: means[part] / means["instructions"] if means["instructions"] else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructedTask(UnjudgedTask):
    """Prompts with instructions that are checked."""

    name: str = "ifeval"
    about: str = "IFEval: 541 prompts with instructions that a program checks (google/IFEval)"
    columns: tuple[str, ...] = ("prompt", "instruction_id_list", "kwargs")
    rules: Sampling = RULES
    repeats: int = 1
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))
    scores: tuple[str, ...] = ("prompt_strict", "prompt_loose", "followed_strict", "followed_loose", "instructions")
    """The last three, parts of the figures by instruction, are numbers of instructions over the largest one, 10."""
    derived: Mapping[str, Callable[[Means], float]] = field(
        default_factory=lambda: {
            "instruction_strict": _ratio("followed_strict"),
            "instruction_loose": _ratio("followed_loose"),
        }
    )

    def read(self, record: Record) -> Item:
        return instructed_item(record)

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        prompt = conversation(self.wording, filled(self.wording["question"], question=item.question))
        return Continue(prompt=prompt, rules=self.rules, repeats=self.repeats)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        return [_graded(response) for response in responses]


def _graded(response: TaskResponse) -> Grade:
    """An empty response follows nothing; one that was cut off is checked as it is."""
    instructions: tuple[Instruction, ...] = response.item.key
    strict = [_follows(one, [response.text]) for one in instructions]
    loose = [_follows(one, variants(response.text)) for one in instructions]
    broken = [one.name for one, follows in zip(instructions, strict, strict=True) if not follows]
    return Grade(
        scores={
            "prompt_strict": float(all(strict)),
            "prompt_loose": float(all(loose)),
            "followed_strict": sum(strict) / MOST,
            "followed_loose": sum(loose) / MOST,
            "instructions": len(instructions) / MOST,
        },
        extracted=response.text,
        problem="" if response.text.strip() else without_answer(response),
        note=f"not followed: {', '.join(broken)}" if broken else "all instructions are followed",
        details={"strict": strict, "loose": loose},
    )


def _follows(instruction: Instruction, texts: Sequence[str]) -> bool:
    return any(text.strip() and instruction.check(text) for text in texts)


TASKS = (InstructedTask(),)
