"""Questions from a file of JSON lines, in plain fields or in the columns of well-known benchmarks.

A line is one question. Its fields say which kind of key it has, by the table `_KEYS`; a line to which two kinds apply,
or none, is refused. Columns that would change what is asked (a passage, an image) are refused as well; all others
(`level`, `subject`) are passed over. Every error names file, line and field.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megaphi.conversation import Conversation, from_plain, says_nothing
from megaphi.errors import InputError
from megaphi.foreign.files import read_text
from megaphi.grading.code_sandbox.test_cases import checked_tests
from megaphi.grading.question import (
    LETTERS,
    Choices,
    CodeTests,
    ExactAnswers,
    Key,
    MathAnswer,
    Question,
    with_options,
)
from megaphi.json_text import parse_json

Record = Mapping[str, Any]

PROMPTS = ("prompt", "messages", "question", "problem", "Question")
CHANGES_WHAT_IS_ASKED = ("context", "passage", "article", "image", "images", "audio", "tools", "history")
HOW_TO_SAY_IT = (
    "give 'math_answer' (a number or formula), 'exact_answers' (a list of texts), "
    "'choices' with 'answer', or 'tests' with 'entry_point'"
)


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """All questions of a file, in order.

    Raises:
        InputError: the file cannot be read or holds no question; a line is no question, or repeats the name of
            another. The message names file, line and field.
    """
    source = Path(path)
    questions: dict[str, Question] = {}
    lines_of: dict[str, int] = {}
    for number, line in enumerate(read_text(source).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            question = question_of_record(parse_json(line, constants=False), otherwise_named=f"{source.name}:{number}")
            if question.name in questions:
                raise InputError(f"the name {question.name!r} is that of line {lines_of[question.name]} too")
        except InputError as error:
            raise InputError(f"{source}, line {number}: {error}") from None
        questions[question.name], lines_of[question.name] = question, number
    if not questions:
        raise InputError(f"{source} holds no question")
    return list(questions.values())


def question_of_record(record: Any, *, otherwise_named: str) -> Question:
    """The question of one record. Raises `InputError` with the field that is wrong, without the place of the record."""
    if not isinstance(record, Mapping):
        raise InputError(f"a question is an object with fields, not {type(record).__name__}")
    changing = [name for name in CHANGES_WHAT_IS_ASKED if name in record and not says_nothing(record[name], name)]
    if changing:
        raise InputError(f"field {changing[0]!r} would change what is asked: put it into the prompt, and leave it out")
    present = {name: value for name, value in record.items() if value is not None}
    kinds = [kind for kind, (marks, _) in _KEYS.items() if _has(present, marks)]
    if len(kinds) > 1:
        raise InputError(f"fields of two kinds of key, {kinds[0]} and {kinds[1]}: a question has one")
    key = _KEYS[kinds[0]][1](present) if kinds else _key_of_answer(present)
    return Question(name=_name_of(present, otherwise_named), prompt=_prompt_of(present, key), key=key)


def _has(record: Record, marks: tuple[str, ...]) -> bool:
    return any(all(name in record for name in mark.split("+")) for mark in marks)


def _name_of(record: Record, otherwise: str) -> str:
    for field in ("id", "task_id", "unique_id", "question_id"):
        if field in record:
            value = record[field]
            if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
                raise InputError(f"field {field!r} must be a text or a whole number")
            return str(value)
    return otherwise


def _prompt_of(record: Record, key: Key) -> Conversation | str:
    """The prompt as it is given; a benchmark's bare question is followed by its options."""
    found = [name for name in PROMPTS if name in record]
    if len(found) != 1:
        raise InputError(f"fields {found[0]!r} and {found[1]!r} are both prompts" if found else "no field 'prompt'")
    value = record[found[0]]
    try:
        if isinstance(value, list):
            return from_plain(value)
        if not isinstance(value, str) or not value.strip():
            raise InputError("must be a text that is not empty, or a list of messages")
    except InputError as error:
        raise InputError(f"field {found[0]!r}: {error}") from None
    is_bare = isinstance(key, Choices) and found[0] != "prompt"
    return with_options(value, key.options) if is_bare and isinstance(key, Choices) else value


