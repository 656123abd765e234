"""Mathematics: records of MATH, GSM8K, MGSM and AMC, prompts, clusters of translations, points of papers, the judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from megaphi.conversation import Conversation, to_plain
from megaphi.errors import InputError
from megaphi.evaluation.task import (
    PHI4,
    ArrangedTask,
    Continue,
    GradingTools,
    Item,
    TaskResponse,
    switches_on,
)
from megaphi.evaluation.tasks import find_task
from megaphi.evaluation.tasks.mathematics.languages import REQUESTS
from megaphi.evaluation.tasks.mathematics.number_reading import ANSWER_WORDS
from megaphi.grading.grader import Grader
from megaphi.sampling import Sampling

PROBLEM = {"problem": "Solve $x=1+1$.", "solution": "So $x=\\boxed{2}$.", "level": "Level 1", "type": "Algebra"}
GSM8K = {"question": "How many?", "answer": "6 * 3 = <<6*3=18>>18\n#### 1,018"}
MGSM = {"question": "Wie viele?", "answer": None, "answer_number": 18, "equation_solution": None, "language": "de"}
AMC = {"exam": "10A", "number": 3, "problem": "What?", "choices": ["1", "2", "3", "4", "5"], "answer": "B"}


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(processes=1) as opened:
        yield opened


def test_records_of_all_sets() -> None:
    item = find_task("math").read(PROBLEM)
    assert (item.gold, item.group, item.key.solution) == ("2", "Algebra/Level 1", "So $x=\\boxed{2}$.")
    five_hundred = {**PROBLEM, "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "test/algebra/1.json"}
    assert find_task("math").read(five_hundred).name == "test/algebra/1.json"
    assert find_task("math").read({"Question": "Solve.", "Answer": 2}).gold == "2"
    assert find_task("gsm8k").read(GSM8K).gold == "1018"
    assert find_task("gsm8k").read({"question": "How many?", "answer": "-5"}).gold == "-5"
    german = find_task("mgsm").read(MGSM)
    assert (german.gold, german.group) == ("18", "latin/de")
    assert find_task("mgsm").read({**MGSM, "answer_number": np.int64(18)}) == german
    assert find_task("mgsm").read({**MGSM, "language": "th"}).group == "non_latin/th"


@pytest.mark.parametrize(
    ("task", "record", "said"),
    [
        ("math", {"solution": "\\boxed{2}"}, "column 'problem or question or Question' is missing"),
        ("math", {"problem": "Solve."}, "columns 'answer' and 'solution' are both missing"),
        ("math", {**PROBLEM, "solution": "It is 2."}, "column 'solution' has no \\boxed result"),
        ("math", {**PROBLEM, "answer": " "}, "column 'answer' must be a formula or a number"),
        ("math", {**PROBLEM, "answer": ["2"]}, "column 'answer' must be a formula or a number, not a list of 1"),
        ("gsm8k", {"question": "How many?"}, "column 'answer_number or answer' is missing"),
        ("gsm8k", {**GSM8K, "answer": "six"}, "column 'answer' must be a whole number or a solution that ends with"),
        ("gsm8k", {**GSM8K, "answer": "#### 1.5"}, "must be a whole number"),
        ("gsm8k", {**GSM8K, "answer": True}, "must be a whole number"),
        ("mgsm", {"question": "Wie viele?", "answer_number": 18}, "column 'language or lang' is missing"),
        ("mgsm", {**MGSM, "language": "german"}, "column 'language' must be one of bn, de, en"),
        ("amc", {**AMC, "exam": " "}, "column 'exam' must name papers"),
        ("amc", {**AMC, "exam": ["10A", "10A"]}, "column 'exam' must name papers, as 10A or 10A,12A, each once"),
        ("amc", {**AMC, "choices": ["1", "2"]}, "a question of the AMC has 5 options, not 2"),
        ("amc", {**AMC, "answer": "F"}, "column 'answer' is option number 5"),
    ],
)
def test_a_wrong_column_is_one_clear_error(task: str, record: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        find_task(task).read(record)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prompts_are_one_message_with_the_published_rules() -> None:
    for name, record, repeats in (("math", PROBLEM, 10), ("gsm8k", GSM8K, 1), ("mgsm", MGSM, 1), ("amc", AMC, 10)):
        task = find_task(name)
        asked = task.ask(task.read(record), [], switches_on(task, PHI4, {}))
        assert isinstance(asked, Continue)
        assert isinstance(asked.prompt, Conversation)
        (message,) = to_plain(asked.prompt)
        assert message["role"] == "user"
        assert str(record.get("problem", record.get("question"))) in message["content"]
        assert (asked.rules.temperature, asked.rules.max_tokens, asked.repeats) == (0.5, 2_048, repeats)


def test_each_language_is_asked_in_its_words() -> None:
    task = find_task("mgsm")
    for language, word in ANSWER_WORDS.items():
        asked = task.ask(task.read({**MGSM, "language": language}), [], frozenset())
        assert isinstance(asked, Continue)
        assert isinstance(asked.prompt, Conversation)
        content = asked.prompt.messages[0].content
        assert f"{word}:" in content
        assert content == f"{REQUESTS[language]}\n\nWie viele?"


def mgsm_items(counts: dict[str, int], **columns: Any) -> list[Item]:
    task = find_task("mgsm")
    assert isinstance(task, ArrangedTask)
    records = [
        {**MGSM, **columns, "language": language, "question": f"{language} {number}?", "answer_number": number}
        for language, count in counts.items()
        for number in range(count)
    ]
    return task.arranged([task.read(record) for record in records])


def test_translations_of_one_problem_share_a_cluster() -> None:
    items = mgsm_items({"de": 3, "en": 3, "th": 3})
    assert [one.cluster for one in items] == ["problem 1", "problem 2", "problem 3"] * 3
    assert len({one.name for one in items}) == 9
    assert [one.cluster for one in mgsm_items({"de": 2, "en": 1}, index=4)] == ["4"] * 3
    with pytest.raises(InputError, match=r"different numbers of problems \(de 3, en 2\)"):
        mgsm_items({"de": 3, "en": 2})


def test_papers_give_their_points(grader: Grader) -> None:
    """A question of two papers counts in both, so that means over a paper are those of its 25 questions."""
    task = find_task("amc")
    assert isinstance(task, ArrangedTask)
    records = [AMC, {**AMC, "exam": "10A,12A", "number": 9}, {**AMC, "exam": ["12A"], "number": 4}]
    items = task.arranged([task.read(record) for record in records])
    assert [(one.name, one.cluster, one.group) for one in items] == [
        ("10A-3 in 10A", "10A-3", "10A"),
        ("10A-9 in 10A", "10A-9", "10A"),
        ("10A-9 in 12A", "10A-9", "12A"),
        ("12A-4 in 12A", "12A-4", "12A"),
    ]
    texts = ["\\boxed{B}", "\\boxed{}", "\\boxed{C}", "no box"]
    asked = task.ask(items[0], [], frozenset())
    responses = [TaskResponse(item=item, asked=asked, text=text) for item, text in zip(items, texts, strict=True)]
    for on, points in ((frozenset({"no-answer-is-blank"}), 6 + 1.5 + 0 + 1.5), (frozenset[str](), 6 + 1.5)):
        grades = task.grade(responses, on, GradingTools(grader=grader))
        mean = sum(one.scores["points"] for one in grades) / 4
        assert mean * 6 * 4 == points
        assert task.derived["points_of_150"]({"points": mean}) == pytest.approx(points * 150 / 24)
        assert sum(one.scores["accuracy"] for one in grades) == 1


class CountingJudge:
    """Says yes, and keeps what it was asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[Conversation], Sampling]] = []

    def answers(self, prompts: Sequence[Conversation], rules: Sampling) -> list[str | None]:
        self.asked.append((prompts, rules))
        return ["yes"] * len(prompts)


