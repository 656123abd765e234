"""Formulas of a page, each replaced by one element that holds its TeX between dollar signs.

Four families write formulas: MathJax (scripts, or TeX in the text itself), KaTeX (markup for the eye beside MathML for
machines), MathML, and images whose `alt` or address is the TeX (Wikipedia, Sphinx's imgmath, WordPress, codecogs). Most
pages carry each formula twice or three times; one copy stays. The markup for the eye goes: its letters read as
`x2+y2`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import lxml.etree as etree

from megaphi.curation.extract.html.mathml import tex_of
from megaphi.curation.extract.html.tree import classes, remove, replace, text_of

INLINE, DISPLAY = "inline", "display"
ATTRIBUTE = "data-megaphi-formula"
"""Marks the elements that hold formulas; its value is INLINE or DISPLAY."""

_RENDERED = frozenset(
    "mathjax mathjax_preview mathjax_display mathjax_svg mathjax_svg_display mathjax_chtml mjx-chtml "
    "mjxc-display".split()
)
_TEX_CLASSES = frozenset(
    "math tex latex simplemath display math-container arithmatex mathjax_process tex2jax_process equation".split()
)
_ENVIRONMENT = r"\{(?:equation|align|eqnarray|gather|multline|alignat|flalign)\*?\}"
_DELIMITER = re.compile(rf"\\[()\[\]]|\$\$|\\begin{_ENVIRONMENT}|\\end{_ENVIRONMENT}")
_DOLLAR = re.compile(r"\s*\$(?!\$)(?P<inline>[^$]+)\$\s*\Z", re.DOTALL)
_LOADS_MATH = re.compile(r"mathjax|katex|tex2jax|renderMathInElement|MathML\.js", re.IGNORECASE)
_FORMULA_IMAGE = re.compile(
    r"\b(?:mwe-math-fallback-image\w*|tex|latex|math|imgmath|inlineformula|displayformula|numberedequation|wp-katex-eq)\b"
)
_FORMULA_ADDRESS = re.compile(
    r"(?:latex\.php\?.*?\blatex=|/(?:png|gif|svg|jpg)(?:\.latex|\.image)\?|chart\?.*?\bchl=)([^&#]+)"
)
_LOOKS_LIKE_TEX = re.compile(r"\\[A-Za-z]{2,}|[\^_]\{|^\s*\$.+\$\s*$|\\[\[(]", re.DOTALL)
_MAY_HOLD_ONE = re.compile(r"math|katex|tex|equation|display|mjx", re.IGNORECASE)
_NO_FORMULAS = frozenset({"script", "style", "pre", "code", "textarea", "tt", "samp"})
_LATEX_STYLE = re.compile(r"^\{?\\(?:displaystyle|textstyle)\s+|^\\(?:displaystyle|textstyle)\{")


def formula(tex: str, form: str) -> Any:
    """The element of one formula."""
    element = etree.Element("span")
    element.set(ATTRIBUTE, form)
    element.text = in_dollars(tex, form)
    return element


def in_dollars(tex: str, form: str) -> str:
    """TeX between one dollar sign or two. Lines stay in displays, where TeX comments may end with them."""
    lines = [line.rstrip() for line in tex.strip().splitlines()]
    joined = "\n".join(line for line in lines if line.strip())
    if form == DISPLAY:
        return f"$${joined}$$"
    return f"${joined}$" if re.search(r"(?<!\\)%", joined) else f"${' '.join(joined.split())}$"


def take_formulas(root: Any) -> int:
    """Replace all formulas in the tree. Returns how many there are."""
    has_scripts = False
    loads_math = False
    for script in root.iter("script"):
        kind = (script.get("type") or "").lower()
        has_scripts = has_scripts or kind.startswith("math/")
        loads_math = loads_math or bool(_LOADS_MATH.search((script.get("src") or "") + (script.text or "")[:20_000]))
    for element in list(root.iter(etree.Element)):
        reader = _READERS.get(element.tag)
        if reader is None and _MAY_HOLD_ONE.search(element.get("class", "")):
            reader = _of_class
        if reader is not None and _is_attached(element, root):
            _take(element, reader(element, has_scripts))
    if loads_math:
        for element in list(root.iter(etree.Element)):
            if element.tag not in _NO_FORMULAS and not element.get(ATTRIBUTE):
                _split(element)
    return sum(1 for span in root.iter("span") if span.get(ATTRIBUTE))


def _is_attached(element: Any, root: Any) -> bool:
    """True where an element is in the tree still: a formula around it may have been replaced."""
    while element is not None and element is not root:
        element = element.getparent()
    return element is not None


def _take(element: Any, found: tuple[str, str] | None) -> None:
    """Put the formula in the place of the element; without TeX the element goes."""
    if found is None:
        return
    tex, form = found
    if tex.strip():
        replace(element, formula(tex, form))
    else:
        remove(element)


def _script(script: Any, has_scripts: bool) -> tuple[str, str] | None:
    del has_scripts
    kind = (script.get("type") or "").lower()
    source = script.text or ""
    if kind.startswith("math/tex"):
        source = re.sub(r"^\s*%?\s*<!\[CDATA\[|\]\]>\s*$", "", source)
        return source.strip(), DISPLAY if "display" in kind else INLINE
    if kind.startswith("math/mml"):
        return _from_markup(source), INLINE
    return None


def _from_markup(source: str) -> str:
    try:
        return tex_of(etree.fromstring(source, parser=etree.XMLParser(recover=True, resolve_entities=False)))
    except (etree.XMLSyntaxError, ValueError, AttributeError, TypeError):
        return ""


def _math(math: Any, has_scripts: bool) -> tuple[str, str] | None:
    del has_scripts
    form = DISPLAY if math.get("display") == "block" or math.get("mode") == "display" else INLINE
    tex = tex_of(math)
    return (tex, form) if tex else None


def _container(container: Any, has_scripts: bool) -> tuple[str, str] | None:
    """MathJax 3 and 4: MathML for screen readers inside what is drawn."""
    del has_scripts
    form = DISPLAY if container.get("display") == "true" else INLINE
    source = container.get("data-latex") or container.get("aria-label") or ""
    math = next(container.iter("math"), None)
    tex = tex_of(math) if math is not None else source if _LOOKS_LIKE_TEX.search(source) else ""
    return tex, form


def _image(image: Any, has_scripts: bool) -> tuple[str, str] | None:
    del has_scripts
    alternative = (image.get("alt") or "").strip()
    address = _FORMULA_ADDRESS.search(image.get("src") or image.get("data-src") or "")
    names = image.get("class", "")
    if address and not _LOOKS_LIKE_TEX.search(alternative):
        alternative = unquote_plus(address[1])
    elif not (address or (_FORMULA_IMAGE.search(names) and alternative) or _is_tex_picture(image, alternative)):
        return None
    bare = re.sub(r"^\$+|\$+$|^\\[\[(]|\\[\])]$", "", alternative).strip()
    return _undressed(bare), DISPLAY if _is_displayed(image, names) else INLINE


def _is_displayed(image: Any, names: str) -> bool:
    """True where a formula's image stands in a line of its own."""
    if "display" in names or "numberedequation" in names:
        return True
    parent = image.getparent()
    if parent is None or (parent.text or "").strip() or (image.tail or "").strip() or len(parent) > 2:
        return False
    around = parent.getparent()
    named = "math" in classes(parent) or (around is not None and "math" in classes(around))
    return named if parent.tag == "p" else parent.tag in ("div", "dd")


