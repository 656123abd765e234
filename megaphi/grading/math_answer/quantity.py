r"""Exact numbers and formulas: quotients of polynomials with rational coefficients, in canonical form.

The generators of the polynomials are variables, π, e, i, primes with a fractional exponent (√12 is 2·3^(1/2)), roots of
anything else, and functions of quantities. Real roots of distinct products of primes are linearly independent over the
rationals (Besicovitch 1940), and π is transcendental: as long as only those and variables occur, two quantities are
equal exactly if their cross products are. Otherwise, where the cross products differ, they are evaluated at points.
No number is ever rounded to be called equal to a rational one, and everything has a limit of size.
"""

from __future__ import annotations

import cmath
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Generator = tuple[Any, ...]
"""("variable", name), ("prime", p), ("imaginary",), ("constant", name), ("root", q), ("function", name, q…)."""
Monomial = tuple[tuple[Generator, Fraction], ...]
Terms = dict[Monomial, Fraction]

MOST_TERMS = 300
MOST_PRODUCTS = 4_000
"""Terms that are multiplied with each other, before like ones are added up."""
MOST_BITS = 20_000
"""Bits of a coefficient."""
LARGEST_EXPONENT = 40
"""Power to which a sum is raised."""
LARGEST_PRIME = 100_000
"""Trial division ends here."""
POINTS = (0, 1, 2)
NEGATIVE = 2
"""The point at which all variables are negative."""
TOLERANCE = 1e-9
FREE = ("variable", "prime", "imaginary", "constant")
IMAGINARY: Generator = ("imaginary",)


