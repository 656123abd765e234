r"""The exact verifier alone: what a reader says of 180 pairs, and what must hold of any answer.

The properties are of random rationals, formulas and ways of writing: equality is reflexive and symmetric, ways of
writing do not change it, and a rational number equals no other.
"""

from __future__ import annotations

import cmath
import math
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.grading.math_answer.exact_verifier import compare_exactly
from tests.grading.math_answer.pairs import BY_CONVENTION, DIFFERENT, EQUAL, pairs


@pytest.mark.parametrize(("key", "answer"), pairs(EQUAL))
def test_equal(key: str, answer: str) -> None:
    assert compare_exactly(key, answer).finding == compare_exactly(answer, key).finding == "equal"


@pytest.mark.parametrize(("key", "answer"), pairs(DIFFERENT))
def test_different(key: str, answer: str) -> None:
    assert compare_exactly(key, answer).finding == compare_exactly(answer, key).finding == "different"


@pytest.mark.parametrize(("key", "answer"), pairs(BY_CONVENTION))
def test_equal_only_by_a_convention(key: str, answer: str) -> None:
    for finding in (compare_exactly(key, answer).finding, compare_exactly(answer, key).finding):
        assert finding in ("different", "not known", "unreadable answer", "unreadable key")


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("\\frac{\\pi}{6}", "30^\\circ"),
        ("5\\text{ cm}", "5\\text{ m}"),
        ("3:2", "3/2"),
        ("x=5", "n=5"),
        ("1,2", "(1,2)"),
    ],
)
def test_two_ways_to_say_one_thing_are_not_called_different(key: str, answer: str) -> None:
    assert compare_exactly(key, answer).finding == compare_exactly(answer, key).finding == "not known"


rationals = st.fractions(max_denominator=10_000).filter(lambda one: abs(one) < 10**9)


@st.composite
def written(draw: st.DrawFn, value: Fraction) -> str:
    """A way of writing a rational number."""
    sign, top, below = "-" if value < 0 else "", abs(value.numerator), value.denominator
    times = draw(st.integers(1, 9))
    forms = [
        f"{sign}\\frac{{{top * times}}}{{{below * times}}}",
        f"\\dfrac{{{sign}{top}}}{{{below}}}",
        f"{sign}{top}/{below}",
    ]
    if below == 1:
        forms += [f"{sign}{top}", f"{sign}{top:,}", f"{sign}{top}.00", f"{sign}{top:,}".replace(",", "{,}")]
    elif top > below:
        whole, rest = divmod(top, below)
        forms += [f"{sign}{whole}\\frac{{{rest}}}{{{below}}}", f"{sign}{whole} {rest}/{below}"]
    text = draw(st.sampled_from(forms))
    noise = st.sampled_from(["{}", "${}$", " {} ", "{}.", "\\({}\\)", "\\boxed{{{}}}", "\\left({}\\right)", "**{}**"])
    text = draw(noise.filter(lambda one: "(" not in one or "," not in text)).format(text)  # (1,000) is a point
    return text.replace("-", draw(st.sampled_from("-−–")))


@given(st.data(), rationals)
def test_ways_of_writing_a_rational_are_equal(data: st.DataObject, value: Fraction) -> None:
    one, other = data.draw(written(value)), data.draw(written(value))
    assert compare_exactly(one, other).finding == "equal", (one, other)


@given(st.data(), rationals, rationals)
def test_different_rationals_are_never_equal(data: st.DataObject, left: Fraction, right: Fraction) -> None:
    one, other = data.draw(written(left)), data.draw(written(right))
    assert (compare_exactly(one, other).finding == "equal") == (left == right), (one, other)


atoms = st.sampled_from(
    ["x", "y", "2", "7", "\\pi", "\\sqrt{2}", "\\sqrt{3}", "i", "e", "\\frac{1}{3}", "\\sin x", "n"]
)


@st.composite
def formulas(draw: st.DrawFn, depth: int = 2) -> str:
    if depth == 0:
        return draw(atoms)
    one, other = draw(formulas(depth - 1)), draw(formulas(depth - 1))
    shape = draw(
        st.sampled_from(["({})+({})", "({})-({})", "({})({})", "\\frac{{{}}}{{{}}}", "({})^{{2}}", "\\sqrt{{{}}}"])
    )
    return shape.format(one, other)


@given(formulas())
def test_a_formula_equals_itself_with_another_spacing(formula: str) -> None:
    spaced = formula.replace("+", " + ").replace("\\frac", "\\dfrac").replace("(", "\\left(").replace(")", "\\right)")
    finding = compare_exactly(formula, f"$ {spaced} $").finding
    assert finding == "equal" or (finding == "unreadable key" and "zero" in compare_exactly(formula, formula).reason)


