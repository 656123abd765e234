r"""The structure of an answer: quantity, list, set, tuple or interval, union, relation, matrix, ratio, numeral, words.

Reading cuts the tokens at the outer level only (union, then commas, then relations), so that each part is a structure
again. `x = 5` is the value 5 with a name, `1 < x < 3` and `x \in (1,3)` are the interval (1,3), and `±` makes a list
of two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from megaphi.grading.math_answer.cleaning import TEXT, Cleaned, cleaned
from megaphi.grading.math_answer.formula import quantity_of, tokens_of
from megaphi.grading.math_answer.quantity import Quantity, Unreadable, add, negate, variable

OPENING, CLOSING = ("(", "[", "{", "\\{", "\\langle"), (")", "]", "}", "\\}", "\\rangle")
ORDERS = {"<": "<", ">": ">", "\\le": "<=", "\\ge": ">="}
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
RELATIONS = ("=", "\\ne", "\\in", "\\approx", "\\equiv", *ORDERS)
WORDS = re.compile(
    r"\(?([A-Z])\)?|[a-zA-Z][a-zA-Z'’.-]*[a-zA-Z.](?:[ ,]+[\w'’.-]+)*|\d{1,2}:\d\d *[ap]\.?m\.?", re.ASCII
)
MATHEMATICS = re.compile(r"\b(?:sqrt|pi|sin|cos|tan|log|ln|and|or)\b|,|^[a-z]{0,2}(?:abc|xyz)$")
ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True, slots=True)
class Several:
    """Values without an order; in a set, equal ones are one."""

    items: tuple[Structure, ...]
    is_set: bool


@dataclass(frozen=True, slots=True)
class Bracketed:
    """A tuple, point or interval: ends as they are written, since (1,2) may be a point or an open interval."""

    opening: str
    items: tuple[Structure, ...]
    closing: str


@dataclass(frozen=True, slots=True)
class Union:
    parts: tuple[Structure, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """`name = value`."""

    name: str
    value: Structure


@dataclass(frozen=True, slots=True)
class Relation:
    """`difference` compared with zero by `sign`, one of = ≠ < <=."""

    sign: str
    difference: Quantity


@dataclass(frozen=True, slots=True)
class Rows:
    """A matrix or column."""

    rows: tuple[tuple[Quantity, ...], ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple[Quantity, ...]


@dataclass(frozen=True, slots=True)
class Numeral:
    """Digits in a base."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Words:
    text: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A quantity that was followed by a unit or a percent sign."""

    value: Quantity
    unit: str = ""
    percent: bool = False


Structure = Quantity | Several | Bracketed | Union | Named | Relation | Rows | Ratio | Numeral | Words | Measured


def structure_of(text: str) -> Structure:
    """Read an answer. Raises `Unreadable`."""
    if (words := _words_of(text)) is not None:
        return words
    found = cleaned(text)
    if (words := _words_of(found.text)) is not None:
        return words
    return _measured(_read(tokens_of(found.text)), found)


def _measured(value: Structure, found: Cleaned) -> Structure:
    if not found.unit and not found.percent:
        return value
    if isinstance(value, Named):
        return Named(value.name, _measured(value.value, found))
    return Measured(value, found.unit, found.percent) if isinstance(value, Quantity) else value


def _words_of(text: str) -> Words | None:
    r"""Words, in \text{…} or plain; None for anything that may be mathematics."""
    text = text.strip().strip("$").strip().rstrip(".").strip()
    is_text = False
    while inside := re.fullmatch(TEXT + r"\s*\{([^{}]*)\}", text):
        text, is_text = inside[1].strip().rstrip("."), True
    match = WORDS.fullmatch(text) if len(text) <= 200 else None
    if match is None and is_text and (plain := re.fullmatch(r"[\w '’.,-]+", text)) and not plain[0][0].isdigit():
        return _normalised_words(text)
    if match is None:
        return None
    if match[1]:
        return Words(match[1])
    if not is_text and (not re.search(r"[a-zA-Z]{3}|^no$|[ap]\.?m", text, re.IGNORECASE) or MATHEMATICS.search(text)):
        return None
    return _normalised_words(text)


def _normalised_words(text: str) -> Words:
    pieces = [word.strip(".'’-") for word in text.lower().split()]
    return Words(" ".join(word for word in pieces if word and word not in ARTICLES))


def _read(tokens: list[str]) -> Structure:
    if not tokens:
        raise Unreadable("it is empty")
    if tokens == ["\\emptyset"]:
        return Several((), is_set=True)
    unions = _split(tokens, ("\\cup",))
    if len(unions) > 1:
        return Union(tuple(map(_read, unions)))
    listed = _split(tokens, (",", ";"))
    if len(listed) > 1:
        return Several(_flat(listed), is_set=False)
    if any(token in RELATIONS for token in tokens):
        return _related(tokens)
    if "\\pm" in tokens or "\\mp" in tokens:
        return _both_signs(tokens)
    return _bracketed(tokens) or _matrix(tokens) or _numeral(tokens) or _ratio(tokens) or quantity_of(tokens)


def _flat(listed: list[list[str]]) -> tuple[Structure, ...]:
    """Items of a list; `x = 1, 2` and `1 ± 2, 3` give plain values."""
    items: list[Structure] = []
    for part in listed:
        item = _read(part)
        items.extend(item.items if isinstance(item, Several) and not item.is_set else [item])
    return tuple(items)


def _split(tokens: list[str], separators: tuple[str, ...]) -> list[list[str]]:
    """Parts between separators that stand in no bracket."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        if token == "\\begin" or token in OPENING:
            depth += 1
        elif token == "\\end" or (token in CLOSING and depth > 0):
            depth -= 1
        if depth == 0 and token in separators:
            parts.append([])
        else:
            parts[-1].append(token)
    if any(not part for part in parts):
        raise Unreadable("a separator with nothing on one side")
    return parts