def test_the_judge_is_asked_as_published_and_once_for_a_pair_otherwise(grader: Grader) -> None:
    task = find_task("math")
    item = task.read({**PROBLEM, "answer": "7\\%"})
    asked = task.ask(item, [], frozenset())
    texts = ["Answer: {first} 7", "Answer: {first} 7", "Answer: 8", ""]
    responses = [TaskResponse(item=item, asked=asked, repeat=repeat, text=text) for repeat, text in enumerate(texts)]
    judge, on = CountingJudge(), switches_on(task, PHI4, {})
    tools = GradingTools(grader=grader, judge=judge)
    assert task.judge_requests(on)
    assert not task.judge_requests(frozenset())
    task.grade(responses, on, tools)
    task.grade(responses, on - {"judge-samples", "judge-asked-about-nothing", "judge-reads-it-raw"}, tools)
    (published, rules), (ours, own_rules) = judge.asked
    assert (len(published), rules.temperature, rules.max_tokens) == (4, 0.5, 1_024)
    assert (len(ours), own_rules.temperature) == (2, 0.0)
    assert [message["role"] for message in to_plain(published[0])] == ["user"]
    assert published[0].messages[0].content.endswith("First: 7\\%\n    Second: {first} 7")
    assert published[3].messages[0].content.endswith("Second: None")
    fenced = ours[0].messages[0].content
    assert fenced.startswith("Text between '--- ")
    assert "begin second ---\n{first} 7\n--- " in fenced
    task.grade([], on, tools)
    assert len(judge.asked) == 2


