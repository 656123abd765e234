r"""Formulas in LaTeX or plain text as exact quantities: a tokeniser and a parser by recursive descent.

The grammar is small on purpose: what it does not know it refuses (`Unreadable`), it never skips a token. The two
conventions that a reader must know: `2\frac{1}{2}` and `2 1/2` are mixed numbers, and `1/2x` is (1/2)·x.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from megaphi.grading.math_answer.quantity import (
    Quantity,
    Unreadable,
    add,
    divide,
    factors,
    function,
    generator,
    multiply,
    negate,
    number,
    power,
    variable,
)

DEEPEST = 40
MOST_DIGITS = 1_000
MOST_TOKENS = 1_000
LARGEST_FACTORIAL = 500
TOKEN = re.compile(r"\d+(?:\.\d+|\.(?=\\overline))?|\.\d+|\\[a-zA-Z]+|\\.|[^\s]", re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell"
).split()
FUNCTIONS = "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan asin acos atan ln log lg exp sqrt abs".split()
INVERSE = {"sin": "asin", "cos": "acos", "tan": "atan", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}
CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "|": "|", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}


def tokens_of(text: str) -> list[str]:
    """Numbers, commands and single characters. Raises `Unreadable` for more of them than a formula has."""
    tokens = TOKEN.findall(text)
    if len(tokens) > MOST_TOKENS:
        raise Unreadable("a formula that is too long")
    if any(len(token) > MOST_DIGITS for token in tokens):
        raise Unreadable("a number of too many digits")
    depth = 0
    for token in tokens:
        depth += (token in "{([") - (token in "})]")
        if depth > DEEPEST:
            raise Unreadable("brackets that are nested too deeply")
    return tokens


def quantity_of(tokens: list[str]) -> Quantity:
    """The quantity that all the tokens spell. Raises `Unreadable`."""
    parser = _Parser(tokens)
    try:
        found = parser.sum()
    except RecursionError:
        raise Unreadable("a formula that is nested too deeply") from None
    if parser.place < len(tokens):
        raise Unreadable(f"{tokens[parser.place]!r} is not expected")
    return found


class _Parser:
    """Recursive descent: sums of products of powers."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.place = 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        if not token:
            raise Unreadable("it ends too early")
        self.place += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise Unreadable(f"{token!r} is missing")

    def sum(self) -> Quantity:
        total = self.product()
        while self.peek() in ("+", "-"):
            sign = self.take()
            following = self.product()
            total = add(total, following if sign == "+" else negate(following))
        return total

    def product(self) -> Quantity:
        if self.peek() in ("+", "-"):
            sign = self.take()
            found = self.product()
            return found if sign == "+" else negate(found)
        found = self.power()
        while True:
            if self.peek() in ("*", "/"):
                operator = self.take()
                following = negate(self.power()) if self._takes_minus() else self.power()
                found = multiply(found, following) if operator == "*" else divide(found, following)
            elif self._begins_factor():
                if NUMBER.fullmatch(self.peek()) and NUMBER.fullmatch(self.tokens[self.place - 1]):
                    raise Unreadable("two numbers side by side")
                found = multiply(found, self.power())
            else:
                return found

    def _takes_minus(self) -> bool:
        if self.peek() == "-":
            self.place += 1
            return True
        return False

    def _begins_factor(self) -> bool:
        token = self.peek()
        return bool(token) and token not in (*"+-*/^_)}]|,;:=<>!", "\\}", "\\rfloor", "\\rceil", "&", "\\\\")

    def power(self) -> Quantity:
        base = self.base()
        while self.peek() == "!":
            self.take()
            base = self._factorial(base)
        if self.peek() == "^":
            self.take()
            base = power(base, self.exponent())
        if self.peek() in ("^", "!"):
            raise Unreadable("a power of a power without braces")
        return base

    def exponent(self) -> Quantity:
        if self.peek() == "-":
            self.take()
            return negate(self.exponent())
        return self.argument()

    def _factorial(self, base: Quantity) -> Quantity:
        value = base.rational()
        if value is None or value.denominator != 1 or value < 0:
            return function("factorial", base)
        if value > LARGEST_FACTORIAL:
            raise Unreadable("a factorial that is too large")
        return number(math.factorial(int(value)))

    def argument(self) -> Quantity:
        """A group in braces, or the one number, letter or command that follows."""
        return self.group("{") if self.peek() == "{" else self.base()

    def one_character(self) -> Quantity:
        r"""The argument of a command that takes one digit of a number, so that \sqrt12 can be read in two ways."""
        if NUMBER.fullmatch(self.peek()) and len(self.peek()) > 1:
            raise Unreadable("a number of several digits without braces")
        return self.argument()

    def group(self, opening: str) -> Quantity:
        self.expect(opening)
        found = self.sum()
        self.expect(CLOSING[opening])
        return found

    def base(self) -> Quantity:
        token = self.peek()
        if NUMBER.fullmatch(token):
            return self._number()
        if token in ("(", "{", "["):
            return self.group(token)
        if token in ("|", "\\lfloor", "\\lceil"):
            names = {"|": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}
            return _rounded(names[token], self.group(token))
        if token.startswith("\\"):
            return self._command()
        if token.isalpha() and token.isascii():
            self.take()
            return self._letter(token)
        raise Unreadable(f"{token!r} is not expected" if token else "it ends too early")

    def _number(self) -> Quantity:
        """A number, with its fraction if it is a mixed one, or `0.\\overline{3}`."""
        token = self.take()
        value = Fraction(token)
        if self.peek() == "\\overline" and "." in token:
            self.take()
            return number(value + _repeating(token, self._digits()))
        if self.peek() == "\\frac" and value.denominator == 1 and "." not in token:
            before = self.place
            part = self._command().rational()
            is_plain = all(
                piece in ("\\frac", "{", "}") or piece.isdigit() for piece in self.tokens[before : self.place]
            )
            if part is not None and is_plain:
                if not 0 < part < 1:
                    raise Unreadable("a whole number beside a fraction over one")
                return number(value + part)
            self.place = before
        if self.peek() == "_":
            raise Unreadable("a number with an index")
        return number(value)

    def _digits(self) -> str:
        self.expect("{")
        digits = self.take()
        self.expect("}")
        if not digits.isdigit():
            raise Unreadable("an overline over something else than digits")
        return digits

    def _letter(self, token: str) -> Quantity:
        if token == "e" and self.peek() != "_":
            return generator("constant", "e")
        if token == "i" and self.peek() != "_":
            return generator("imaginary")
        return variable(token + self._index())

    def _index(self) -> str:
        if self.peek() != "_":
            return ""
        self.take()
        if self.peek() != "{":
            return f"_{self.take()}"
        self.take()
        inside = []
        while (token := self.take()) != "}":
            if token == "{":
                raise Unreadable("an index that is a formula")
            inside.append(token)
        return "_" + "".join(inside)

    def _command(self) -> Quantity:
        name = self.take()[1:]
        if name == "frac":
            return self._fraction()
        if name == "sqrt":
            return self._root()
        if name == "binom":
            return _binomial(self.argument(), self.argument())
        if name == "pi":
            return generator("constant", "π")
        if name in ("infty", "reals", *GREEK):
            return variable(f"\\{name}" + self._index())
        if name in FUNCTIONS:
            return self._function(name)
        if name == "degree":
            raise Unreadable("a degree that follows no number")
        raise Unreadable(f"the command \\{name} is not known")

    def _fraction(self) -> Quantity:
        if self.peek().isdigit() and len(self.peek()) == 2:  # \frac12
            top, below = self.take()
            return number(Fraction(int(top), int(below))) if below != "0" else divide(number(1), number(0))
        top = self.one_character()
        return divide(top, self.one_character())

    def _root(self) -> Quantity:
        index = 2
        if self.peek() == "[":
            self.take()
            found = self.sum().rational()
            self.expect("]")
            if found is None or found.denominator != 1 or not 2 <= found <= 100:
                raise Unreadable("a root of an unusual index")
            index = int(found)
        return power(self.one_character(), number(Fraction(1, index)))

    def _function(self, name: str) -> Quantity:
        base, exponent = None, None
        while self.peek() in ("_", "^"):
            if self.take() == "_":
                base = self.argument()
            else:
                exponent = self.exponent()
        if exponent is not None and exponent.rational() == -1 and name in INVERSE:
            name, exponent = INVERSE[name], None
        value = _function(INVERSE.get(name, name) if name.startswith("arc") else name, self._operand(), base)
        return power(value, exponent) if exponent is not None else value

    def _operand(self) -> Quantity:
        r"""\sin(x) ends with its bracket, \sin 2x with the last factor that is no function."""
        if self.peek() in ("(", "{", "["):
            found = self.group(self.peek())
            return self._in_degrees(found)
        if self.peek() == "-":
            self.take()
            return negate(self._operand())
        found = self._in_degrees(self.power())
        while self._begins_factor() and self.peek()[1:] not in FUNCTIONS and self.peek() not in ("(", "["):
            found = self._in_degrees(multiply(found, self.power()))
        return found

    def _in_degrees(self, found: Quantity) -> Quantity:
        if self.peek() != "\\degree":
            return found
        self.take()
        return multiply(found, divide(generator("constant", "π"), number(180)))


