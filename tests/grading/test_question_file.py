"""Question files: plain fields, the columns of benchmarks, and every error with file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megaphi.conversation import Conversation, Message
from megaphi.errors import InputError
from megaphi.grading.question import Choices, CodeTests, ExactAnswers, MathAnswer, Question
from megaphi.grading.question_file import read_questions


def written(folder: Path, *records: Any) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records) + "\n")
    return path


def only(folder: Path, record: dict[str, Any]) -> Question:
    (question,) = read_questions(written(folder, record))
    return question


def test_plain_fields(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"id": "half", "prompt": "1/2?", "math_answer": "\\frac12"},
        {"id": 7, "messages": [{"role": "user", "content": "3.0?"}], "math_answer": 3},
        {"prompt": "Which?\nA) no\nB) yes", "choices": ["no", "yes"], "answer": "B"},
        "",
        {"prompt": "Who?", "exact_answers": ["Ada Lovelace", "Lovelace"]},
        {"prompt": "Double it", "tests": ["assert f(1) == 2", "assert f(2) == 4"], "entry_point": "f"},
    )
    chat = Conversation((Message("user", "3.0?"),))
    assert read_questions(path) == [
        Question(name="half", prompt="1/2?", key=MathAnswer("\\frac12")),
        Question(name="7", prompt=chat, key=MathAnswer("3")),
        Question(name="questions.jsonl:3", prompt="Which?\nA) no\nB) yes", key=Choices(("no", "yes"), 1)),
        Question(name="questions.jsonl:5", prompt="Who?", key=ExactAnswers(("Ada Lovelace", "Lovelace"))),
        Question(
            name="questions.jsonl:6",
            prompt="Double it",
            key=CodeTests(language="python", tests="assert f(1) == 2\nassert f(2) == 4", entry_point="f"),
        ),
    ]


BENCHMARKS = {
    "GSM8K": ({"question": "q", "answer": "Two and two.\n#### 1,004"}, MathAnswer("1,004")),
    "MATH": (
        {"problem": "q", "solution": "So $x=\\boxed{1}$, not; $\\boxed{\\frac{a}{b}}$.", "level": "Level 5"},
        MathAnswer("\\frac{a}{b}"),
    ),
    "MATH-500": ({"problem": "q", "solution": "no box", "answer": "\\pi", "unique_id": "t/1"}, MathAnswer("\\pi")),
    "AIME": ({"problem": "q", "answer": "204"}, MathAnswer("204")),
    "TriviaQA": (
        {"question": "q", "question_id": "tc_1", "answer": {"value": "Sunset", "aliases": ["Dusk", "Sunset"]}},
        ExactAnswers(("Sunset", "Dusk", "Sunset")),
    ),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_columns_of_a_benchmark(name: str, tmp_path: Path) -> None:
    record, key = BENCHMARKS[name]
    question = only(tmp_path, record)
    assert (question.key, question.prompt) == (key, "q")


CHOICES = {
    "MMLU": {"question": "q", "choices": ["w", "x", "y", "z"], "answer": 2, "subject": "law"},
    "MMLU letter": {"question": "q", "choices": ["w", "x", "y", "z"], "answer": "C"},
    "MMLU-Pro": {"question": "q", "options": ["w", "x", "y", "z"], "answer": "C", "answer_index": 2},
    "ARC": {"question": "q", "choices": {"text": ["w", "x", "y", "z"], "label": list("1234")}, "answerKey": "3"},
    "words": {"question": "q", "choices": ["w", "x", "y", "z"], "answer": "y"},
}


@pytest.mark.parametrize("name", CHOICES)
def test_benchmarks_of_choices_show_their_options(name: str, tmp_path: Path) -> None:
    question = only(tmp_path, CHOICES[name])
    assert question.key == Choices(("w", "x", "y", "z"), 2)
    assert question.prompt == "q\n\nA) w\nB) x\nC) y\nD) z"


def test_gpqa_mixes_its_options_in_a_fixed_order(tmp_path: Path) -> None:
    letters = set()
    for number in range(20):
        record = {"Question": f"q{number}", "Correct Answer": "right\n", "Explanation": "…"}
        record |= {f"Incorrect Answer {wrong}": f"wrong {wrong}" for wrong in (1, 2, 3)}
        first, again = only(tmp_path, record), only(tmp_path, record)
        assert first == again
        assert isinstance(first.key, Choices)
        assert first.key.options[first.key.right] == "right"
        letters.add(first.key.letter)
    assert letters == set("ABCD")


def test_human_eval_continues_its_prompt(tmp_path: Path) -> None:
    record = {
        "task_id": "HumanEval/0",
        "prompt": "def f(x):\n",
        "canonical_solution": "    return x\n",
        "test": "def check(candidate):\n    assert candidate(1) == 1\n",
        "entry_point": "f",
    }
    question = only(tmp_path, record)
    assert question.name == "HumanEval/0"
    assert question.key == CodeTests(language="python", tests=record["test"], entry_point="f", prefix="def f(x):\n")


WRONG = [
    ({"prompt": "q"}, "no key to grade an answer by"),
    ({"prompt": "q", "answer": "Paris"}, "field 'answer' alone does not say"),
    ({"prompt": "q", "math_answer": "1", "exact_answers": ["1"]}, "two kinds of key, math_answer and exact_answers"),
    ({"math_answer": "1"}, "no field 'prompt'"),
    ({"prompt": "q", "question": "q", "math_answer": "1"}, "'prompt' and 'question' are both prompts"),
    ({"prompt": " ", "math_answer": "1"}, "field 'prompt': must be a text that is not empty"),
    ({"prompt": [{"role": "judge", "content": "x"}], "math_answer": "1"}, "field 'prompt': message 1: unknown role"),
    ({"prompt": "q", "math_answer": " "}, "field 'math_answer': the answer is empty"),
    ({"prompt": "q", "math_answer": True}, "field 'math_answer' must be a text or a number"),
    ({"prompt": "q", "exact_answers": "Paris"}, "field 'exact_answers' must be a list of texts"),
    ({"prompt": "q", "choices": ["a", "b"]}, "field 'choices' needs 'answer'"),
    ({"prompt": "q", "choices": ["a", "b"], "answer": 2}, "field 'answer': the right option is number 2"),
    ({"prompt": "q", "choices": ["a", "b"], "answer": "C"}, "field 'answer': 'C' is no option of A, B"),
    ({"prompt": "q", "choices": ["B", "A"], "answer": "A"}, "field 'answer': 'A' is more than one option"),
    ({"prompt": "q", "choices": ["a"], "answer": 0}, "1 options: a choice has 2 to 26"),
    ({"problem": "q", "solution": "so it is 5"}, "field 'solution' has no \\boxed{…}"),
    ({"prompt": "q", "tests": "assert f()"}, "field 'entry_point' is missing"),
    ({"prompt": "q", "tests": "assert f()", "entry_point": "f()"}, "field 'entry_point': the entry point 'f()'"),
    ({"prompt": "q", "tests": "", "entry_point": "f"}, "field 'tests': there are no tests"),
    (
        {"prompt": "q", "tests": "assert f(1) =", "entry_point": "f"},
        "field 'tests': the tests are no program of Python",
    ),
    ({"prompt": "q", "tests": "assert g(1)", "entry_point": "f"}, "the tests neither define check nor call f"),
    ({"prompt": "q", "tests": "assert f()", "entry_point": "f", "language": "c"}, "programs in c are pairs"),
    ({"prompt": "q", "tests": [{"arguments": [1], "value": 2}]}, "need language python and an entry point"),
    ({"prompt": "q", "tests": [{"arguments": 1, "value": 2}], "entry_point": "f"}, "field 'tests': test 1 is not"),
    ({"prompt": "q", "math_answer": "1", "passage": "Long ago"}, "field 'passage' would change what is asked"),
    ({"prompt": "q", "math_answer": "1", "id": ""}, "field 'id' must be a text or a whole number"),
    (["q"], "a question is an object with fields, not list"),
    ("{", "Expecting property name"),
    ('{"prompt": "q", "math_answer": NaN}', "NaN is not a number of JSON"),
    ({"id": "good", "prompt": "q", "math_answer": "1"}, "the name 'good' is that of line 1 too"),
]


def test_pairs_of_input_and_output_are_tests_too(tmp_path: Path) -> None:
    calls, texts = [{"arguments": [1], "value": 2}], [{"stdin": "1", "stdout": "2"}]
    path = written(
        tmp_path,
        {"prompt": "q", "tests": calls, "entry_point": "f"},
        {"prompt": "r", "tests": texts, "language": "c++"},
    )
    keys = [question.key for question in read_questions(path)]
    assert [(key.entry_point, json.loads(key.tests)) for key in keys if isinstance(key, CodeTests)] == [
        ("f", calls),
        ("", texts),
    ]


@pytest.mark.parametrize(("record", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_line_is_named_with_its_field(record: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, {"id": "good", "prompt": "q", "math_answer": "1"}, record)
    with pytest.raises(InputError) as caught:
        read_questions(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, message in (("none.jsonl", "there is no file"), ("latin.jsonl", "UTF-8"), ("empty.jsonl", "no question")):
        with pytest.raises(InputError, match=message) as caught:
            read_questions(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(InputError, match="cannot be read: it is a folder"):
        read_questions(tmp_path)