def _related(tokens: list[str]) -> Structure:
    """An assignment, an interval, an equation or an inequality."""
    signs = [token for token in _outer(tokens) if token in RELATIONS]
    sides = _split(tokens, RELATIONS)
    if not signs or len(signs) != len(sides) - 1:
        raise Unreadable("a relation within brackets")
    if signs[-1] == "\\in" and len(sides) == 2:
        return _read(sides[1])
    if all(sign in ORDERS for sign in signs):
        return _inequality([ORDERS[sign] for sign in signs], sides)
    if "\\approx" in signs or "\\equiv" in signs:
        raise Unreadable("an approximation beside its exact value, or a congruence")
    if signs[0] == "=" and (name := _name_of(sides[0])):
        return Named(name, _read(sides[-1]))
    if len(sides) == 2 and signs[0] in ("=", "\\ne"):
        difference = add(quantity_of(sides[0]), negate(quantity_of(sides[1])))
        return Relation("=" if signs[0] == "=" else "≠", difference)
    raise Unreadable("a chain of relations")


def _outer(tokens: list[str]) -> list[str]:
    """The tokens that stand in no bracket."""
    depth, found = 0, []
    for token in tokens:
        depth += (token in OPENING) - (token in CLOSING)
        if depth == 0:
            found.append(token)
    return found


def _name_of(tokens: list[str]) -> str | None:
    """A variable, a function of one (`f(x)`) or a tuple of variables, which stands before its value."""
    text = "".join(tokens)
    is_name = re.fullmatch(r"[a-zA-Z]|\\[a-zA-Z]+|[a-zA-Z](?:_\{?\w\}?)?(?:'|\^\{-1\})?(?:\([a-zA-Z0-9]\))?", text)
    return text if is_name or re.fullmatch(r"\([a-zA-Z](?:,[a-zA-Z]){1,5}\)", text) else None


