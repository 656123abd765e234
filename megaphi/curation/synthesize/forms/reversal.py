"""Instruction reversal: an instruction written for given code, kept if the code written again from it is faithful.

Where the seed brings tests (metadata `tests`: `{"tests": …, "entry_point": …}`), the code written again must pass them;
else it must be similar to the seed's, and a judge must find that both do the same. An instruction that holds lines of
the code is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from megaphi.curation.synthesize.forms import schemas
from megaphi.curation.synthesize.forms.overlap import similarity
from megaphi.curation.synthesize.forms.work import Tools, Work, open_works
from megaphi.errors import InputError
from megaphi.grading.code_sandbox.answer_program import program_in
from megaphi.grading.code_sandbox.test_cases import checked_tests
from megaphi.grading.question import CodeTests

LONG_LINE = 24
"""Characters from which a line of code in an instruction gives the code away."""
HEAD = re.compile(r"(?:async\s+)?def\s|class\s|import\s|from\s")
"""Lines that say how the code is called and what it uses, which an instruction may say too."""
FAITHFUL = 4
"""Score of a judge, of 5."""


def draft_instructions(works: list[Work], tools: Tools) -> list[Work]:
    prompts = [tools.draft_prompt(work, document=work.document.text) for work in works]
    for work, text in zip(works, tools.write(works, prompts, tokens=works[0].kind.tokens), strict=True):
        if text is None:
            continue
        code = work.document.text.strip()
        language = str(work.document.metadata.get("code_language", "python")).lower()
        block = f"```{language}\n{code}\n```"
        work.data |= {"instruction": text, "question": text, "code": code, "answer": code}
        work.messages = [{"role": "user", "content": text}, {"role": "assistant", "content": block}]
        work.text = f"{text}\n\n{block}"
    return works


def check_faithful(works: list[Work], tools: Tools) -> None:
    """Write the code again from the instruction alone, and compare."""
    for work in works:
        given = [line for line in _long_lines(work.data["code"]) if line in work.data["instruction"]]
        if given:
            work.reject("given_away", f"{len(given)} lines of the code stand in the instruction")
    left = open_works(works)
    prompts = [tools.prompt("regenerate", work, instruction=work.data["instruction"]) for work in left]
    tokens = works[0].kind.settings["answer_tokens"]
    for work, text in zip(left, tools.write(left, prompts, tokens=tokens), strict=True):
        if text is not None:
            work.data["again"] = program_in(text, "").strip()
    tested = [(work, tests) for work in open_works(works) if (tests := given_tests(work)) is not None]
    _by_tests(tested, tools)
    _by_similarity([work for work in open_works(works) if "tests" not in work.found], tools)


def given_tests(work: Work) -> CodeTests | None:
    """Tests that the seed brings; a work whose seed brings some that cannot be run is rejected."""
    given = work.document.metadata.get("tests")
    if given is None:
        return None
    try:
        if not isinstance(given, Mapping):
            raise InputError("metadata 'tests' is no object with 'tests' and 'entry_point'")
        tests, entry_point = (str(given.get(name, "")) for name in ("tests", "entry_point"))
        return checked_tests(CodeTests(language="python", tests=tests, entry_point=entry_point))
    except InputError as error:
        work.reject("bad_tests", str(error))
        return None


def _by_tests(tested: list[tuple[Work, CodeTests]], tools: Tools) -> None:
    if not tested:
        return
    both = [(tests, program) for work, tests in tested for program in (work.data["code"], work.data["again"])]
    verdicts = tools.sandbox.grade(both)
    for (work, tests), own, again in zip(tested, verdicts[::2], verdicts[1::2], strict=True):
        work.found["tests"] = again.outcome
        work.keeps["tests"] = {"language": "python", "tests": tests.tests, "entry_point": tests.entry_point}
        if not own.is_right:
            work.reject("seed_fails_tests", own.reason)
        elif not again.is_right:
            work.reject("unfaithful", again.reason)


def _by_similarity(works: list[Work], tools: Tools) -> None:
    for work in works:
        found = similarity(work.data["code"], work.data["again"])
        work.found["similarity"] = round(found, 4)
        if found < work.kind.settings["similarity"]:
            work.reject("unfaithful", f"similarity {found:.2f}, below {work.kind.settings['similarity']}")
    left = open_works(works)
    prompts = [
        tools.prompt("judge_fidelity", work, first=work.data["code"], second=work.data["again"]) for work in left
    ]
    scored: list[Any] = tools.judge_values(left, prompts, schemas.read_scored, schema=schemas.SCORED)
    for work, one in zip(left, scored, strict=True):
        if one is not None:
            work.found["fidelity"] = one.score
            if one.score < FAITHFUL:
                work.reject("unfaithful", f"the judge gives {one.score} of 5: {one.findings}")


def _long_lines(code: str) -> list[str]:
    lines = (line.strip() for line in code.splitlines())
    return [line for line in lines if len(line) >= LONG_LINE and not HEAD.match(line)]
