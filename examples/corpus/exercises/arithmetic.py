"""Sums, products, remainders, fractions, percentages, written out step by step.

Checked by another method than the one shown: a product by repeated halving, a fraction by cross-multiplication.
"""

from __future__ import annotations

from fractions import Fraction
from random import Random

from exercises.exercise import Checked, Exercise


def long_addition(random: Random) -> Checked:
    """Column addition with carries."""
    a, b = random.randint(100, 99_999), random.randint(100, 99_999)
    steps, carry, digits = [], 0, []
    for place in range(max(len(str(a)), len(str(b)))):
        left, right = a // 10**place % 10, b // 10**place % 10
        total = left + right + carry
        carried = f" plus the carried {carry}" if carry else ""
        carry, digit = divmod(total, 10)
        keep = f", write {digit} and carry {carry}" if carry else f", write {digit}"
        steps.append(f"{left} + {right}{carried} is {total}{keep}.")
        digits.append(str(digit))
    answer = int(("" if not carry else str(carry)) + "".join(reversed(digits)))
    ask = random.choice(["Add {a} and {b} column by column.", "What is {a} + {b}?", "Compute the sum of {a} and {b}."])
    exercise = Exercise("addition", ask.format(a=a, b=b), "From the right:\n" + "\n".join(steps), str(answer))
    return Checked(exercise, answer - b == a)


def long_multiplication(random: Random) -> Checked:
    """A product by splitting one factor into its decimal places."""
    a, b = random.randint(12, 999), random.randint(12, 99)
    parts = [(digit * 10**place, a * digit * 10**place) for place, digit in enumerate(map(int, reversed(str(b))))]
    parts = [(factor, product) for factor, product in parts if factor]
    lines = [f"{a} x {factor} = {product}" for factor, product in parts]
    answer = sum(product for _, product in parts)
    lines.append(" + ".join(str(product) for _, product in parts) + f" = {answer}")
    ask = random.choice(["What is {a} times {b}?", "Multiply {a} by {b}.", "Work out {a} x {b} without a calculator."])
    exercise = Exercise("multiplication", ask.format(a=a, b=b), "\n".join(lines), str(answer))
    return Checked(exercise, answer == _doubling_product(a, b))


def _doubling_product(a: int, b: int) -> int:
    """Product by doubling and halving, the ancient Egyptian way."""
    total = 0
    while b:
        total += a if b % 2 else 0
        a, b = a * 2, b // 2
    return total


def division_with_remainder(random: Random) -> Checked:
    """Quotient and remainder."""
    divisor, quotient = random.randint(3, 48), random.randint(5, 400)
    remainder = random.randrange(divisor)
    dividend = divisor * quotient + remainder
    solution = (
        f"{divisor} x {quotient} = {divisor * quotient}, and {dividend} - {divisor * quotient} = {remainder}, "
        f"which is less than {divisor}."
    )
    ask = random.choice(
        ["Divide {a} by {b}; give quotient and remainder.", "How often does {b} fit into {a}, and what is left over?"]
    )
    answer = f"{quotient} remainder {remainder}"
    exercise = Exercise("division", ask.format(a=dividend, b=divisor), solution, answer)
    return Checked(exercise, divmod(dividend, divisor) == (quotient, remainder))


def fraction_sum(random: Random) -> Checked:
    """Sum or difference of two fractions over the product of their denominators, then reduced."""
    b, d = random.randint(2, 12), random.randint(2, 12)
    a, c = random.randint(1, b * 2), random.randint(1, d * 2)
    sign = random.choice([1, -1])
    sign_text = "+" if sign > 0 else "-"
    numerator, denominator = a * d + sign * c * b, b * d
    reduced = Fraction(numerator, denominator)
    solution = (
        f"A common denominator is {b} x {d} = {denominator}. "
        f"{a}/{b} = {a * d}/{denominator} and {c}/{d} = {c * b}/{denominator}, "
        f"so {a * d} {sign_text} {c * b} = {numerator} gives {numerator}/{denominator}"
        + (f", which reduces to {reduced}." if str(reduced) != f"{numerator}/{denominator}" else ".")
    )
    ask = random.choice(["Simplify {x}.", "What is {x} as a reduced fraction?", "Calculate {x}."])
    problem = ask.format(x=f"{a}/{b} {sign_text} {c}/{d}")
    exercise = Exercise("fractions", problem, solution, str(reduced))
    return Checked(exercise, reduced * b * d == a * d + sign * c * b)


def percentage(random: Random) -> Checked:
    """A price raised or lowered by a percentage."""
    price, percent = random.randint(2, 60) * 20, random.choice([5, 10, 15, 20, 25, 30, 40, 50, 75])
    rises = random.random() < 0.5
    change = Fraction(price * percent, 100)
    result = price + change if rises else price - change
    word, sign = ("rises", "+") if rises else ("falls", "-")
    problem = random.choice(
        [
            f"A price of {price} euros {word} by {percent} percent. What is the new price?",
            f"Something costs {price} euros. The price {word} by {percent} %. What does it cost now?",
        ]
    )
    solution = (
        f"{percent} percent of {price} is {price} x {percent} / 100 = {_decimal(change)}. "
        f"{price} {sign} {_decimal(change)} = {_decimal(result)}."
    )
    exercise = Exercise("percentages", problem, solution, f"{_decimal(result)} euros")
    factor = Fraction(100 + percent if rises else 100 - percent, 100)
    return Checked(exercise, price * factor == result)


def _decimal(value: Fraction) -> str:
    """A fraction with a short decimal expansion, as a decimal."""
    return f"{float(value):.2f}".rstrip("0").rstrip(".")


def order_of_operations(random: Random) -> Checked:
    """An expression with brackets, evaluated from the inside out."""
    a, b, c, d = (random.randint(2, 15) for _ in range(4))
    inner = a + b
    product = inner * c
    answer = product - d
    solution = (
        f"First the brackets: {a} + {b} = {inner}. Then {inner} x {c} = {product}. Last {product} - {d} = {answer}."
    )
    ask = random.choice(["Evaluate {x}.", "What is {x}?", "Find the value of {x}."])
    exercise = Exercise("order of operations", ask.format(x=f"({a} + {b}) x {c} - {d}"), solution, str(answer))
    return Checked(exercise, answer == a * c + b * c - d)


FAMILY = (long_addition, long_multiplication, division_with_remainder, fraction_sum, percentage, order_of_operations)
