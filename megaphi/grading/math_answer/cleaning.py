r"""One way of writing for what is written in many: Unicode and LaTeX variants, thousands, percent, currency and units.

What is taken away is remembered: `Cleaned` says the unit, and whether it was a percentage. 1,234 is one number at the
outer level; a comma within brackets separates.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from megaphi.grading.math_answer.formula import FUNCTIONS, GREEK
from megaphi.grading.math_answer.quantity import Unreadable

LONGEST = 2_000
COMMANDS = (
    "√:sqrt ∞:infty ≤:le ≥:ge ≠:ne °:degree ∪:cup ±:pm ∈:in ≈:approx π:pi ℝ:reals ∅:emptyset ⟨:langle ⟩:rangle α:alpha "
    "β:beta γ:gamma δ:delta ε:epsilon ζ:zeta η:eta θ:theta ι:iota κ:kappa λ:lambda μ:mu ν:nu ξ:xi ρ:rho σ:sigma τ:tau "
    "φ:phi χ:chi ψ:psi ω:omega"
)
SIGNS = {
    **dict.fromkeys("−–—‐‑", "-"),
    **dict.fromkeys("×·⋅∙∗", "*"),
    **dict.fromkeys("÷⁄∕", "/"),
    **dict.fromkeys("’‘", "'"),
    **dict.fromkeys("“”", '"'),
    **{sign: f"\\{name} " for sign, _, name in (pair.partition(":") for pair in COMMANDS.split())},
}
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
CURRENCIES = {"$": "dollar", "\\$": "dollar", "£": "pound sterling", "€": "euro", "¥": "yen", "₹": "rupee"}
TEXT = r"\\(?:text|textbf|textit|textrm|textsf|textnormal|mathrm|mathbf|mathit|mathsf|mbox|operatorname|rm)\*?"
REPLACEMENTS: tuple[tuple[str, str], ...] = (
    (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?", ""),
    (r"\\(?:displaystyle|textstyle|limits|nolimits|phantom\{[^{}]*\}|hspace\{[^{}]*\})", ""),
    (r"(?<=\d)(?:\\[,!]|\{,\}|,\\!\s?|\\ )+(?=\d{3}(?!\d))", "\x00"),
    (r"(?<!\\)\\[,;:!> ]|~|\\q?quad(?![a-zA-Z])", " "),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\[dt]?binom(?![a-zA-Z])", r"\\binom"),
    (r"\\(?:cdot|times|ast)(?![a-zA-Z])", "*"),
    (r"\\div(?![a-zA-Z])", "/"),
    (r"\\(?:leq|leqslant)(?![a-zA-Z])|<=", r"\\le "),
    (r"\\(?:geq|geqslant)(?![a-zA-Z])|>=", r"\\ge "),
    (r"\\neq(?![a-zA-Z])|(?<=\s)!=", r"\\ne "),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\lbrace(?![a-zA-Z])", r"\\{"),
    (r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\\[lr]vert(?![a-zA-Z])|\\mid(?![a-zA-Z])", "|"),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))", r"\\degree "),
    (r"\\mathbb\s*\{?\s*R\s*\}?", r"\\reals "),
    (r"\\varnothing(?![a-zA-Z])", r"\\emptyset "),
    (TEXT + r"\s*\{\s*(?:,?\s*)(?:and|or)\s*\}", ","),
    (r"(?<![\\a-zA-Z{]),?\s*\b(?:and|or)\b(?![a-zA-Z}])", ","),
    (r"\*\*", "^"),
)
IN_TEXT: tuple[tuple[str, str], ...] = (
    (TEXT + r"\s*\{\s*([a-zA-Z]|\d+)\s*\}", r"\1"),
    (TEXT + r"\s*\{\s*(" + "|".join(FUNCTIONS) + r")\s*\}", r"\\\1 "),
)
"""Mathematics that is set as text: a letter, a number, the name of a function."""
PLAIN_COMMANDS = re.compile(
    r"(?<![\\a-zA-Z])("
    + "|".join([*FUNCTIONS, "pi", "infty", *(name for name in GREEK if len(name) > 2)])
    + r")(?![a-zA-Z])"
)
UNIT_IN_TEXT = re.compile(r"(?<=\S)\s*" + TEXT + r"\s*\{([^{}]*)\}\s*(?:\^\s*\{?(\d)\}?)?$")
UNIT_IN_WORDS = re.compile(r"(?<=[\d})\]!])\s*([a-zA-Z][a-zA-Z.]*(?:[ /][a-zA-Z.]+){0,4})\s*(?:\^\s*\{?(\d)\}?)?$")
MANY_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
SPACED_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?![\d])")
MIXED = re.compile(r"(?<![\d.])(\d+) +(\d+)\s*/\s*(\d+)(?!\d)")
SYNONYMS: dict[str, str] = {
    short: long
    for short, _, long in (
        pair.partition(":")
        for pair in (
            "cm:centimeter mm:millimeter m:meter km:kilometer in:inch "
            "inche:inch ft:foot feet:foot sec:second "
            "min:minute hr:hour h:hour kg:kilogram g:gram lb:pound metre:meter "
            "centimetre:centimeter liter:litre deg:degree"
        ).split()
    )
}
"""Names of a unit that are one."""

CHANGES_THE_NUMBER = set(
    "or and more less least most than not over under to between negative minus plus times if half dozen hundred "
    "thousand million billion trillion squared cubed am pm mod modulo remainder".split()
)
"""Words that are no unit, so that a number before them is not the answer."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A formula without its unit; `percent` tells that it was followed by a percent sign."""

    text: str
    unit: str = ""
    percent: bool = False


