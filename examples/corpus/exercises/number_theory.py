"""Divisors, primes, remainders. Answers are found by an algorithm and checked by brute force."""

from __future__ import annotations

from math import prod
from random import Random

from exercises.exercise import Checked, Exercise


def greatest_common_divisor(random: Random) -> Checked:
    """Euclid's algorithm."""
    shared = random.randint(1, 36)
    a, b = sorted((shared * random.randint(2, 40), shared * random.randint(2, 40)), reverse=True)
    steps, left, right = [], a, b
    while right:
        quotient, remainder = divmod(left, right)
        steps.append(f"{left} = {quotient} x {right} + {remainder}")
        left, right = right, remainder
    solution = "\n".join(steps) + f"\nThe last remainder that is not zero is {left}."
    if len(steps) == 1:
        solution = f"{steps[0]}: {b} divides {a}, so it is the greatest common divisor itself."
    ask = random.choice(["What is the greatest common divisor of {a} and {b}?", "Find gcd({a}, {b})."])
    exercise = Exercise("greatest common divisor", ask.format(a=a, b=b), solution, str(left))
    return Checked(exercise, left == max(d for d in range(1, b + 1) if a % d == 0 == b % d))


def prime_factors(random: Random) -> Checked:
    """Factorisation by trial division."""
    number = random.randint(24, 4_000)
    steps, factors, rest, divisor = [], [], number, 2
    while rest > 1:
        if divisor * divisor > rest:
            divisor = rest
        if rest % divisor:
            divisor += 1
            continue
        factors.append(divisor)
        if rest == divisor:
            steps.append(f"{rest} is prime.")
        else:
            steps.append(f"{rest} / {divisor} = {rest // divisor}.")
        rest //= divisor
    ask = random.choice(["Write {n} as a product of primes.", "What is the prime factorisation of {n}?"])
    answer = f"{number} = " + " x ".join(map(str, factors))
    exercise = Exercise("prime factors", ask.format(n=number), " ".join(steps), answer)
    primes = all(all(factor % d for d in range(2, factor)) for factor in factors)
    return Checked(exercise, primes and prod(factors) == number)


def power_modulo(random: Random) -> Checked:
    """A power modulo a small number by repeated squaring."""
    base, exponent, modulus = random.randint(2, 19), random.randint(6, 40), random.randint(5, 31)
    steps, square, power, result = [], base % modulus, 1, 1
    steps.append(f"{base} leaves the remainder {square} modulo {modulus}.")
    bits = exponent
    while bits:
        if bits % 2:
            steps.append(
                f"Use {base}^{power} = {square}: {result} x {square} = {result * square}, remainder "
                f"{result * square % modulus}."
            )
            result = result * square % modulus
        bits //= 2
        if bits:
            steps.append(
                f"{base}^{2 * power} is {square} x {square} = {square * square}, remainder {square * square % modulus}."
            )
            square, power = square * square % modulus, 2 * power
    ask = random.choice(["What remainder does {a}^{n} leave when divided by {m}?", "Compute {a}^{n} modulo {m}."])
    problem = ask.format(a=base, n=exponent, m=modulus)
    return Checked(
        Exercise("modular powers", problem, "\n".join(steps), str(result)), base**exponent % modulus == result
    )


def count_multiples(random: Random) -> Checked:
    """Count the numbers up to n that are divisible by a or b."""
    n, a, b = random.randint(50, 500), random.randint(2, 9), random.randint(2, 12)
    common = next(m for m in range(max(a, b), a * b + 1) if m % a == 0 == m % b)
    answer = n // a + n // b - n // common
    solution = (
        f"{n // a} numbers are divisible by {a} and {n // b} by {b}. Those divisible by both are the multiples of "
        f"{common}, of which there are {n // common}; they were counted twice. "
        f"{n // a} + {n // b} - {n // common} = {answer}."
    )
    problem = f"How many of the numbers from 1 to {n} are divisible by {a} or by {b}?"
    brute = sum(1 for value in range(1, n + 1) if value % a == 0 or value % b == 0)
    return Checked(Exercise("counting multiples", problem, solution, str(answer)), answer == brute)


def number_base(random: Random) -> Checked:
    """A number written in another base."""
    number, base = random.randint(20, 2_000), random.choice([2, 3, 5, 8, 16])
    digits, steps, rest = "", [], number
    while rest:
        steps.append(f"{rest} = {base} x {rest // base} + {rest % base}")
        digits = "0123456789ABCDEF"[rest % base] + digits
        rest //= base
    solution = "\n".join(steps) + "\nRead the remainders from the last to the first."
    ask = random.choice(["Write {n} in base {b}.", "What is {n} in the number system with base {b}?"])
    exercise = Exercise("number bases", ask.format(n=number, b=base), solution, digits)
    return Checked(exercise, int(digits, base) == number)


FAMILY = (greatest_common_divisor, prime_factors, power_modulo, count_multiples, number_base)
