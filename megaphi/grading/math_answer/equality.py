"""Equality of two structures in three values: equal, different, or not known (None).

Not known is what depends on a convention: whether (1,2) answers "1,2", 1010 answers 1010_2, or 3/2 answers 3:2. A
number with a unit equals the bare number, and 50 % equals both 50 and 1/2; two units that differ are not known to be
equal. The relation is symmetric by construction.
"""

from __future__ import annotations

from collections.abc import Sequence

from megaphi.grading.math_answer.quantity import (
    Quantity,
    add,
    are_equal,
    are_proportional,
    divide,
    generator,
    multiply,
    negate,
    number,
    variable,
)
from megaphi.grading.math_answer.structure import (
    Bracketed,
    Measured,
    Named,
    Numeral,
    Ratio,
    Relation,
    Rows,
    Several,
    Structure,
    Union,
    Words,
)

LARGEST = 100
"""Items of a list."""


def equality(left: Structure, right: Structure) -> bool | None:
    """Three-valued equality of two structures."""
    if isinstance(left, Named) or isinstance(right, Named):
        return _named(left, right)
    if isinstance(left, Measured) or isinstance(right, Measured):
        return _measured(left, right)
    if type(left) is not type(right):
        return _of_two_kinds(left, right)
    match left, right:
        case Quantity(), Quantity():
            return are_equal(left, right)
        case Several(), Several():
            return _without_order(left.items, right.items, is_set=left.is_set or right.is_set)
        case Union(), Union():
            return _without_order(left.parts, right.parts, is_set=True)
        case Bracketed(), Bracketed():
            ends = (left.opening, left.closing) == (right.opening, right.closing)
            return _all([_in_order(left.items, right.items), ends])
        case Relation(), Relation():
            return _relations(left, right)
        case Rows(), Rows():
            shapes = [len(row) for row in left.rows] == [len(row) for row in right.rows]
            return shapes and _all([_in_order(*pair) for pair in zip(left.rows, right.rows, strict=True)])
        case Ratio(), Ratio():
            return _in_order(left.parts, right.parts) or None
        case _:
            return left == right


def _named(left: Structure, right: Structure) -> bool | None:
    if not isinstance(left, Named):
        left, right = right, left
    assert isinstance(left, Named)
    if isinstance(right, Relation):
        return _as_equation(left, right)
    if not isinstance(right, Named):
        return equality(left.value, right)
    if left.name == right.name:
        return equality(left.value, right.value)
    return False if equality(left.value, right.value) is False else None


def _as_equation(left: Named, right: Relation) -> bool | None:
    """`y = 2x + 3` as the equation that it is, where its name is a variable."""
    if len(left.name) > 1 or not isinstance(left.value, Quantity) or right.sign != "=":
        return None
    return are_proportional(add(variable(left.name), negate(left.value)), right.difference)


def _measured(left: Structure, right: Structure) -> bool | None:
    one, other = _as_measured(left), _as_measured(right)
    if one is None or other is None:
        return None if isinstance(left, Words) or isinstance(right, Words) else False
    same = are_equal(one.value, other.value)
    if one.percent != other.percent and same is False:
        part, whole = (one, other) if one.percent else (other, one)
        return are_equal(part.value, multiply(number(100), whole.value))
    if one.unit and other.unit and one.unit != other.unit:
        return None
    angle, turned = (one, other) if one.unit == "degree" else (other, one)
    if same is False and angle.unit == "degree" and not turned.unit:
        radians = multiply(angle.value, divide(generator("constant", "π"), number(180)))
        return False if are_equal(radians, turned.value) is False else None
    return same


def _as_measured(one: Structure) -> Measured | None:
    if isinstance(one, Measured):
        return one
    return Measured(one) if isinstance(one, Quantity) else None


UNLIKE = (
    {Several, Bracketed},
    {Rows, Bracketed},
    {Ratio, Quantity},
    {Numeral, Quantity},
    {Relation, Quantity},
    {Union, Several},
    {Union, Bracketed},
    {Relation, Bracketed},
    {Relation, Union},
    {Relation, Several},
)
"""Kinds that may mean the same answer, by a convention."""


def _of_two_kinds(left: Structure, right: Structure) -> bool | None:
    if isinstance(left, Several) and left.is_set and len(left.items) == 1:
        return equality(left.items[0], right)
    if isinstance(right, Several) and right.is_set and len(right.items) == 1:
        return equality(left, right.items[0])
    if isinstance(left, Words) and isinstance(right, Quantity):
        return left.text == right.variable()
    if isinstance(right, Words) and isinstance(left, Quantity):
        return right.text == left.variable()
    return None if {type(left), type(right)} in UNLIKE else False


def _relations(left: Relation, right: Relation) -> bool | None:
    if left.sign != right.sign:
        return False
    if left.sign in ("=", "≠"):
        return are_proportional(left.difference, right.difference)
    if are_proportional(left.difference, right.difference) is False:
        return False
    return are_equal(left.difference, right.difference) or None


def _all(found: Sequence[bool | None]) -> bool | None:
    """Three-valued and."""
    if any(one is False for one in found):
        return False
    return None if any(one is None for one in found) else True


def _in_order(left: Sequence[Structure], right: Sequence[Structure]) -> bool | None:
    if len(left) != len(right):
        return False
    return _all([equality(one, other) for one, other in zip(left, right, strict=True)])


def _without_order(left: Sequence[Structure], right: Sequence[Structure], *, is_set: bool) -> bool | None:
    """Each item has its equal on the other side; in a set several may have the same."""
    if len(left) > LARGEST or len(right) > LARGEST:
        return None
    table = [[equality(one, other) for other in right] for one in left]
    if any(cell is None for row in table for cell in row):
        return None
    if is_set:
        return (
            all(map(any, table)) and all(any(column) for column in zip(*table, strict=True))
            if left and right
            else left == right
        )
    if len(left) != len(right):
        return False
    free = set(range(len(right)))
    for row in table:
        place = next((place for place in free if row[place]), None)
        if place is None:
            return False
        free.discard(place)
    return True