def _repeating(token: str, digits: str) -> Fraction:
    """Value of the digits that repeat after those of `token`."""
    places = len(token.partition(".")[2])
    return Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)


def _rounded(name: str, value: Quantity) -> Quantity:
    known = value.rational()
    if known is None:
        return function(name, value)
    return number({"abs": abs, "floor": math.floor, "ceil": math.ceil}[name](known))


def _binomial(top: Quantity, below: Quantity) -> Quantity:
    n, k = top.rational(), below.rational()
    if n is None or k is None:
        return function("binomial", top, below)
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= LARGEST_FACTORIAL:
        raise Unreadable("a binomial that is unusual")
    return number(math.comb(int(n), int(k)))


def _function(name: str, value: Quantity, base: Quantity | None) -> Quantity:
    if base is not None and name != "log":
        raise Unreadable(f"an index of {name}")
    if name == "log":
        scale = _logarithm(base) if base is not None else variable("\\log")
        return divide(_logarithm(value), scale)
    if name in ("ln", "lg"):
        return _logarithm(value) if name == "ln" else divide(_logarithm(value), _logarithm(number(10)))
    if name == "sqrt":
        return power(value, number(Fraction(1, 2)))
    if name == "exp":
        return power(generator("constant", "e"), value)
    if name == "abs":
        return _rounded(name, value)
    reciprocal = {"cot": "tan", "sec": "cos", "csc": "sin"}
    if name in reciprocal:
        return divide(number(1), function(reciprocal[name], value))
    return divide(function("sinh", value), function("cosh", value)) if name == "tanh" else function(name, value)


def _logarithm(value: Quantity) -> Quantity:
    """A sum over the primes of a rational number, so that ln 8 is 3·ln 2; a function of anything else."""
    known = value.rational()
    if known is None or known <= 0:
        return function("ln", value)
    total = number(0)
    for sign, whole in ((1, known.numerator), (-1, known.denominator)):
        for prime, count in factors(whole).items():
            total = add(total, multiply(number(sign * count), function("ln", number(prime))))
    return total
