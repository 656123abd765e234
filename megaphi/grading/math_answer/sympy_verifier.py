r"""The first verifier: Hugging Face's math-verify, which reads LaTeX into SymPy and compares there.

It runs in a worker only (`worker.py`), under limits, since SymPy may take any time and memory. SymPy makes its numbers
by `parse_expr`, which evaluates text as Python: here that takes numerals and refuses the rest, and a comparison in
which it refused is not known. math-verify rounds to six decimals and has other equalities that are none: this is why it
does not decide alone.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import latex2sympy2_extended.latex2sympy2
import math_verify.parser
import sympy
import sympy.parsing
import sympy.parsing.sympy_parser
from math_verify import LatexExtractionConfig, parse, verify

from megaphi.grading.math_answer.cleaning import plain_signs
from megaphi.grading.math_answer.exact_verifier import ValueComparison

CONFIG = [LatexExtractionConfig()]
WARM = ((r"\frac{x^2-1}{x-1}", "x+1"), (r"\sin 2x", r"2\sin x\cos x"), ("x>2", r"(2,\infty)"), ("2x+y=1", "y=1-2x"))
refused: list[str] = []
"""Texts that were to be evaluated in the comparison under way."""


def only_numerals(text: str, *_: Any, **__: Any) -> Any:
    """SymPy's `parse_expr` for what its numbers are made from; what is no numeral would be evaluated as Python."""
    if re.fullmatch(r"\d{1,1000}", text, re.ASCII):
        return sympy.Integer(int(text))
    if re.fullmatch(r"\d{0,1000}\.\d{0,1000}(?:[eE][-+]?\d{1,4})?", text, re.ASCII):
        return sympy.Float(text)
    refused.append(text)
    raise ValueError("text is not evaluated as Python")


def prepare() -> None:
    """Close SymPy's way from text to evaluated Python, and math-verify's log.

    Modules that SymPy imports when it first simplifies take that way themselves, and are imported before.
    """
    for key, answer in WARM:
        compare_by_sympy(key, answer)
    for module in (sympy.parsing.sympy_parser, sympy.parsing, latex2sympy2_extended.latex2sympy2, math_verify.parser):
        module.parse_expr = only_numerals  # pyright: ignore
    sympy.parsing.sympy_parser.eval_expr = only_numerals
    logging.disable(logging.CRITICAL)


def compare_by_sympy(key: str, answer: str) -> ValueComparison:
    """Compare by value; may take any time and memory; what SymPy raises, out of memory too, is not known."""
    refused.clear()
    try:
        wanted = _parsed(key)
        if not wanted:
            return ValueComparison("unreadable key")
        given = _parsed(answer)
        if not given:
            return ValueComparison("unreadable answer")
        same = verify(wanted, given, allow_set_relation_comp=True, timeout_seconds=0, raise_on_error=True)
    except Exception as error:
        return ValueComparison("not known", f"{type(error).__name__}: {error}"[:200])
    if refused and not same:
        return ValueComparison("not known", "text was to be evaluated as Python")
    return ValueComparison("equal" if same else "different")


def _parsed(text: str) -> list[Any]:
    """Expressions that math-verify finds in the text as one formula; it knows no thin spaces and no words as units."""
    text = plain_signs(text).replace("\\degree ", "^{\\circ}").strip().strip("*`").strip()
    text = re.sub(r"(?<!\\)\$|\\[()\[\]]", " ", text).strip().rstrip(".")
    text = re.sub(r"(?<=\d)(?:\\[,!]|\{,\})(?=\d{3})", "", text)
    text = re.sub(r"(?<=\d) +[a-z]{3,20}(?: [a-z]{1,20}){0,3}$", "", text)
    return parse(f"${text}$", extraction_config=CONFIG, fallback_mode="no_fallback", parsing_timeout=0)