class Unreadable(Exception):
    """A text that is no mathematics, is larger than the limits, or means nothing (1/0)."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """`top / bottom`; both are terms in a fixed order, and `bottom` is never zero."""

    top: tuple[tuple[Monomial, Fraction], ...]
    bottom: tuple[tuple[Monomial, Fraction], ...]

    def rational(self) -> Fraction | None:
        """Value of a rational number; None for any other quantity."""
        if self.bottom != _ONE or any(monomial for monomial, _ in self.top):
            return None
        return self.top[0][1] if self.top else Fraction(0)

    def variable(self) -> str | None:
        """Name of a quantity that is one variable."""
        if self.bottom == _ONE and len(self.top) == 1 and self.top[0][1] == 1 and len(self.top[0][0]) == 1:
            generator, exponent = self.top[0][0][0]
            return generator[1] if generator[0] == "variable" and exponent == 1 else None
        return None


_ONE: tuple[tuple[Monomial, Fraction], ...] = (((), Fraction(1)),)


def number(value: Fraction | int) -> Quantity:
    return _quantity({(): Fraction(value)} if value else {}, dict(_ONE))


def generator(*parts: Any) -> Quantity:
    return _quantity({((parts, Fraction(1)),): Fraction(1)}, dict(_ONE))


def variable(name: str) -> Quantity:
    return generator("variable", name)


def function(name: str, *arguments: Quantity) -> Quantity:
    return generator("function", name, *arguments)


def add(left: Quantity, right: Quantity) -> Quantity:
    if left.bottom == right.bottom:
        return _quantity(_sum([left.top, right.top]), dict(left.bottom))
    top = _sum([_product(left.top, right.bottom).items(), _product(right.top, left.bottom).items()])
    return _quantity(top, _product(left.bottom, right.bottom))


def negate(one: Quantity) -> Quantity:
    return Quantity(tuple((monomial, -factor) for monomial, factor in one.top), one.bottom)


def multiply(left: Quantity, right: Quantity) -> Quantity:
    return _quantity(_product(left.top, right.top), _product(left.bottom, right.bottom))


def divide(left: Quantity, right: Quantity) -> Quantity:
    return _quantity(_product(left.top, right.bottom), _product(left.bottom, right.top))


def power(base: Quantity, exponent: Quantity) -> Quantity:
    """`base ** exponent`; kept as a function of both where it is no power of a known kind."""
    ratio = exponent.rational()
    if ratio is None or abs(ratio.numerator) > MOST_BITS:
        if base.rational() == 0:
            raise Unreadable("a power of zero")
        return function("power", base, exponent)
    if ratio < 0:
        base, ratio = divide(number(1), base), -ratio
    whole, part = divmod(ratio, 1)
    result = _whole_power(base, int(whole))
    return multiply(result, _root_power(base, part)) if part else result


def _whole_power(base: Quantity, exponent: int) -> Quantity:
    is_sum = len(base.top) > 1 or len(base.bottom) > 1
    bits = max((abs(part).bit_length() for _, f in base.top + base.bottom for part in (f.numerator, f.denominator)))
    if (is_sum and exponent > LARGEST_EXPONENT) or (bits * exponent > MOST_BITS and bits > 1):
        raise Unreadable("a power that is too large")
    result = number(1)
    while exponent:
        if exponent & 1:
            result = multiply(result, base)
        exponent >>= 1
        if exponent:
            base = multiply(base, base)
    return result


def _root_power(base: Quantity, part: Fraction) -> Quantity:
    """`base ** part` for 0 < part < 1: the principal value, and the real one of odd roots of negative numbers."""
    value = base.rational()
    if value is None:
        return _quantity({((("root", base), part),): Fraction(1)}, dict(_ONE))
    if value < 0:
        positive = _root_power(number(-value), part)
        if part.denominator % 2:
            return positive if part.numerator % 2 == 0 else negate(positive)
        if part == Fraction(1, 2):
            return multiply(positive, generator(*IMAGINARY))
        return function("power", base, number(part))
    monomial = {}
    for sign, whole in ((1, value.numerator), (-1, value.denominator)):
        for prime, count in factors(whole).items():
            monomial[prime] = monomial.get(prime, 0) + sign * count
    found: Monomial = tuple((("prime", prime), part * count) for prime, count in sorted(monomial.items()))
    return _quantity({found: Fraction(1)} if value else {}, dict(_ONE))


def factors(whole: int) -> dict[int, int]:
    """Prime factors with their exponents. Raises `Unreadable` for a number that trial division does not factor."""
    found: dict[int, int] = {}
    divisor = 2
    while divisor * divisor <= whole and divisor <= LARGEST_PRIME:
        while whole % divisor == 0:
            found[divisor] = found.get(divisor, 0) + 1
            whole //= divisor
        divisor += 1 + (divisor > 2)
    if whole > LARGEST_PRIME**2:
        root = math.isqrt(whole)
        if root * root != whole or root > LARGEST_PRIME**2:
            raise Unreadable("a root of a number that is too large")
        whole, found[root] = 1, 2
    if whole > 1:
        found[whole] = found.get(whole, 0) + 1
    return found


def are_equal(left: Quantity, right: Quantity) -> bool | None:
    """Equality of two quantities; None if it is not known."""
    difference = _sum([_product(left.top, right.bottom).items(), negate_terms(_product(right.top, left.bottom))])
    if not difference:
        return True
    if all(one[0] in FREE for monomial in difference for one, _ in monomial):
        return False
    return _agree_at_points(left, right)


def negate_terms(terms: Terms) -> list[tuple[Monomial, Fraction]]:
    return [(monomial, -factor) for monomial, factor in terms.items()]


def are_proportional(left: Quantity, right: Quantity) -> bool | None:
    """Equality up to a rational factor that is not zero, as of two forms of one equation; None if it is not known."""
    if not left.top or not right.top:
        return left.top == right.top
    ratio = divide(left, right)
    for monomial, factor in ratio.top:
        against = dict(ratio.bottom).get(monomial)
        if against:
            return are_equal(ratio, number(factor / against))
    return False


def _agree_at_points(left: Quantity, right: Quantity) -> bool | None:
    """Agreement at points; not known if it ends where variables are negative, as that of √(xy) and √x·√y does."""
    for point in POINTS:
        try:
            one, other = evaluate(left, point), evaluate(right, point)
        except (ArithmeticError, ValueError, Unreadable):
            return None
        size = max(abs(one), abs(other))
        if not math.isfinite(size) or size < 1e-6:
            return None
        if abs(one - other) > TOLERANCE * size:
            return None if point == NEGATIVE else False
    return True


def evaluate(one: Quantity, point: int) -> complex:
    """Value where every variable has a number of its own, by the number of the point."""
    return _evaluate(one.top, point) / _evaluate(one.bottom, point)


def _evaluate(terms: Iterable[tuple[Monomial, Fraction]], point: int) -> complex:
    total = 0j
    for monomial, factor in terms:
        value = complex(float(factor))
        for one, exponent in monomial:
            value *= _real_power(_value(one, point), exponent)
        total += value
    return total


def _real_power(base: complex, exponent: Fraction) -> complex:
    """The real root of a negative number where the index is odd, else the principal value."""
    if exponent.denominator % 2 and base.real < 0 and abs(base.imag) < 1e-12 * abs(base.real):
        return (-1) ** exponent.numerator * (-base.real) ** float(exponent)
    return base ** float(exponent)


def _value(one: Generator, point: int) -> complex:
    kind = one[0]
    if kind == "variable":
        size = 0.3 + zlib.crc32(f"{point} {one[1]}".encode()) / 2**32
        return complex(-size if point == NEGATIVE else size)
    if kind == "constant":
        return complex({"π": math.pi, "e": math.e}[one[1]])
    if kind == "prime":
        return complex(one[1])
    if kind == "imaginary":
        return 1j
    if kind == "root":
        return evaluate(one[1], point)
    return _function(one[1], [evaluate(argument, point) for argument in one[2:]])


def _function(name: str, values: list[complex]) -> complex:
    if name == "power":
        return values[0] ** values[1]
    if name in ("abs", "floor", "ceil"):
        return complex({"abs": abs, "floor": _floor, "ceil": lambda one: -_floor(-one)}[name](values[0]))
    simple = {"ln": cmath.log, "asin": cmath.asin, "acos": cmath.acos, "atan": cmath.atan, "exp": cmath.exp}
    simple |= {"sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sinh": cmath.sinh, "cosh": cmath.cosh}
    if name not in simple:
        raise Unreadable(f"{name} has no value")
    return simple[name](values[0])


def _floor(value: complex) -> int:
    if abs(value.imag) > 1e-12 or abs(value.real - round(value.real)) < 1e-9:
        raise ValueError("not known")
    return math.floor(value.real)


def _sum(parts: Iterable[Iterable[tuple[Monomial, Fraction]]]) -> Terms:
    total: Terms = {}
    for part in parts:
        for monomial, factor in part:
            total[monomial] = total.get(monomial, Fraction(0)) + factor
    found = {monomial: factor for monomial, factor in total.items() if factor}
    if len(found) > MOST_TERMS:
        raise Unreadable("a sum of too many terms")
    return found


def _product(left: Iterable[tuple[Monomial, Fraction]], right: Iterable[tuple[Monomial, Fraction]]) -> Terms:
    right = list(right)
    parts = []
    for monomial, factor in left:
        for other, other_factor in right:
            parts.append(_times(monomial, other, factor * other_factor))
            if len(parts) > MOST_PRODUCTS:
                raise Unreadable("a product of too many terms")
    return _sum(parts)


def _times(left: Monomial, right: Monomial, factor: Fraction) -> list[tuple[Monomial, Fraction]]:
    """Terms of the product of two monomials: i² is -1, 2^(1/2)·2^(1/2) is 2, √b·√b is b."""
    if max(factor.numerator.bit_length(), factor.denominator.bit_length()) > MOST_BITS:
        raise Unreadable("a number that is too large")
    exponents: dict[Generator, Fraction] = dict(left)
    for one, exponent in right:
        exponents[one] = exponents.get(one, Fraction(0)) + exponent
    expanded: list[Quantity] = []
    for one, exponent in list(exponents.items()):
        whole, part = divmod(exponent, 1)
        if one == IMAGINARY and exponent >= 2:
            exponents.pop(one)
            factor = -factor
        elif one[0] == "prime" and whole:
            factor *= Fraction(one[1]) ** int(whole)
            exponents[one] = part
        elif one[0] == "root" and whole and one[1].bottom == _ONE:
            expanded.append(_whole_power(one[1], int(whole)))
            exponents[one] = part
    ordered = sorted(((one, exponent) for one, exponent in exponents.items() if exponent), key=repr)
    terms = [(tuple(ordered), factor)]
    for base in expanded:
        terms = list(_product(terms, base.top).items())
    return terms


def _quantity(top: Terms, bottom: Terms) -> Quantity:
    """Canonical order, the common powers of a one-term bottom cancelled, and its leading coefficient 1."""
    if not bottom:
        raise Unreadable("a division by zero")
    if not top:
        return Quantity((), _ONE)
    if len(bottom) == 1:
        top, bottom = _cancelled(top, bottom)
    ordered = sorted(bottom.items(), key=repr)
    leading = ordered[0][1]
    above = sorted(((monomial, factor / leading) for monomial, factor in top.items()), key=repr)
    return Quantity(tuple(above), tuple((monomial, factor / leading) for monomial, factor in ordered))


def _cancelled(top: Terms, bottom: Terms) -> tuple[Terms, Terms]:
    """A bottom of one term: roots of primes and i go to the top, and what all terms share is cancelled."""
    ((below, divisor),) = bottom.items()
    shared: list[tuple[Generator, Fraction]] = []
    raised: list[tuple[Generator, Fraction]] = []
    for one, exponent in below:
        if one[0] == "prime":
            raised.append((one, 1 - exponent))
            divisor *= one[1]
        elif one == IMAGINARY:
            raised.append((one, Fraction(1)))
            divisor = -divisor
        else:
            shared.append((one, min([exponent, *(dict(term).get(one, Fraction(0)) for term in top)])))
    if raised:
        top = _product(top.items(), [(tuple(sorted(raised, key=repr)), Fraction(1))])
    left = {one: exponent for one, exponent in below if one[0] != "prime" and one != IMAGINARY}
    for one, exponent in shared:
        left[one] -= exponent
    less = dict(shared)
    top = {
        tuple((one, exponent - less.get(one, 0)) for one, exponent in term if exponent != less.get(one, 0)): factor
        for term, factor in top.items()
    }
    return top, {tuple((one, exponent) for one, exponent in left.items() if exponent): divisor}
