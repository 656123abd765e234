"""Answers that people wrote for benchmarks, as lm-eval carries them: chains of thought of MMLU, GSM8K and MATH.

281 questions of MMLU's `dev` with their options, eight of GSM8K and four of MATH, each with a worked answer. Corrected,
every one of them is right; their usual last sentence, `The answer is (B).`, is no answer in the published form.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from megaphi.evaluation.task import PHI4, Continue, EvaluationTask, Grade, GradingTools, Item, TaskResponse, switches_on
from megaphi.evaluation.tasks import find_task
from megaphi.grading.grader import Grader
from megaphi.sampling import Sampling

lm_eval = pytest.importorskip("lm_eval", reason="the extra megaphi[eval] is not installed")
FOLDER = Path(lm_eval.__path__[0]) / "tasks"
ASKED = Continue(prompt="", rules=Sampling())


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(processes=1) as opened:
        yield opened


def grade(task: EvaluationTask, item: Item, text: str, on: frozenset[str], grader: Grader) -> Grade:
    return task.grade([TaskResponse(item=item, asked=ASKED, text=text)], on, GradingTools(grader=grader))[0]


def worked_choices() -> list[tuple[dict[str, object], str]]:
    """(record, chain of thought) of each question."""
    found = []
    for subject, text in json.loads((FOLDER / "mmlu/flan_cot_fewshot/_cot_prompts.json").read_text()).items():
        for one in re.split(r"\n\nQ: ", text)[1:]:
            match = re.fullmatch(r"(.*)\n(\(A\) .*)\nA: (.*?)\s*", one, re.DOTALL)
            letter = re.findall(r"answer is \(?([A-D])\)?", one)
            if match is None or not letter:
                continue
            options = [part.strip() for part in re.split(r"\([A-D]\) ", match[2])[1:]]
            if len(options) == 4:
                found.append(
                    ({"question": match[1], "choices": options, "answer": letter[-1], "subject": subject}, match[3])
                )
    return found


def test_chains_of_thought_choose_the_right_option(grader: Grader) -> None:
    worked = worked_choices()
    assert len(worked) >= 270
    for name in ("mmlu", "exam"):
        task = find_task(name)
        on = switches_on(task, PHI4, {})
        for record, chain in worked:
            item = task.read(record)
            assert grade(task, item, chain, frozenset(), grader).scores["accuracy"] == 1.0, chain[-100:]
            as_asked = re.sub(r"The answer is \(?([A-D])\)?\.?$", r"\nAnswer: \1", chain)
            assert grade(task, item, as_asked, on, grader).scores["accuracy"] == 1.0, as_asked[-100:]


def test_worked_sums_give_their_number(grader: Grader) -> None:
    samples = yaml.safe_load((FOLDER / "gsm8k/gsm8k-cot.yaml").read_text())["fewshot_config"]["samples"]
    assert len(samples) == 8
    for one in samples:
        number = re.findall(r"The answer is (\d+)\.", one["target"])[0]
        record = {"question": one["question"], "answer": f"#### {number}"}
        task, base = find_task("gsm8k"), find_task("gsm8k_base")
        assert grade(task, task.read(record), one["target"], frozenset(), grader).scores == {"accuracy": 1.0}
        published = grade(task, task.read(record), one["target"], switches_on(task, PHI4, {}), grader)
        assert published.problem == "no answer extracted"
        by_hashes = grade(base, base.read(record), one["target"], switches_on(base, PHI4, {}), grader)
        assert by_hashes.scores == {"exact_match": 0.0, "flexible": 1.0}
        assert grade(base, base.read(record), one["target"], frozenset(), grader).scores["exact_match"] == 1.0


def test_solutions_of_competition_problems_are_right(grader: Grader) -> None:
    source = ast.parse((FOLDER / "minerva_math/utils.py").read_text())  # it cannot be imported with our versions
    lists = [node for node in ast.walk(source) if isinstance(node, ast.Return) and isinstance(node.value, ast.List)]
    results = []
    for one in ast.literal_eval(lists[0].value or lists[0]):
        for name in ("math", "math_base"):
            task = find_task(name)
            item = task.read(one)
            assert grade(task, item, one["solution"], frozenset(), grader).scores == {"accuracy": 1.0}
        results.append(item.gold)
    assert results == ["[2,5)", "24", "16", "-\\frac{2}{3}"]