@given(formulas(), formulas())
def test_order_of_the_two_does_not_matter(one: str, other: str) -> None:
    forward, back = compare_exactly(one, other).finding, compare_exactly(other, one).finding
    assert forward == back or "unreadable" in forward


@given(formulas(), formulas())
def test_sums_commute_and_powers_expand(one: str, other: str) -> None:
    for left, right in (
        (f"({one})+({other})", f"({other})+({one})"),
        (f"(({one})+({other}))^2", f"({one})^2+2({one})({other})+({other})^2"),
        (f"({one})-({other})", f"-(({other})-({one}))"),
    ):
        assert compare_exactly(left, right).finding in ("equal", "not known", "unreadable key")


@given(formulas())
def test_a_formula_is_not_itself_plus_one(formula: str) -> None:
    assert compare_exactly(formula, f"({formula})+1").finding != "equal"


@st.composite
def valued(draw: st.DrawFn, depth: int = 3) -> tuple[str, complex]:
    """A formula, and its value by Python's floats with x = 0.7 and y = 1.9: an evaluation that shares nothing."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from([(text, complex(value)) for text, value in VALUES.items()]))
    (one, a), (other, b) = draw(valued(depth - 1)), draw(valued(depth - 1))
    return draw(
        st.sampled_from(
            [
                (f"({one})+({other})", a + b),
                (f"({one})-({other})", a - b),
                (f"({one}) \\cdot ({other})", a * b),
                (f"\\frac{{{one}}}{{{other}}}", a / b if abs(b) > 1e-9 else complex(math.nan)),
                (f"({one})^{{2}}", a * a),
                (f"\\sqrt{{({one})^2}}", cmath.sqrt(a * a)),
                (f"\\sin({one})", cmath.sin(a)),
                (f"\\left|{one}\\right|", complex(abs(a)) if "i" not in one else complex(math.nan)),
            ]
        )
    )


VALUES = {"x": 0.7, "y": 1.9, "2": 2, "\\frac{1}{3}": 1 / 3, "\\pi": math.pi, "\\sqrt{2}": 2**0.5, "i": 1j, "5": 5}


@given(valued(), valued())
def test_no_two_formulas_of_different_values_are_equal(left: tuple[str, complex], right: tuple[str, complex]) -> None:
    if abs(left[1] - right[1]) > 1e-6 * max(1.0, abs(left[1])):
        assert compare_exactly(left[0], right[0]).finding != "equal"


@given(valued(), st.sampled_from(["({})+0", "1 \\cdot ({})", "\\frac{{2({})}}{{2}}", "(({})+x)-x", "-(-({}))"]))
def test_a_formula_is_not_different_from_what_it_is_identical_to(one: tuple[str, complex], form: str) -> None:
    assert compare_exactly(one[0], form.format(one[0])).finding != "different"


HOSTILE = [
    "9**9**9**9",
    "9^{9^{9^{9}}}",
    "9" * 1_000_000,
    "{" * 100_000,
    "{" * 900 + "1" + "}" * 900,
    "\\frac{" * 300,
    "((" * 500 + "x" + "))" * 500,
    "(x+y+z+1)^{40}(a+b+c+d)^{40}",
    "1000000!",
    "\\binom{10000000}{5000000}",
    "\\sqrt{" + "9" * 900 + "}",
    "__import__('os').system('touch /tmp/x')",
    "\\sqrt[99999]{2}",
    "2^{99999999}",
    "10^{-99999999}",
    "\x00\ud800",
    "1/0",
    "\\begin{pmatrix}" * 50,
    "," * 1_000,
    "x_{" * 100,
    "",
    "(" * 30 + "1" + "," * 1 + ")" * 30,
    "\\pm" * 200 + "1",
    "\\pm 1 \\pm" * 30,
    "1," * 900 + "1",
    "\\sin" * 300 + " x",
    "x^{x^{x^{x^{x}}}}",
    "e^{e^{e^{e^{99}}}}",
    "-" * 1_500 + "1",
]


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:12].encode("ascii", "replace").decode() for text in HOSTILE])
def test_a_hostile_text_is_never_equal_and_ends_soon(text: str) -> None:
    began = time.process_time()
    for key in ("1", "x", "(1,2)"):
        assert compare_exactly(key, text).finding != "equal"
        assert compare_exactly(text, key).finding != "equal"
    compare_exactly(text, text + " ")
    assert time.process_time() - began < 2
