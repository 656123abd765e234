"""The one way to grade: a batch of questions with answers in, a verdict for each out.

    with Grader() as grader:
        verdicts = grader.grade([(question, answer), ...])

An answer is text that a model wrote, and never holds the prompt. Choices and exact answers are graded here, numbers
and formulas by worker processes, programs in the sandbox; both are started by the first answer that needs them, and
end with the block. Whatever goes wrong in a grader gives `undecided` with the reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from megaphi.errors import InputError
from megaphi.files import whole_file
from megaphi.grading.code_sandbox.answer_program import program_in
from megaphi.grading.code_sandbox.isolation import find_isolation
from megaphi.grading.code_sandbox.limits import Limits
from megaphi.grading.code_sandbox.sandbox import CodeSandbox
from megaphi.grading.exact_match import grade_exact_match
from megaphi.grading.math_answer.mathematics import Dispute, grade_mathematics
from megaphi.grading.math_answer.verifiers import BothComparisons, Verifiers
from megaphi.grading.multiple_choice import grade_multiple_choice
from megaphi.grading.question import Choices, CodeTests, ExactAnswers, MathAnswer, Question
from megaphi.grading.verdict import Verdict

MOST_REMEMBERED = 100_000
"""Pairs of key and result whose findings are kept: rollouts of one question give few different results."""


def isolation_for(questions: Iterable[Question], *, unsafe: bool = False) -> str | None:
    """Kind of isolation that answers will run in, to be known before the first one is asked for; None without programs.

    Raises:
        InputError: a question is answered by a program, and nothing isolates it.
    """
    if not any(isinstance(question.key, CodeTests) for question in questions):
        return None
    return find_isolation(unsafe=unsafe).kind


class Grader:
    """Grades answers, and keeps the disputes of the verifiers.

    Args:
        processes: workers that compare mathematics; as many as there are processors, at most 8, if not given.
        cpu_seconds: processor time for one comparison.
        memory_megabytes: address space of a worker.
        last_number: whether a mathematical answer that states no result is taken at its last number.
        languages: what programs may be written in.
        program_limits: of each program with its tests.
        unsafe: run programs also where nothing isolates them.

    Raises:
        InputError: a limit that is none.
    """

    def __init__(
        self,
        *,
        processes: int | None = None,
        cpu_seconds: int = 5,
        memory_megabytes: int = 1_024,
        last_number: bool = False,
        languages: Sequence[str] = ("python",),
        program_limits: Limits | None = None,
        unsafe: bool = False,
    ) -> None:
        self._processes = processes if processes is not None else min(8, len(os.sched_getaffinity(0)))
        for name, value, least in (
            ("processes", self._processes, 1),
            ("cpu_seconds", cpu_seconds, 1),
            ("memory_megabytes", memory_megabytes, 512),
        ):
            if value < least:
                raise InputError(f"{name}={value} of a grader: at least {least} is needed")
        self._cpu_seconds, self._memory_megabytes = cpu_seconds, memory_megabytes
        self._last_number = last_number
        self._verifiers: Verifiers | None = None
        self._languages, self._program_limits, self._unsafe = tuple(languages), program_limits, unsafe
        self._programs = ExitStack()
        self._sandbox: CodeSandbox | None = None
        self._remembered: dict[tuple[str, str], BothComparisons] = {}
        self.disputes: list[Dispute] = []
        """Answers about which the verifiers did not agree, in the order in which they were graded."""

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self._programs.close()
        self._sandbox = None
        if self._verifiers is not None:
            self._verifiers.close()
            self._verifiers = None

    def grade(self, items: Sequence[tuple[Question, str]]) -> list[Verdict]:
        """One verdict per (question, answer), in order.

        Raises:
            InputError: a program is to be run, and nothing isolates it, or its language is not here.
            RunFailed: what isolates it does not hold.
        """
        verdicts: dict[int, Verdict] = {}
        mathematics: list[tuple[int, tuple[str, str, str]]] = []
        programs: list[tuple[int, tuple[CodeTests, str]]] = []
        for place, (question, answer) in enumerate(items):
            match question.key:
                case MathAnswer(text):
                    mathematics.append((place, (question.name, text, answer)))
                case Choices():
                    verdicts[place] = grade_multiple_choice(question.key, answer)
                case ExactAnswers():
                    verdicts[place] = grade_exact_match(question.key, answer)
                case CodeTests():
                    programs.append((place, (question.key, program_in(answer, question.key.entry_point))))
        found, disputes = grade_mathematics(
            [item for _, item in mathematics], self._compare, last_number=self._last_number
        )
        self.disputes += disputes
        verdicts |= {place: verdict for (place, _), verdict in zip(mathematics, found, strict=True)}
        if programs:
            graded = self._open_sandbox().grade([item for _, item in programs])
            verdicts |= {place: verdict for (place, _), verdict in zip(programs, graded, strict=True)}
        return [verdicts[place] for place in range(len(items))]

    def _open_sandbox(self) -> CodeSandbox:
        if self._sandbox is None:
            sandbox = CodeSandbox(
                workers=self._processes, limits=self._program_limits, languages=self._languages, unsafe=self._unsafe
            )
            self._sandbox = self._programs.enter_context(sandbox)
        return self._sandbox

    def write_disputes(self, path: str | os.PathLike[str]) -> None:
        """Write the disputes as JSON lines: question, key, answer, and the finding of each verifier."""
        with whole_file(Path(path)) as file:
            for dispute in self.disputes:
                file.write(json.dumps(asdict(dispute), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def _compare(self, pairs: Sequence[tuple[str, str]]) -> list[BothComparisons]:
        """Comparisons of pairs, those that are remembered without a worker."""
        if self._verifiers is None:
            self._verifiers = Verifiers(
                processes=self._processes, cpu_seconds=self._cpu_seconds, memory_megabytes=self._memory_megabytes
            )
        new = [pair for pair in pairs if pair not in self._remembered]
        found = dict(zip(new, self._verifiers.compare(new), strict=True))
        known = {pair: self._remembered[pair] for pair in pairs if pair not in found}
        if len(self._remembered) + len(found) > MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered |= found
        return [found[pair] if pair in found else known[pair] for pair in pairs]