def _is_tex_picture(image: Any, alternative: str) -> bool:
    """An image without a telling name whose description is a formula and no file name or sentence."""
    if not _LOOKS_LIKE_TEX.search(alternative) or re.search(r"\.(?:png|gif|svg|jpe?g)$", alternative):
        return False
    return len(re.findall(r"(?<!\\)\b[a-z]{4,}\b", alternative)) <= 3 and "://" not in alternative


def _undressed(tex: str) -> str:
    """Without the style that Wikipedia puts around every formula."""
    match = re.fullmatch(r"\{\\(?:displaystyle|textstyle)\s+(.*)\}", tex, re.DOTALL)
    return match[1].strip() if match else _LATEX_STYLE.sub("", tex) if not tex.endswith("}") else tex


def _of_class(element: Any, has_scripts: bool) -> tuple[str, str] | None:
    names = classes(element)
    if "katex-display" in names or "katex" in names:
        return _katex(element, names)
    if "mwe-math-element" in names:
        return _wikipedia(element)
    if names & _RENDERED:
        if has_scripts:
            return "", INLINE
        source = element.get("data-mathml") or next(iter(element.xpath(".//@data-mathml")), "")
        form = DISPLAY if any("display" in name for name in names) else INLINE
        return (_from_markup(source), form) if source else None
    if names & _TEX_CLASSES:
        return _own_text(element, names)
    return None


