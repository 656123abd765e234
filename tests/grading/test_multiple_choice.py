r"""The option that a free answer chooses: the forms of evaluations, thinking aloud, and answers that choose none."""

from __future__ import annotations

import time

import pytest

from megaphi.grading.multiple_choice import chosen_option, grade_multiple_choice
from megaphi.grading.question import LETTERS, Choices

CITIES = ("Berlin", "Paris", "Rome", "New York")

CHOOSES = [
    ("Answer: B", "B"),
    ("answer: b", "B"),
    ("Answer: $B$", "B"),
    ("**Answer:** B", "B"),
    ("**Answer: B**", "B"),
    ("Answer: (B)", "B"),
    ("Answer: **B**", "B"),
    ("Answer: B) Paris", "B"),
    ("Answer: B. Paris", "B"),
    ("Answer: Paris", "B"),
    ("Answer: B\n\nIs there anything else?", "B"),
    ("The capital of Italy is Rome, of France it is Paris.\nAnswer: B", "B"),
    ("The answer is (B).", "B"),
    ("The answer is B.", "B"),
    ("So the correct answer is B because Berlin is in Germany.", "B"),
    ("Therefore, the correct option is B.", "B"),
    ("The best choice is: B", "B"),
    ("I would say the answer is option B.", "B"),
    ("The answer is \\boxed{B}", "B"),
    ("$\\boxed{\\text{B}}$", "B"),
    ("\\boxed{(B)}", "B"),
    ("\\boxed{\\text{(B) Paris}}", "B"),
    ("\\boxed{Paris}", "B"),
    ("B", "B"),
    ("b", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    ("B) Paris", "B"),
    ("B. Paris", "B"),
    ("Paris", "B"),
    ("paris.", "B"),
    ("new york", "D"),
    ("B\nBecause it is the seat of the government.", "B"),
    ("The answer is A. Wait, that is wrong. The answer is C.", "C"),
    ("Answer: A\nLet me check again.\nAnswer: D", "D"),
    ("The answer is Paris, which everybody knows.", "B"),
    ("(B) is correct.", "B"),
    ("Option B is the correct one.", "B"),
    ("A is not right and C is wrong. I choose B.", "B"),
    ("Answer: B. Option A is in Germany and option C in Italy.", "B"),
    ("The answer is A because it rains.", "A"),
    ("I choose Paris, A city in France.", "B"),
    ("Berlin is in Germany. The right answer must be Paris.", "B"),
]


@pytest.mark.parametrize(("answer", "letter"), CHOOSES)
def test_the_option_that_is_chosen(answer: str, letter: str) -> None:
    assert chosen_option(answer, CITIES) == LETTERS.index(letter)


NONE = [
    "",
    "I do not know.",
    "Answer: E",
    "Answer: Madrid",
    "Answer:",
    "A city in France.",
    "The answer is not B.",
    "This is a question about capitals. Both Berlin and Paris are capitals of large countries.",
    "\\boxed{Z}",
]


@pytest.mark.parametrize("answer", NONE)
def test_an_answer_that_chooses_none(answer: str) -> None:
    assert chosen_option(answer, CITIES) is None


SEVERAL = [
    "The answer is A or B.",
    "Answer: A and C",
    "Answer: B, C",
    "The answer is either (A) or (D).",
    "The answer is Berlin or Paris.",
    "\\boxed{A, B}",
    "The correct answer is B, not A.",
]


@pytest.mark.parametrize("answer", SEVERAL)
def test_a_sentence_that_names_two_chooses_none(answer: str) -> None:
    assert "names several" in str(chosen_option(answer, CITIES))
    for right in range(4):
        assert grade_multiple_choice(Choices(CITIES, right), answer).outcome == "wrong"


def test_options_that_look_like_letters_or_sentences() -> None:
    vitamins = ("vitamin A", "vitamin B", "vitamin C", "vitamin D")
    assert chosen_option("Answer: C) vitamin C", vitamins) == 2
    assert chosen_option("Answer: D) vitamin D", vitamins) == 3
    assert chosen_option("The answer is vitamin A.", vitamins) == 0
    pets = ("a cat", "a dog", "no pet", "a dog and a cat")
    assert chosen_option("The answer is a dog.", pets) == 1
    assert chosen_option("Answer: A dog", pets) == 1
    assert chosen_option("The answer is a dog and a cat.", pets) == 3
    changes = ("It grows", "It does not change", "It shrinks")
    assert chosen_option("Answer: B) It does not change", changes) == 1
    assert chosen_option("Answer: B", changes) == 1
    numbers = ("1", "10", "100")
    assert chosen_option("The answer is 10.", numbers) == 1
    assert chosen_option("\\boxed{100}", numbers) == 2


def test_the_verdict_has_its_reason() -> None:
    key = Choices(CITIES, 1)
    assert grade_multiple_choice(key, "Answer: B").outcome == "right"
    assert grade_multiple_choice(key, "Answer: C") == grade_multiple_choice(key, "Answer: Rome")
    assert grade_multiple_choice(key, "Answer: C").reason == "it chooses C"
    assert grade_multiple_choice(key, "who knows").reason == "it chooses no option"


@pytest.mark.parametrize(
    "piece", ["answer is ", "Answer:", "A ", "(A) ", ". ", "\\boxed{", "\n", "answer  ", "is correct "]
)
def test_hostile_repetition_takes_linear_time(piece: str) -> None:
    began = time.process_time()
    chosen_option(piece * (1_000_000 // len(piece)), CITIES)
    assert time.process_time() - began < 3