def _inequality(signs: list[str], sides: list[list[str]]) -> Structure:
    """The interval of one variable, or a relation to zero."""
    if len(sides) > 3 or len({sign[0] for sign in signs}) > 1:
        raise Unreadable("a chain of inequalities")
    values = [quantity_of(side) for side in sides]
    if signs[0][0] == ">":
        signs, values = [FLIPPED[sign] for sign in reversed(signs)], values[::-1]
    names = [one.variable() for one in values]
    infinity = variable("\\infty")
    if len(values) == 3 and names[1]:
        return _interval(values[0], signs[0], signs[1], values[2])
    if len(values) == 3:
        raise Unreadable("a chain of inequalities about no variable")
    if names[0] and not names[1]:
        return _interval(negate(infinity), "<", signs[0], values[1])
    if names[1] and not names[0]:
        return _interval(values[0], signs[0], "<", infinity)
    return Relation(signs[0], add(values[0], negate(values[1])))


def _interval(low: Quantity, low_sign: str, high_sign: str, high: Quantity) -> Bracketed:
    return Bracketed("(" if low_sign == "<" else "[", (low, high), ")" if high_sign == "<" else "]")


def _both_signs(tokens: list[str]) -> Structure:
    upper = [{"\\pm": "+", "\\mp": "-"}.get(token, token) for token in tokens]
    lower = [{"\\pm": "-", "\\mp": "+"}.get(token, token) for token in tokens]
    return Several((_read(upper), _read(lower)), is_set=False)


def _bracketed(tokens: list[str]) -> Structure | None:
    """A tuple, interval or set whose brackets are around the whole; None for brackets that only group."""
    opening, closing = tokens[0], tokens[-1]
    if opening not in ("(", "[", "\\{", "\\langle") or closing not in (")", "]", "\\}", "\\rangle"):
        return None
    if len(_outer(tokens)) > 1 or len(tokens) < 3:  # of one bracket around the whole only its end is at the outer level
        return None
    inside = tokens[1:-1]
    if opening == "\\{":
        if closing != "\\}" or any(token in ("|", ":") for token in inside):
            raise Unreadable("a set that is described, not listed")
        return Several(_flat(_split(inside, (",", ";"))), is_set=True)
    parts = _split(inside, (",", ";"))
    if len(parts) == 1:
        return _read(inside) if (opening, closing) in (("(", ")"), ("[", "]")) else None
    ends = {"\\langle": "(", "\\rangle": ")"}
    return Bracketed(ends.get(opening, opening), tuple(map(_read, parts)), ends.get(closing, closing))


def _matrix(tokens: list[str]) -> Rows | None:
    text = " ".join(tokens)
    kind = re.match(r"\\begin \{ ((?:[a-z] )+)\}", text)
    if kind is None:
        return None
    name = kind[1].replace(" ", "")
    end = "\\end { " + " ".join(name) + " }"
    if name not in ("matrix", "pmatrix", "bmatrix", "array") or not text.endswith(end) or text.count("\\begin") > 1:
        raise Unreadable("an environment that is no matrix")
    inside = text[kind.end() : -len(end)].split()
    if name == "array" and inside[:1] == ["{"]:
        inside = inside[inside.index("}") + 1 :]
    rows = [row for row in _cut(inside, "\\\\") if row]
    cells = tuple(tuple(quantity_of(cell) for cell in _cut(row, "&")) for row in rows)
    if len({len(row) for row in cells}) != 1:
        raise Unreadable("a matrix whose rows differ in length")
    return Rows(cells)


def _cut(tokens: list[str], separator: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for token in tokens:
        parts.append([]) if token == separator else parts[-1].append(token)
    return parts


def _numeral(tokens: list[str]) -> Numeral | None:
    """Digits with a base, as 1010_2 and 2516_{8} and A3_{16}."""
    match = re.fullmatch(r"([0-9A-F]+)_(?:\{(\d+)\}|(\d+))", "".join(tokens))
    if match is None or not any(token[0].isdigit() for token in tokens[:-2]):
        return None
    return Numeral(match[1].lstrip("0") or "0", int(match[2] or match[3]))


def _ratio(tokens: list[str]) -> Ratio | None:
    parts = _split(tokens, (":",))
    return Ratio(tuple(map(quantity_of, parts))) if len(parts) > 1 else None
