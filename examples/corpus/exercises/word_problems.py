"""Short stories with numbers: shopping, travel, ages, work, chance, shapes.

Checked by simulation or by trying every case, not by the formula that the solution shows.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, permutations
from math import comb
from random import Random

from exercises.exercise import GOODS, NAMES, Checked, Exercise


def shopping(random: Random) -> Checked:
    """Change from a note after buying two kinds of things."""
    name = random.choice(NAMES)
    first, second = random.sample(GOODS, 2)
    n, m, p, q = random.randint(2, 9), random.randint(2, 9), random.randint(2, 12), random.randint(2, 12)
    cost = n * p + m * q
    note = next(note for note in (20, 50, 100, 200, 500) if note >= cost)
    problem = random.choice(
        [
            f"{name} buys {n} {first} for {p} euros each and {m} {second} for {q} euros each, and pays with "
            f"{note} euros. How much change does {name} get?",
            f"At the market {first} cost {p} euros and {second} cost {q} euros apiece. {name} takes {n} {first} and "
            f"{m} {second}. What is left of {note} euros?",
        ]
    )
    solution = (
        f"The {first} cost {n} x {p} = {n * p} euros, the {second} {m} x {q} = {m * q} euros, together {cost} euros. "
        f"{note} - {cost} = {note - cost}."
    )
    spent = sum([p] * n) + sum([q] * m)
    return Checked(Exercise("shopping", problem, solution, f"{note - cost} euros"), note - spent == note - cost)


def travel(random: Random) -> Checked:
    """Two travellers towards each other; when do they meet?"""
    one, other = random.sample(NAMES, 2)
    v, w, hours = random.randint(4, 60), random.randint(4, 60), random.randint(1, 9)
    distance = (v + w) * hours
    problem = (
        f"{one} and {other} start at the same time from two towns {distance} km apart and travel towards each other, "
        f"{one} at {v} km per hour and {other} at {w} km per hour. After how many hours do they meet, and how far has "
        f"{one} come by then?"
    )
    solution = (
        f"Together they cover {v} + {w} = {v + w} km each hour. {distance} / {v + w} = {hours}. In {hours} hours "
        f"{one} covers {hours} x {v} = {hours * v} km."
    )
    left, right, passed = 0, distance, 0
    while left < right:
        left, right, passed = left + v, right - w, passed + 1
    answer = f"after {hours} hours, {hours * v} km"
    return Checked(Exercise("travel", problem, solution, answer), left == right == hours * v and passed == hours)


def ages(random: Random) -> Checked:
    """One is k times as old as the other; in n years only m times."""
    old, young = random.sample(NAMES, 2)
    age, factor = random.randint(2, 20), random.choice([3, 4, 5])
    later = age * (factor - 2)
    problem = (
        f"{old} is {factor} times as old as {young}. In {later} years {old} will be twice as old as {young}. "
        f"How old are they now?"
    )
    solution = (
        f"Let {young} be x years old, so {old} is {factor}x. In {later} years: {factor}x + {later} = 2(x + {later}), "
        f"which gives {factor - 2 if factor > 3 else ''}x = {later} and x = {age}. "
        f"{old} is {factor} x {age} = {factor * age}."
    )
    found = [x for x in range(1, 200) if factor * x + later == 2 * (x + later)]
    answer = f"{young} is {age}, {old} is {factor * age}"
    return Checked(Exercise("ages", problem, solution, answer), found == [age])


def shared_work(random: Random) -> Checked:
    """Two workers with different speeds work together."""
    one, other = random.sample(NAMES, 2)
    a, b = random.randint(2, 12), random.randint(2, 12)
    together = Fraction(a * b, a + b)
    problem = f"{one} paints a fence in {a} hours, {other} in {b} hours. How long do they need together?"
    solution = (
        f"In one hour {one} paints 1/{a} and {other} 1/{b} of the fence, together "
        f"{b}/{a * b} + {a}/{a * b} = {a + b}/{a * b}. The whole fence takes {a * b}/{a + b} hours"
        + (f" = {together} hours." if str(together) != f"{a * b}/{a + b}" else ".")
    )
    holds = together / a + together / b == 1
    return Checked(Exercise("shared work", problem, solution, f"{together} hours"), holds)


def drawing_balls(random: Random) -> Checked:
    """Probability of two balls of one colour, without putting back."""
    red, blue = random.randint(2, 9), random.randint(2, 9)
    total = red + blue
    answer = Fraction(red * (red - 1) + blue * (blue - 1), total * (total - 1))
    problem = (
        f"A bag holds {red} red and {blue} blue balls. Two are drawn one after the other without putting back. "
        f"What is the probability that both have the same colour?"
    )
    solution = (
        f"Both red: {red}/{total} x {red - 1}/{total - 1} = {red * (red - 1)}/{total * (total - 1)}. "
        f"Both blue: {blue}/{total} x {blue - 1}/{total - 1} = {blue * (blue - 1)}/{total * (total - 1)}. "
        f"The sum is {red * (red - 1) + blue * (blue - 1)}/{total * (total - 1)}, that is {answer}."
    )
    pairs = list(combinations("r" * red + "b" * blue, 2))
    holds = Fraction(sum(1 for x, y in pairs if x == y), len(pairs)) == answer
    return Checked(Exercise("probability", problem, solution, str(answer)), holds)


def committees(random: Random) -> Checked:
    """Count the ways to choose a committee."""
    people, seats = random.randint(4, 16), random.randint(2, 4)
    name, goods = random.choice(NAMES), random.choice(GOODS)
    answer = comb(people, seats)
    above = " x ".join(str(people - index) for index in range(seats))
    below = " x ".join(str(index) for index in range(seats, 0, -1))
    problem = random.choice(
        [
            f"In how many ways can {seats} of {people} people be chosen for a committee?",
            f"{people} teams take part. How many groups of {seats} teams are possible?",
            f"{name} has {people} different {goods} and takes {seats} of them along. How many choices are there?",
        ]
    )
    solution = f"The order does not matter: ({above}) / ({below}) = {answer}."
    holds = answer == len(list(combinations(range(people), seats)))
    return Checked(Exercise("counting", problem, solution, str(answer)), holds)


def right_triangle(random: Random) -> Checked:
    """The third side and the area of a right triangle with whole sides."""
    m, n, k = random.randint(2, 6), random.randint(1, 5), random.randint(1, 4)
    if m <= n:
        m, n = n + 1, m
    a, b, c = k * (m * m - n * n), k * 2 * m * n, k * (m * m + n * n)
    problem = (
        f"The legs of a right triangle are {a} cm and {b} cm long. How long is the hypotenuse, and what is the area?"
    )
    solution = (
        f"By Pythagoras {a}^2 + {b}^2 = {a * a} + {b * b} = {a * a + b * b}, whose square root is {c}. "
        f"The area is {a} x {b} / 2 = {a * b // 2}."
    )
    side = next(value for value in range(1, a + b) if value * value == a * a + b * b)
    answer = f"{c} cm, {a * b // 2} square cm"
    return Checked(Exercise("triangles", problem, solution, answer), side == c)


def tallest(random: Random) -> Checked:
    """Find the one order of people that fits the comparisons."""
    people = random.sample(NAMES, 4)
    order = people[:]
    random.shuffle(order)
    clues = [(order[index], order[index + 1]) for index in range(3)]
    random.shuffle(clues)
    word = random.choice(["taller", "older", "faster"])
    told = [f"{x} is {word} than {y}" for x, y in clues]
    problem = f"{told[0]}, {told[1]}, and {told[2]}. Put the four in order; begin with the {word[:-2]}est."
    solution = (
        f"Nobody is {word} than {order[0]}. Below {order[0]} comes {order[1]}, then {order[2]}, and {order[3]} is last."
    )
    fitting = [line for line in permutations(people) if all(line.index(x) < line.index(y) for x, y in clues)]
    return Checked(Exercise("ordering", problem, solution, ", ".join(order)), fitting == [tuple(order)])


FAMILY = (shopping, travel, ages, shared_work, drawing_balls, committees, right_triangle, tallest)
