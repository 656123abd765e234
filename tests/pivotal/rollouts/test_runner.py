"""Many searches side by side: the same results in any order of events, and after any number of kills."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.grading.question import MathAnswer, Question
from megaphi.pivotal.search import QuestionResult
from tests.pivotal.searches import PLAN, search
from tests.pivotal.small_world import STOP, SmallGrader, SmallSource, question

QUESTIONS = 5


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, QuestionResult]:
    results, _ = search(tmp_path_factory.mktemp("straight") / "store", questions=QUESTIONS)
    assert sum(len(result.answers) for result in results.values()) >= 4
    return results


@given(order=st.integers(0, 10_000), at_once=st.integers(1, 40), in_flight=st.integers(1, 8))
@settings(max_examples=15)
def test_results_depend_on_no_order_of_events(
    order: int,
    at_once: int,
    in_flight: int,
    straight: dict[str, QuestionResult],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    source = SmallSource(order=order, at_once=at_once)
    found, _ = search(tmp_path_factory.mktemp("run") / "store", source=source, in_flight=in_flight)
    assert found == straight


def test_a_second_search_pays_for_nothing(straight: dict[str, QuestionResult], tmp_path: Path) -> None:
    _, first = search(tmp_path / "store")
    source, grader = SmallSource(), SmallGrader()
    again, tally = search(tmp_path / "store", source=source, grader=grader)
    assert again == straight
    assert tally.generated_rollouts == 0
    assert tally.stored_rollouts == first.generated_rollouts > 100
    assert all(request.scored for request in source.requests)
    assert grader.graded == 0


def test_a_new_answer_key_grades_again_and_generates_nothing(tmp_path: Path) -> None:
    search(tmp_path / "store")
    rekeyed = lambda number: Question(name=f"q{number}", prompt="?", key=MathAnswer("really even"))  # noqa: E731
    source, grader = SmallSource(), SmallGrader()
    _, tally = search(tmp_path / "store", source=source, grader=grader, question=rekeyed)
    assert tally.generated_rollouts == 0
    assert grader.graded == tally.stored_rollouts


def test_a_draw_is_one_rollout_for_each_key_with_numbers_of_its_own(tmp_path: Path) -> None:
    source = SmallSource()
    search(tmp_path / "store", source=source)
    asked = [(r.prompt, r.excluded_first, r.sampling.seed, r.sample) for r in source.requests if not r.scored]
    assert len(set(asked)) == len(asked)
    seeds = {(r.prompt, r.excluded_first): set() for r in source.requests if not r.scored}
    for request in source.requests:
        if not request.scored:
            seeds[request.prompt, request.excluded_first].add(request.sampling.seed)
    every = [seed for found in seeds.values() for seed in found]
    assert len(set(every)) == len(every)  # no two kinds of draw share random numbers
    assert max(len(found) for found in seeds.values()) == 2  # search and confirmation
    assert all(request.stop_tokens == {STOP} and request.family for request in source.requests if not request.scored)


def test_what_was_cut_off_or_not_decided_is_censored_and_named(tmp_path: Path) -> None:
    source = SmallSource(longest=2)
    found, tally = search(tmp_path / "store", source=source, questions=4)
    assert {result.left_out for result in found.values()} == {"cut off or undecided too often"}
    assert all(result.first.n == PLAN.first_rollouts for result in found.values())
    assert tally.censored == sum(result.first.censored for result in found.values()) > 10
    found, tally = search(tmp_path / "other", grader=SmallGrader(undecidable=2))
    named = {(name, reason) for name, listed in tally.undecided.items() for _, reason in listed}
    assert named == {(name, "the verifiers disagree") for name in tally.undecided}
    assert all(text.startswith("2") for listed in tally.undecided.values() for text, _ in listed)
    assert set(tally.undecided) <= set(found)


def test_a_search_killed_at_random_moments_comes_to_the_same_end(
    straight: dict[str, QuestionResult], tmp_path: Path
) -> None:
    generator, store = random.Random(4), tmp_path / "store"
    forked = multiprocessing.get_context("fork")
    kills = 0
    while kills < 10:
        process = forked.Process(target=search, args=(store,), kwargs={"seconds_per_batch": 0.02})
        process.start()
        before = size(store)
        while process.is_alive() and size(store) == before:  # it has begun to write
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.05))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert size(store) > 200
    found, tally = search(store)
    assert found == straight
    assert tally.stored_rollouts > 0
    assert tally.generated_rollouts > 0  # every process was killed before its end
    lines = [json.loads(line) for line in store.read_text().splitlines()]
    keys = [
        (line["question"], line["prefix"], line["excluded"], line["purpose"], line["number"])
        for line in lines
        if "tokens" in line
    ]
    assert len(set(keys)) == len(keys)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_questions_are_searched_by_their_success_rate(straight: dict[str, QuestionResult]) -> None:
    for result in straight.values():
        rate = result.first.successes / result.first.n
        expected = "too hard" if rate < 0.2 else "too easy" if rate > 0.8 else ""
        assert result.left_out == expected
        assert len(result.answers) == (0 if expected else 2)
    assert question(0).name in straight