def test_a_problem_without_a_judge_is_a_mistake_of_the_caller(grader: Grader) -> None:
    task = find_task("math")
    item = task.read(PROBLEM)
    response = TaskResponse(item=item, asked=task.ask(item, [], frozenset()), text="Answer: 2")
    with pytest.raises(AssertionError, match="refused before anything is asked"):
        task.grade([response], switches_on(task, PHI4, {}), GradingTools(grader=grader))


def test_base_models_see_worked_examples(grader: Grader) -> None:
    task = find_task("gsm8k_base")
    shots = [task.read({"question": f"Shot {number}?", "answer": f"So.\n#### {number}"}) for number in range(9)]
    asked = task.ask(task.read(GSM8K), shots, frozenset())
    assert isinstance(asked, Continue)
    worked = "".join(f"Question: Shot {number}?\nAnswer: So.\n#### {number}\n\n" for number in range(8))
    assert asked.prompt == f"{worked}Question: How many?\nAnswer:"
    assert (asked.rules.temperature, asked.rules.stop) == (0.0, ("Question:", "</s>", "<|im_end|>"))
    with pytest.raises(InputError, match=r"the worked example .* has no solution that ends with '#### 72'"):
        task.ask(
            task.read(GSM8K), [task.read({"question": f"{number}?", "answer": "1"}) for number in range(8)], frozenset()
        )
    task = find_task("math_base")
    shots = [task.read({**PROBLEM, "problem": f"Shot {number}."}) for number in range(4)]
    item = task.read(PROBLEM)
    asked = task.ask(item, shots, frozenset())
    assert isinstance(asked, Continue)
    shown = "".join(f"Problem:\nShot {number}.\n\nSolution: So $x=\\boxed{{2}}$.\n\n" for number in range(4))
    assert asked.prompt == f"{shown}Problem:\nSolve $x=1+1$.\n\nSolution:"
    texts = [" So $x=\\boxed{\\frac{4}{2}}$.", " The final answer is 3.", " I do not know what to say about it at all"]
    responses = [TaskResponse(item=item, asked=asked, text=text) for text in texts]
    grades = task.grade(responses, frozenset(), GradingTools(grader=grader))
    assert [(one.scores["accuracy"], one.problem) for one in grades] == [
        (1.0, ""),
        (0.0, ""),
        (0.0, "no answer extracted"),
    ]