def _katex(element: Any, names: frozenset[str]) -> tuple[str, str] | None:
    math = next(element.iter("math"), None)
    if math is None:
        return None
    tex = tex_of(math)
    return (tex, DISPLAY if "katex-display" in names else INLINE) if tex else None


def _wikipedia(element: Any) -> tuple[str, str] | None:
    math, image = next(element.iter("math"), None), next(element.iter("img"), None)
    tex = (
        tex_of(math) if math is not None else _undressed((image.get("alt") or "").strip()) if image is not None else ""
    )
    is_display = (
        math is not None and math.get("display") == "block" and "displaystyle" not in (math.get("alttext") or "")
    ) or any(
        "display" in name or name.endswith("-block")
        for name in classes(element) | (classes(image) if image is not None else frozenset())
    )
    return (tex, DISPLAY if is_display else INLINE) if tex else None


def _own_text(element: Any, names: frozenset[str]) -> tuple[str, str] | None:
    """An element that holds one formula in delimiters and nothing else."""
    if element.tag in ("pre", "code", "img", "body", "html", "script", "table"):
        return None
    if next(element.iterancestors("pre", "code"), None) is not None:
        return None
    text = text_of(element)
    found = _delimited(text)
    if not found:
        single = _DOLLAR.match(text) if names & {"math", "math-container", "tex", "latex"} else None
        return (single["inline"], INLINE) if single else None
    if (found[0].start, found[0].end) != (len(text) - len(text.lstrip()), len(text.rstrip())) or len(element):
        _split(element)
        return None
    return found[0].tex, found[0].form


@dataclass(frozen=True, slots=True)
class _Found:
    """A formula in delimiters within a text."""

    start: int
    end: int
    tex: str
    form: str


def _delimited(text: str) -> list[_Found]:
    """All formulas in delimiters, in one pass: a thousand openings without an end must not cost a thousand searches."""
    found: list[_Found] = []
    opening: re.Match[str] | None = None
    closing = ""
    last: dict[str, int] = {}
    for match in _DELIMITER.finditer(text):
        delimiter = match[0]
        if opening is None:
            closing = _closing_of(delimiter)
            if closing and closing not in last:
                last[closing] = text.rfind(closing)
            if closing and last[closing] > match.end():
                opening = match
        elif delimiter == closing:
            start = opening.start() if closing.startswith("\\end") else opening.end()
            end = match.end() if closing.startswith("\\end") else match.start()
            form = INLINE if closing == r"\)" else DISPLAY
            if text[start:end].strip():
                found.append(_Found(opening.start(), match.end(), text[start:end], form))
            opening = None
    return found


def _closing_of(delimiter: str) -> str:
    if delimiter.startswith("\\begin"):
        return delimiter.replace("begin", "end")
    return {r"\(": r"\)", r"\[": r"\]", "$$": "$$"}.get(delimiter, "")


def _split(element: Any) -> None:
    """Cut the formulas out of the text directly inside an element."""
    for holder, slot in [(element, "text"), *((child, "tail") for child in element)]:
        text = getattr(holder, slot)
        if not text or ("\\" not in text and "$$" not in text):
            continue
        matches = _delimited(text)
        first = 0 if slot == "text" else element.index(holder) + 1
        for number, match in enumerate(matches):
            new = formula(match.tex, match.form)
            end = matches[number + 1].start if number + 1 < len(matches) else len(text)
            new.tail = text[match.end : end]
            element.insert(first + number, new)
        if matches:
            setattr(holder, slot, text[: matches[0].start])


_READERS: dict[Any, Callable[[Any, bool], tuple[str, str] | None]] = {
    "script": _script,
    "math": _math,
    "mjx-container": _container,
    "img": _image,
}
