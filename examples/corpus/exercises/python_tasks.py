"""Small Python functions: write one, or say what one returns. Every claimed result was computed by running the code.

A task is a description, its source text, a generator of arguments, and a second implementation that the results are
checked against. The sources are ours; nothing from a document is ever executed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from exercises.exercise import GOODS, NAMES, Checked, Exercise


@dataclass(frozen=True, slots=True)
class Task:
    """A function and a second implementation of it."""

    name: str
    wish: str
    source: str
    explanation: str
    arguments: Callable[[Random], tuple[Any, ...]]
    other_way: Callable[..., Any]

    def call(self, *arguments: Any) -> Any:
        """Run the source, which is part of this file."""
        scope: dict[str, Any] = {}
        exec(self.source, scope)
        return scope[self.name](*arguments)


def _numbers(random: Random) -> tuple[list[int]]:
    return ([random.randint(-20, 60) for _ in range(random.randint(3, 8))],)


def _words(random: Random) -> tuple[list[str]]:
    return (random.sample([*NAMES, *GOODS], random.randint(3, 6)),)


def _word(random: Random) -> tuple[str]:
    return (random.choice([*GOODS, *(name.lower() for name in NAMES), "level", "radar", "noon", "banana"]),)


def _small(random: Random) -> tuple[int]:
    return (random.randint(2, 14),)


def _two(random: Random) -> tuple[int, int]:
    return random.randint(2, 90), random.randint(2, 90)


def _fibonacci(n: int) -> int:
    return n if n < 2 else _fibonacci(n - 1) + _fibonacci(n - 2)


def _collatz(n: int) -> int:
    return 0 if n == 1 else 1 + _collatz(n // 2 if n % 2 == 0 else 3 * n + 1)


TASKS = (
    Task(
        "sum_of_even",
        "returns the sum of the even numbers in a list",
        "def sum_of_even(numbers):\n    return sum(n for n in numbers if n % 2 == 0)\n",
        "A number is even if dividing it by 2 leaves no remainder; the generator keeps those, and sum adds them.",
        _numbers,
        lambda numbers: sum(numbers) - sum(n for n in numbers if n % 2),
    ),
    Task(
        "running_maximum",
        "returns the largest value seen so far at each position of a list",
        "def running_maximum(numbers):\n    result = []\n    for n in numbers:\n"
        "        result.append(n if not result else max(result[-1], n))\n    return result\n",
        "The last entry of the result is the maximum so far, so each new value only has to be compared with it.",
        _numbers,
        lambda numbers: [max(numbers[: index + 1]) for index in range(len(numbers))],
    ),
    Task(
        "second_largest",
        "returns the second largest distinct value of a list, or None",
        "def second_largest(numbers):\n    distinct = sorted(set(numbers))\n"
        "    return distinct[-2] if len(distinct) > 1 else None\n",
        "A set drops repeats; after sorting, the second largest stands before the last.",
        _numbers,
        lambda numbers: max((n for n in numbers if n != max(numbers)), default=None),
    ),
    Task(
        "is_palindrome",
        "tells whether a word reads the same backwards",
        "def is_palindrome(word):\n    return word == word[::-1]\n",
        "A slice with step -1 is the word reversed.",
        _word,
        lambda word: all(word[index] == word[-1 - index] for index in range(len(word) // 2)),
    ),
    Task(
        "count_vowels",
        "counts the vowels of a word",
        'def count_vowels(word):\n    return sum(letter in "aeiou" for letter in word.lower())\n',
        "True counts as 1, so the sum of the membership tests is the number of vowels.",
        _word,
        lambda word: len([letter for letter in word.lower() if letter in set("aeiou")]),
    ),
    Task(
        "fibonacci",
        "returns the n-th Fibonacci number, with fibonacci(0) = 0 and fibonacci(1) = 1",
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
        "The pair (a, b) always holds two neighbours of the sequence; each round moves it one place on.",
        _small,
        _fibonacci,
    ),
    Task(
        "collatz_steps",
        "counts how many steps the Collatz rule takes from n to 1",
        "def collatz_steps(n):\n    steps = 0\n    while n != 1:\n"
        "        n = n // 2 if n % 2 == 0 else 3 * n + 1\n        steps += 1\n    return steps\n",
        "An even number is halved, an odd one tripled and increased by one, until 1 is reached.",
        _small,
        _collatz,
    ),
    Task(
        "gcd",
        "returns the greatest common divisor of two positive numbers",
        "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\n",
        "Euclid: the divisors of a and b are those of b and a % b, and the second number shrinks until it is zero.",
        _two,
        lambda a, b: max(d for d in range(1, min(a, b) + 1) if a % d == 0 == b % d),
    ),
    Task(
        "digit_sum",
        "returns the sum of the decimal digits of a number",
        "def digit_sum(n):\n    total = 0\n    while n:\n        total += n % 10\n        n //= 10\n    return total\n",
        "n % 10 is the last digit, and n // 10 drops it.",
        lambda random: (random.randint(10, 99_999),),
        lambda n: sum(map(int, str(n))),
    ),
    Task(
        "longest_word",
        "returns the longest word of a list, the first one if there are several",
        "def longest_word(words):\n    return max(words, key=len)\n",
        "max compares by the key, here the length, and keeps the first of equal ones.",
        _words,
        lambda words: next(word for word in words if all(len(word) >= len(other) for other in words)),
    ),
    Task(
        "group_by_length",
        "groups words by their length in a dictionary",
        "def group_by_length(words):\n    groups = {}\n    for word in words:\n"
        "        groups.setdefault(len(word), []).append(word)\n    return groups\n",
        "setdefault makes an empty list for a length that was not seen before.",
        _words,
        lambda words: {size: [word for word in words if len(word) == size] for size in dict.fromkeys(map(len, words))},
    ),
    Task(
        "primes_below",
        "lists the prime numbers below n",
        "def primes_below(n):\n    sieve = [True] * n\n    for p in range(2, n):\n        if sieve[p]:\n"
        "            for multiple in range(p * p, n, p):\n                sieve[multiple] = False\n"
        "    return [p for p in range(2, n) if sieve[p]]\n",
        "The sieve of Eratosthenes: every prime crosses out its multiples, and what is left is prime.",
        lambda random: (random.randint(5, 60),),
        lambda n: [p for p in range(2, n) if all(p % d for d in range(2, p))],
    ),
)


def write_function(random: Random) -> Checked:
    """Write a function; the solution shows it and its results on a few inputs."""
    task = random.choice(TASKS)
    cases = [task.arguments(random) for _ in range(3)]
    shown = "\n".join(f">>> {task.name}({', '.join(map(repr, case))})\n{task.call(*case)!r}" for case in cases)
    ask = random.choice(["Write a Python function {n} that {w}.", "Implement {n} in Python: it {w}."])
    solution = f"{task.explanation}\n\n{task.source}\nIt gives\n{shown}"
    exercise = Exercise("python", ask.format(n=task.name, w=task.wish), solution, f"the function {task.name} above")
    return Checked(exercise, all(task.call(*case) == task.other_way(*case) for case in cases))


def predict_result(random: Random) -> Checked:
    """Say what a call returns."""
    task = random.choice(TASKS)
    case = task.arguments(random)
    result = task.call(*case)
    call = f"{task.name}({', '.join(map(repr, case))})"
    ask = random.choice(["What does {c} return?", "What is the value of {c}?"])
    problem = f"Consider this function:\n\n{task.source}\n{ask.format(c=call)}"
    solution = f"The function {task.wish}. {task.explanation}"
    return Checked(Exercise("python", problem, solution, repr(result)), result == task.other_way(*case))


FAMILY = (write_function, predict_result)
