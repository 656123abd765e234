"""Generated exercises, solved a third time: from the words of the problem, as a reader would."""

from __future__ import annotations

import ast
import doctest
import functools
import re
from fractions import Fraction
from random import Random

import pytest
from exercises import arithmetic, generate
from exercises.exercise import Checked, Exercise
from exercises.generate import MAKERS, generate_exercises

NUMBER = re.compile(r"-?\d+")


@functools.cache
def exercises(topic: str | None = None) -> list[Exercise]:
    made = list(generate_exercises(4_000, seed=11)) if topic is None else exercises()
    return [exercise for exercise in made if topic in (None, exercise.topic)]


def numbers(text: str) -> list[int]:
    return [int(number) for number in NUMBER.findall(text)]


def test_the_same_seed_is_the_same_stream_without_repeats():
    again = list(generate_exercises(300, seed=11))
    assert again == exercises()[:300]
    assert again != list(generate_exercises(300, seed=12))
    assert len({exercise.problem + exercise.solution for exercise in exercises()}) == 4_000
    assert len({exercise.topic for exercise in exercises()}) == 24


@pytest.mark.parametrize(
    ("topic", "solve"),
    [
        ("addition", lambda a, b: str(a + b)),
        ("multiplication", lambda a, b: str(a * b)),
        ("order of operations", lambda a, b, c, d: str((a + b) * c + d)),  # "- 11" is read as one number
        ("greatest common divisor", lambda a, b: str(max(d for d in range(1, a + 1) if a % d == b % d == 0))),
        ("modular powers", lambda a, n, m: str(a**n % m)),
        ("prime factors", lambda n: f"{n} = " + " x ".join(map(str, trial_division(n)))),
    ],
)
def test_answers_from_the_numbers_of_the_problem(topic, solve):
    assert len(exercises(topic)) > 20
    for exercise in exercises(topic):
        found = numbers(exercise.problem.replace("- ", "-"))
        assert exercise.answer == solve(*found), exercise


def trial_division(n: int) -> list[int]:
    smallest = next((d for d in range(2, n) if n % d == 0), n)
    return [smallest, *([] if smallest == n else trial_division(n // smallest))]


def test_division():
    for exercise in exercises("division"):
        found = numbers(exercise.problem)
        quotient, remainder = numbers(exercise.answer)
        assert quotient * min(found) + remainder == max(found)
        assert 0 <= remainder < min(found)


def test_fractions():
    for exercise in exercises("fractions"):
        (terms,) = re.findall(r"(\d+)/(\d+) ([+-]) (\d+)/(\d+)", exercise.problem)
        a, b, sign, c, d = terms
        total = Fraction(int(a), int(b)) + int(f"{sign}1") * Fraction(int(c), int(d))
        assert exercise.answer == str(total)


@pytest.mark.parametrize("topic", ["linear equations", "quadratic equations", "systems of equations"])
def test_solutions_solve_their_equations(topic):
    for exercise in exercises(topic):
        equations = re.findall(r"[-\dxy^+ ]+ = [-\dxy+ ]*[\dxy]", exercise.problem.replace("x such", ""))
        assert equations, exercise
        for values in exercise.answer.split(" or "):
            solution = dict(re.findall(r"([xy]) = (-?\d+)", values))
            for equation in equations:
                left, right = (evaluate(side, solution) for side in equation.split(" = "))
                assert left == right, exercise


def evaluate(side: str, values: dict[str, str]) -> int:
    """A side such as `-4x^2 - x + 3` with numbers put in for the letters."""
    side = side.strip().removeprefix("is ").removeprefix("with ")
    side = re.sub(r"(?<=\d)(?=[xy])", "*", side).replace("^", "**")
    for letter, value in values.items():
        side = side.replace(letter, f"({value})")
    assert re.fullmatch(r"[-+*() \d]+", side), side
    return eval(side)


def test_every_written_step_is_right():
    """Whatever a solution says of the form `a + b = c`, with any of the four operations."""
    operations = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "x": lambda a, b: a * b,
        "/": lambda a, b: Fraction(a, b),
    }
    checked = 0
    not_part_of_more = r"(?<![-+x/=] )(?<![\w.^/(-])"
    step = not_part_of_more + r"(-?\d+) ([-+x/]) (-?\d+) = (-?\d+)(?![\d./]|[.]\d| [-+x/])"
    for exercise in exercises():
        for a, operation, b, c in re.findall(step, exercise.solution):
            assert operations[operation](int(a), int(b)) == int(c), exercise
            checked += 1
    assert checked > 2_500


def test_shown_python_results_are_what_python_gives():
    """Solutions show a function and a session: doctest runs them; `What does f(x) return?` is evaluated."""
    shown = returned = 0
    for exercise in exercises("python"):
        if exercise.answer.startswith("the function"):
            test = doctest.DocTestParser().get_doctest(exercise.solution, {}, "exercise", None, 0)
            (source,) = re.findall(r"(?ms)^def .*?(?=^It gives)", exercise.solution)
            exec(source, test.globs)
            result = doctest.DocTestRunner(verbose=False).run(test)
            assert (result.failed, result.attempted) == (0, 3), exercise
            shown += 1
        else:
            (source,) = re.findall(r"(?ms)^def .*?^(?=What)", exercise.problem)
            (call,) = re.findall(r"^What .*?(\w+\(.*\))", exercise.problem, re.MULTILINE)
            space: dict[str, object] = {}
            exec(source, space)
            assert ast.literal_eval(exercise.answer) == eval(call, space), exercise
            returned += 1
    assert min(shown, returned) > 50


def test_a_family_that_errs_stops_the_stream(monkeypatch):
    def wrong(random: Random) -> Checked:
        checked = arithmetic.long_addition(random)
        return Checked(checked.exercise, holds=False)

    monkeypatch.setattr(generate, "MAKERS", (*MAKERS, wrong))
    with pytest.raises(AssertionError, match="the check refutes the answer"):
        list(generate_exercises(200, seed=0))


def test_more_than_there_is(monkeypatch):
    def one_of_five(random: Random) -> Checked:
        return Checked(Exercise("dice", str(random.randrange(5)), "", ""), holds=True)

    monkeypatch.setattr(generate, "MAKERS", (one_of_five,))
    with pytest.raises(ValueError, match="only 5 different exercises"):
        list(generate_exercises(6, seed=0))


def test_an_exercise_as_text_holds_all_of_it():
    exercise = exercises()[0]
    for seed in range(10):
        text = exercise.text(Random(seed))
        assert text.index(exercise.problem) < text.index(exercise.solution) < len(text) - len(exercise.answer)
        assert text.endswith(exercise.answer)