def _text(record: Record, field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise InputError(f"field {field!r} must be a text" if field in record else f"field {field!r} is missing")
    return value


def _texts(value: Any, field: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise InputError(f"field {field!r} must be a list of texts that is not empty")
    return tuple(value)


def _made(make: Callable[[], Key], field: str) -> Key:
    """Call `make`; its errors name the field."""
    try:
        return make()
    except InputError as error:
        raise InputError(f"field {field!r}: {error}") from None


def _math_answer(record: Record) -> Key:
    value = record["math_answer"]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError("field 'math_answer' must be a text or a number")
    return _made(lambda: MathAnswer(str(value)), "math_answer")


def _math_solution(record: Record) -> Key:
    """MATH: the answer is what the solution puts into its last box; MATH-500 repeats it as `answer`."""
    from megaphi.grading.math_answer.extraction import last_boxed

    if "answer" in record:
        answer = record["answer"]
        return _made(lambda: MathAnswer(str(answer)), "answer")
    boxed = last_boxed(_text(record, "solution"))
    if boxed is None:
        raise InputError("field 'solution' has no \\boxed{…} that says the answer")
    return _made(lambda: MathAnswer(boxed), "solution")


def _exact_answers(record: Record) -> Key:
    return _made(lambda: ExactAnswers(_texts(record["exact_answers"], "exact_answers")), "exact_answers")


def _choices(record: Record) -> Key:
    """MMLU: `choices`, `answer` (index or letter). MMLU-Pro: `options`. ARC: `choices` (text, label), `answerKey`."""
    field = "choices" if "choices" in record else "options"
    listed, labels = record[field], None
    if isinstance(listed, Mapping):
        labels = _texts(listed.get("label"), f"{field}.label")
        listed = listed.get("text")
    options = _texts(listed, field)
    answer_field = "answer" if "answer" in record else "answerKey"
    if answer_field not in record:
        raise InputError(f"field {field!r} needs 'answer': the index of the right one from 0, its letter or its words")
    answer = record[answer_field]
    return _made(lambda: Choices(options, _index_of(answer, options, labels)), answer_field)


def _index_of(answer: Any, options: tuple[str, ...], labels: tuple[str, ...] | None) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer
    if not isinstance(answer, str):
        raise InputError("must be the index of the right option, its letter or its words")
    names = labels or tuple(LETTERS[: len(options)])
    meant = {place for place, name in enumerate(names) if name == answer.strip()}
    meant |= {place for place, text in enumerate(options) if text == answer}
    if len(meant) != 1:
        raise InputError(f"{answer!r} is {'no' if not meant else 'more than one'} option of {', '.join(names)}")
    return meant.pop()


def _gpqa(record: Record) -> Key:
    """GPQA: the right answer and three wrong ones in an order that only depends on the question."""
    fields = ["Correct Answer", *(f"Incorrect Answer {number}" for number in (1, 2, 3))]
    options = [_text(record, field).strip() for field in fields]
    question = _text(record, "Question")
    order = sorted(range(4), key=lambda place: hashlib.sha256(f"{question}\0{options[place]}".encode()).digest())
    return Choices(tuple(options[place] for place in order), order.index(0))


def _code(record: Record) -> Key:
    """Plain `tests` (text, lines, pairs), or HumanEval's `test` with a prompt that is the beginning of the function."""
    is_benchmark = "test" in record
    field = "test" if is_benchmark else "tests"
    value = record[field]
    if isinstance(value, list) and value and all(isinstance(pair, Mapping) for pair in value):
        tests = json.dumps(value)
    else:
        tests = "\n".join(_texts(value, field)) if isinstance(value, list) else _text(record, field)
    language = _text(record, "language") if "language" in record else "python"
    is_whole_program = tests.lstrip().startswith("[") and "entry_point" not in record
    entry_point = "" if is_whole_program else _text(record, "entry_point")
    prefix = _text(record, "prompt") if is_benchmark else _text({"prefix": "", **record}, "prefix")
    key = _made(
        lambda: CodeTests(language=language, tests=tests, entry_point=entry_point, prefix=prefix),
        field if not tests.strip() else "entry_point",
    )
    assert isinstance(key, CodeTests)
    return _made(lambda: checked_tests(key), field)


def _key_of_answer(record: Record) -> Key:
    """The key of a record that has only `answer`: GSM8K's, a number, or TriviaQA's name with aliases."""
    if "answer" not in record:
        raise InputError(f"it has no key to grade an answer by: {HOW_TO_SAY_IT}")
    answer = record["answer"]
    if isinstance(answer, str) and "####" in answer:
        return _made(lambda: MathAnswer(answer.rpartition("####")[2].strip()), "answer")
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
    if is_number or (isinstance(answer, str) and re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", answer)):
        return MathAnswer(str(answer).strip())
    if isinstance(answer, Mapping) and "value" in answer:
        aliases = answer.get("aliases", [])
        return _made(lambda: ExactAnswers(_texts([answer["value"], *aliases], "answer")), "answer")
    raise InputError(f"field 'answer' alone does not say how answers are compared with it: {HOW_TO_SAY_IT}")


_KEYS: dict[str, tuple[tuple[str, ...], Callable[[Record], Key]]] = {
    "math_answer": (("math_answer",), _math_answer),
    "solution": (("problem+solution",), _math_solution),
    "exact_answers": (("exact_answers",), _exact_answers),
    "choices": (("choices", "options"), _choices),
    "GPQA's answers": (("Correct Answer",), _gpqa),
    "tests": (("tests", "test+entry_point"), _code),
}
"""Kind of key -> the fields that mean it (all those joined by +), and its reader."""
