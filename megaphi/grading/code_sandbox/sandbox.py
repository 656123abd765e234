"""Programs graded by running them: many answers at once, each in a box, with a verdict and its reason for each.

    with CodeSandbox(workers=8) as sandbox:
        verdicts = sandbox.grade([(tests, answer), ...])

Opening finds the isolation of this machine, refuses where there is none, and proves it by a probe. Each worker is a
thread with boxes of its own. A box that fails gives `undecided` for the answer that was in it, and the next answer gets
a new one.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from megaphi.errors import InputError, RunFailed
from megaphi.grading.code_sandbox.box import BoxFailed, WorkerBoxes
from megaphi.grading.code_sandbox.inside.calls import CandidateFunction
from megaphi.grading.code_sandbox.isolation import find_isolation
from megaphi.grading.code_sandbox.languages import LANGUAGES, Language, find_language, toolchains
from megaphi.grading.code_sandbox.limits import Limits
from megaphi.grading.code_sandbox.self_test import prove_isolation
from megaphi.grading.code_sandbox.test_cases import CallPair, prelude, read_pairs, whole_program
from megaphi.grading.code_sandbox.tests_run import ask, run_assertions, run_calls, run_program
from megaphi.grading.question import CodeTests
from megaphi.grading.verdict import Verdict, right, undecided


class CodeSandbox:
    """WorkerBoxes for programs of strangers, open while the `with` block lasts.

    Args:
        workers: tests that run at once; as many as there are processors if not given.
        limits: of each test.
        languages: what answers may be written in; a box sees the toolchains of these and no other.
        table: the languages that there are, by name.
        unsafe: run without isolation where there is none.

    Raises:
        InputError: no isolation, an unknown language, a toolchain that is not here.
        RunFailed: the isolation does not hold.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        limits: Limits | None = None,
        languages: Sequence[str] = ("python",),
        table: Mapping[str, Language] = LANGUAGES,
        unsafe: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self._languages = {name: find_language(name, table) for name in languages}
        self._workers = workers or len(os.sched_getaffinity(0))
        if self._workers < 1:
            raise InputError(f"workers={workers}: at least one is needed")
        self.isolation = find_isolation(unsafe=unsafe)
        self._idle: queue.SimpleQueue[WorkerBoxes] = queue.SimpleQueue()
        self._boxes: list[WorkerBoxes] = []

    def __enter__(self) -> CodeSandbox:
        mapped = toolchains(self._languages.values())
        self._boxes = [WorkerBoxes(self.isolation, self.limits, mapped) for _ in range(self._workers)]
        for boxes in self._boxes:
            self._idle.put(boxes)
        self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="sandbox")
        try:
            if self.isolation.kind != "none":
                self._threads.submit(self._prove).result()
        except BaseException:
            self.__exit__(RunFailed)
            raise
        return self

    def __exit__(self, error: type[BaseException] | None = None, *_: object) -> None:
        if error is not None:  # an interrupt does not wait for the limits of what is running
            for boxes in self._boxes:
                boxes.kill()
        self._threads.shutdown(cancel_futures=True)
        for boxes in self._boxes:
            boxes.close()

    def grade(self, batch: Sequence[tuple[CodeTests, str]]) -> list[Verdict]:
        """One verdict per answer, in order."""
        return list(self._threads.map(self._grade_one, batch))

    def _grade_one(self, item: tuple[CodeTests, str]) -> Verdict:
        boxes = self._idle.get()
        try:
            return self._run(boxes, *item)
        except InputError as error:
            return undecided(str(error))
        except (BoxFailed, OSError) as error:  # no more descriptors or processes on this machine, for instance
            boxes.close()
            return undecided(str(error))
        except BaseException:
            boxes.close()
            raise
        finally:
            self._idle.put(boxes)

    def _run(self, boxes: WorkerBoxes, tests: CodeTests, answer: str) -> Verdict:
        if tests.language not in self._languages:
            raise InputError(f"the sandbox was not opened for {tests.language}, only for {', '.join(self._languages)}")
        language, pairs = self._languages[tests.language], read_pairs(tests)
        if pairs and not isinstance(pairs[0], CallPair):
            return run_program(boxes, self.limits, language, source=answer, pairs=pairs)  # pyright: ignore
        if language.run:
            raise InputError(f"tests of programs in {tests.language} are pairs of stdin and stdout")
        source = whole_program(tests, answer)
        if pairs:
            return run_calls(boxes, self.limits, source=source, entry_point=tests.entry_point, pairs=pairs)  # pyright: ignore
        return run_assertions(
            boxes,
            self.limits,
            source=source,
            prelude=prelude(tests),
            tests=tests.tests,
            entry_point=tests.entry_point,
        )

    def _prove(self) -> None:
        boxes = self._idle.get()
        try:
            prove_isolation(self.isolation, lambda source, name, arguments: self._value(boxes, source, name, arguments))
        except BoxFailed as error:
            raise RunFailed(f"the sandbox ({self.isolation.kind}) does not start: {error}") from None
        finally:
            self._idle.put(boxes)

    def _value(self, boxes: WorkerBoxes, source: str, name: str, arguments: list[Any]) -> Any:
        values: list[Any] = []

        def drive(function: CandidateFunction) -> Verdict:
            values.append(function(*arguments))
            return right("")

        verdict = ask(boxes, self.limits, {"source": source}, "candidate", name, drive)
        return values[0] if values else verdict.reason