def cleaned(text: str) -> Cleaned:
    """Raises `Unreadable` for a text that is longer than an answer, or whose braces do not match."""
    if len(text) > LONGEST:
        raise Unreadable(f"{len(text):,} characters, the longest answer that is read has {LONGEST:,}")
    text = plain_signs(text).strip()
    if re.search(r"\.\.\.|\\[lc]?dots", text):
        raise Unreadable("an ellipsis")
    text = _without_wrapping(text)
    if whole := re.fullmatch(TEXT + r"\s*\{([^{}]*)\}", text):
        text = whole[1]
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    text = text.replace("\x00", "").strip()
    text, unit = _without_currency(text)
    text, percent = _without_percent(text)
    text, found = _without_unit(text) if not unit and not percent else (text, "")
    for pattern, replacement in IN_TEXT:
        text = re.sub(pattern, replacement, text)
    text = MANY_THOUSANDS.sub(lambda match: match[0].replace(",", ""), text) if not _is_bracketed(text) else text
    text = MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = SPACED_THOUSANDS.sub(lambda match: match[0].replace(" ", ""), text)
    text = PLAIN_COMMANDS.sub(r"\\\1 ", text).strip()
    if not _braces_match(text):
        raise Unreadable("its braces do not match")
    return Cleaned(text, unit or found, percent)


def plain_signs(text: str) -> str:
    """Unicode signs as LaTeX: the one thing that both verifiers share."""
    text = re.sub(r"[¼-¾⅐-⅞]", lambda match: _fraction_of(match[0]), text)
    text = re.sub(f"[{''.join(SUPERSCRIPTS)}]+", lambda match: "^{" + _translated(match[0], SUPERSCRIPTS) + "}", text)
    text = re.sub(f"[{''.join(SUBSCRIPTS)}]+", lambda match: "_{" + _translated(match[0], SUBSCRIPTS) + "}", text)
    return _translated(unicodedata.normalize("NFKC", _translated(text, SIGNS)), SIGNS)


def _translated(text: str, table: dict[str, str]) -> str:
    return text.translate(str.maketrans(table))


def _fraction_of(sign: str) -> str:
    ratio = Fraction(unicodedata.numeric(sign)).limit_denominator(100)
    return f"\\frac{{{ratio.numerator}}}{{{ratio.denominator}}}"


def _without_wrapping(text: str) -> str:
    """Without signs of mathematics, boxes and emphasis, and punctuation around the whole; one `$` is a currency."""
    text = re.sub(r"\\[()\[\]](?!\])|\$\$|`|\*\*$|^\*\*", " ", text.replace("\\\\", "\x01")).replace("\x01", "\\\\")
    if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:
        text = re.sub(r"(?<!\\)\$", " ", text)
    while True:
        before = text
        text = re.sub(r"(?<!\\)[.,;:\s]+$", "", re.sub(r"^(?:=|\\approx|:|\s)\s*", "", text))
        if box := re.fullmatch(r"\\(?:boxed|fbox)\s*\{(.*)\}", text, re.DOTALL):
            text = box[1]
        if text == before:
            return text


def _without_currency(text: str) -> tuple[str, str]:
    units = {unit for sign, unit in CURRENCIES.items() if sign in text}
    for sign in sorted(CURRENCIES, key=len, reverse=True):
        text = text.replace(sign, "")
    return text.strip(), units.pop() if len(units) == 1 else ""


def _without_percent(text: str) -> tuple[str, bool]:
    shorter = re.sub(r"\s*(?:\\?%|" + TEXT + r"\s*\{\s*(?:\\?%|percent)\s*\}|\bpercent\b)$", "", text)
    return shorter, shorter != text


def _without_unit(text: str) -> tuple[str, str]:
    r"""The text without a unit at its end: words in \text{…}, words after a number, a degree sign."""
    match = UNIT_IN_TEXT.search(text)
    if match is None and (match := UNIT_IN_WORDS.search(text)) and not _is_unit(match[1]):
        match = None
    if match and text[: match.start()].strip():
        if CHANGES_THE_NUMBER & set(re.findall(r"[a-z]+", match[1].lower())):
            raise Unreadable("words that change the number before them")
        return text[: match.start()].strip(), _unit_name(match[1], match[2])
    if text.endswith("\\degree") and not re.search(r"\\?(?:sin|cos|tan)", text):
        return text.replace("\\degree", "").strip(), "degree"
    return text, ""


def _is_unit(words: str) -> bool:
    """Known units, or words with a vowel, none of which stands for a function or a Greek letter."""
    pieces = re.findall(r"[a-zA-Z]+", words)
    known = len(pieces[0]) > 1 and pieces[0].lower() in SYNONYMS
    is_word = re.search(r"[aeiou]", pieces[0].lower()) and len(pieces[0]) > 2
    return bool(known or is_word) and not {*FUNCTIONS, *GREEK, "pi", "infty", "e", "x", "y"} & set(pieces)


def _unit_name(words: str, exponent: str | None) -> str:
    name = " ".join(words.replace(".", " ").lower().split())
    name = re.sub(r"s$", "", SYNONYMS.get(name, name))
    squared = re.fullmatch(r"(square|sq|cubic|cu) (.*)", name)
    if squared:
        name, exponent = squared[2], {"s": "2", "c": "3"}[squared[1][0]]
    name = re.sub(r"\^.*", "", SYNONYMS.get(name, name)) if exponent else SYNONYMS.get(name, name)
    return f"{name}^{exponent}" if exponent else name


def _is_bracketed(text: str) -> bool:
    return text[:1] in ("(", "[") or text.startswith(("\\{", "\\langle", "\\begin"))


def _braces_match(text: str) -> bool:
    depth = 0
    for token in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return False
    return depth == 0
