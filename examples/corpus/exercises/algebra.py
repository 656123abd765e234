"""Equations and sequences. Every solution is checked by substituting it."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from random import Random

from exercises.exercise import Checked, Exercise


def linear_equation(random: Random) -> Checked:
    """a x + b = c x + d with a whole solution."""
    x, a, c = random.randint(-12, 12), random.randint(4, 9), random.choice([-4, -3, -2, -1, 1, 2])
    b = random.randint(-20, 20)
    d = a * x + b - c * x
    difference = a - c
    solution = (
        f"Subtract {_term(c, 'x')} from both sides: {_term(difference, 'x')} {_signed(b)} = {d}.\n"
        f"Then {_term(difference, 'x')} = {d} {_signed(-b)} = {d - b}.\n"
        f"Divide by {difference}: x = {Fraction(d - b, difference)}."
    )
    ask = random.choice(["Solve for x: {e}.", "Find x such that {e}.", "For which x is {e}?"])
    problem = ask.format(e=f"{_term(a, 'x')} {_signed(b)} = {_term(c, 'x')} {_signed(d)}")
    found = (d - b) // difference
    exercise = Exercise("linear equations", problem, solution, f"x = {found}")
    return Checked(exercise, a * found + b == c * found + d)


def _term(factor: int, name: str) -> str:
    return {1: name, -1: f"-{name}"}.get(factor, f"{factor}{name}")


def _signed(value: int) -> str:
    return f"+ {value}" if value >= 0 else f"- {-value}"


def linear_system(random: Random) -> Checked:
    """Two equations in two unknowns, by elimination."""
    x, y = random.randint(-9, 9), random.randint(-9, 9)
    a, b, c = random.randint(1, 6), random.randint(1, 6), random.randint(1, 6)
    d = random.choice([value for value in range(-6, 7) if value and a * value != b * c])
    e, f = a * x + b * y, c * x + d * y
    determinant = a * d - b * c
    solution = (
        f"Multiply the first equation by {d} and the second by {b}, and subtract: "
        f"({a * d} - {b * c}) x = {d * e} - {b * f}, so {determinant} x = {d * e - b * f} and x = {x}. "
        f"Put x = {x} into the first: {a} x ({x}) {_signed(b)} y = {e}, so {_term(b, 'y')} = {e - a * x} and y = {y}."
    )
    problem = f"Solve the system\n{_term(a, 'x')} + {_term(b, 'y')} = {e}\n{_term(c, 'x')} {_signed(d)}y = {f}"
    found_x, found_y = Fraction(d * e - b * f, determinant), Fraction(a * f - c * e, determinant)
    holds = (found_x, found_y) == (x, y) and a * found_x + b * found_y == e and c * found_x + d * found_y == f
    return Checked(Exercise("systems of equations", problem, solution, f"x = {x}, y = {y}"), holds)


def quadratic_equation(random: Random) -> Checked:
    """x^2 + p x + q = 0 with whole roots, by factoring."""
    r, s = sorted((random.randint(-9, 9), random.randint(-9, 9)))
    p, q = -(r + s), r * s
    solution = (
        f"We look for two numbers whose product is {q} and whose sum is {r + s}: these are {r} and {s}. "
        f"So the left side is (x {_signed(-r)})(x {_signed(-s)}), which is zero for x = {r} and for x = {s}."
    )
    middle = f" {_signed(p)}x" if p else ""
    last = f" {_signed(q)}" if q else ""
    ask = random.choice(["Solve {e}.", "Find all x with {e}.", "What are the roots of {e}?"])
    answer = f"x = {r}" if r == s else f"x = {r} or x = {s}"
    exercise = Exercise("quadratic equations", ask.format(e=f"x^2{middle}{last} = 0"), solution, answer)
    roots = {x for x in range(-100, 101) if x * x + p * x + q == 0}
    return Checked(exercise, roots == {r, s})


def arithmetic_sequence(random: Random) -> Checked:
    """A term of an arithmetic sequence and the sum up to it."""
    first, step, n = random.randint(-10, 30), random.choice([-7, -3, -2, 2, 3, 4, 5, 8, 11]), random.randint(8, 40)
    term = first + (n - 1) * step
    total = Fraction(n * (first + term), 2)
    shown = ", ".join(str(first + index * step) for index in range(4))
    solution = (
        f"Each term is {abs(step)} {'more' if step > 0 else 'less'} than the one before, so term {n} is "
        f"{first} {_signed((n - 1) * step)} = {term}. The sum of the first {n} terms is "
        f"{n} x ({first} {_signed(term)}) / 2 = {total}."
    )
    problem = f"A sequence starts {shown}, ... What is its term number {n}, and what is the sum of its first {n} terms?"
    exercise = Exercise("sequences", problem, solution, f"term {term}, sum {total}")
    terms = [first + index * step for index in range(n)]
    return Checked(exercise, terms[-1] == term and sum(terms) == total)


def geometric_sequence(random: Random) -> Checked:
    """The next terms of a geometric sequence."""
    first, ratio, known = random.randint(1, 9), random.choice([2, 3, 4, -2, 5]), random.randint(3, 4)
    terms = [first * ratio**index for index in range(known + 2)]
    shown = ", ".join(map(str, terms[:known]))
    solution = (
        f"{terms[1]} / {terms[0]} = {ratio} and {terms[2]} / {terms[1]} = {ratio}: every term is {ratio} times the one "
        f"before. {terms[known - 1]} x {ratio} = {terms[known]}, and {terms[known]} x {ratio} = {terms[known + 1]}."
    )
    ask = random.choice(["What are the next two terms of {s}, ...?", "Continue the sequence {s}, ... by two terms."])
    answer = f"{terms[known]}, {terms[known + 1]}"
    exercise = Exercise("sequences", ask.format(s=shown), solution, answer)
    holds = all(later * terms[0] == earlier * terms[1] for earlier, later in pairwise(terms))
    return Checked(exercise, holds)


FAMILY = (linear_equation, linear_system, quadratic_equation, arithmetic_sequence, geometric_sequence)
