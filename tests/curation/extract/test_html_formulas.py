"""Formulas of each family that the web writes them in, once each, as TeX between dollar signs."""

from __future__ import annotations

import pytest

from megaphi.curation.extract.html.page import extract_html

PROSE = "The text around it is long enough to be taken for the content of a page by any library that looks at it. " * 3
NAMESPACE = 'xmlns="http://www.w3.org/1998/Math/MathML"'
MATHML = f"<math {NAMESPACE}" + "{}><semantics><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow>{}</semantics></math>"
ANNOTATION = '<annotation encoding="application/x-tex">{}</annotation>'
EYE = '<span class="katex-html" aria-hidden="true">x2</span>'
KATEX = '<span class="katex"><span class="katex-mathml">{}</span>' + EYE + "</span>"


def extracted(inside: str, head: str = "") -> tuple[str, list[int]]:
    main = f"<p>{PROSE}</p><p>Before {inside} behind.</p><p>{PROSE}</p>"
    html = f"<html><head>{head}</head><body><main>{main}</main></body></html>"
    found = extract_html(html.encode(), media_type="text/html", files={})
    return found.text, found.metadata["extraction"]["formulas"]


@pytest.mark.parametrize(
    ("inside", "head", "text"),
    [
        pytest.param(MATHML.format("", ANNOTATION.format("x^2")), "", "Before $x^2$ behind.", id="annotation"),
        pytest.param(MATHML.format(' alttext="x^{2}"', ""), "", "Before $x^{2}$ behind.", id="alttext"),
        pytest.param(MATHML.format("", ""), "", "Before $x^{2}$ behind.", id="converted"),
        pytest.param(
            MATHML.format(' display="block"', ANNOTATION.format(r"\frac{a}{b}")), "", "$$\\frac{a}{b}$$", id="display"
        ),
        pytest.param(
            KATEX.format(MATHML.format("", ANNOTATION.format("x^2"))), "", "Before $x^2$ behind.", id="katex"
        ),
        pytest.param(
            f'<span class="katex-display">{KATEX.format(MATHML.format("", ANNOTATION.format("x^2")))}</span>',
            "", "$$x^2$$", id="katex-display",
        ),
        pytest.param(
            '<span class="MathJax_Preview">x2</span><b class="MathJax">x2</b><script type="math/tex">x^2</script>',
            "", "Before $x^2$ behind.", id="mathjax-2-script",
        ),
        pytest.param(
            '<div class="MathJax_Display">x2</div><script type="math/tex; mode=display">x^2 < y</script>',
            "", "$$x^2 < y$$", id="mathjax-2-display",
        ),
        pytest.param(
            f"<mjx-container>x2<mjx-assistive-mml>{MATHML.format('', '')}</mjx-assistive-mml></mjx-container>",
            "", "Before $x^{2}$ behind.", id="mathjax-3",
        ),
        pytest.param(
            r"\(x^2 &lt; 1\)", '<script src="https://x/MathJax.js"></script>', "Before $x^2 < 1$ behind.", id="in-text"
        ),
        pytest.param(r"\(x^2\)", "", r"Before \(x^2\) behind.", id="delimiters-without-a-library-stay"),
        pytest.param('<span class="math notranslate">\\(x^2\\)</span>', "", "Before $x^2$ behind.", id="sphinx"),
        pytest.param('<span class="math-container">$x^2$</span>', "", "Before $x^2$ behind.", id="stackexchange"),
        pytest.param('<img class="math" src="1.png" alt="x^2"/>', "", "Before $x^2$ behind.", id="imgmath"),
        pytest.param(
            '<span class="mwe-math-element">' + MATHML.format("", ANNOTATION.format(r"{\displaystyle x^{2}}"))
            + r'<img class="mwe-math-fallback-image-inline" alt="{\displaystyle x^{2}}"></span>',
            "", "Before $x^{2}$ behind.", id="wikipedia",
        ),
        pytest.param(
            '<img class="latex" src="https://s0.wp.com/latex.php?latex=x%5E2+%5Cle+1&bg=fff" alt="">',
            "", r"Before $x^2 \le 1$ behind.", id="wordpress",
        ),
        pytest.param(
            r'<img src="https://latex.codecogs.com/png.latex?%5Cfrac%7Ba%7D%7Bb%7D">',
            "", r"Before $\frac{a}{b}$ behind.",
            id="codecogs",
        ),
        pytest.param('<img src="cat.png" alt="A cat on a mat">', "", "Before behind.", id="a-picture-is-no-formula"),
    ],
)  # fmt: skip
def test_a_formula_stays_once(inside: str, head: str, text: str) -> None:
    found, counts = extracted(inside, head)
    assert text in found
    assert counts == ([1, 1] if "$" in text else [0, 0])
    assert "x2" not in found


def test_lines_of_a_display_stay_because_comments_end_with_them() -> None:
    tex = r"\begin{split}a &= b % why" + "\n\n" + r"\\ &= c\end{split}"
    found, _ = extracted(f'<div class="math">\\[{tex.replace("&", "&amp;")}\\]</div>')
    assert "$$\\begin{split}a &= b % why\n\\\\ &= c\\end{split}$$" in found


CELL = "<mtd><mi>{}</mi></mtd>"
TABLE = (
    "<mtable><mtr>"
    + CELL.format("a")
    + CELL.format("b")
    + "</mtr><mtr>"
    + CELL.format("c")
    + CELL.format("d")
    + "</mtr></mtable>"
)


@pytest.mark.parametrize(
    ("mathml", "tex"),
    [
        (f"<mo>(</mo>{TABLE}<mo>)</mo>", r"\begin{pmatrix}a & b \\ c & d\end{pmatrix}"),
        (f"<mrow><mo>[</mo>{TABLE}<mo>]</mo></mrow>", r"\begin{bmatrix}a & b \\ c & d\end{bmatrix}"),
        (f"<mfenced open='|' close='|'>{TABLE}</mfenced>", r"\begin{vmatrix}a & b \\ c & d\end{vmatrix}"),
        (f"<mi>f</mi><mo>=</mo><mo>{{</mo>{TABLE}", r"f = \begin{cases}a & b \\ c & d\end{cases}"),
        (TABLE, r"\begin{matrix}a & b \\ c & d\end{matrix}"),
        (
            f"<mtable><mtr><mtd><mo>(</mo>{TABLE}<mo>)</mo></mtd></mtr></mtable>",
            r"\begin{matrix}\begin{pmatrix}a & b \\ c & d\end{pmatrix}\end{matrix}",
        ),
    ],
)
def test_matrices_keep_their_environment(mathml: str, tex: str) -> None:
    found, _ = extracted(f'<math xmlns="http://www.w3.org/1998/Math/MathML">{mathml}</math>')
    assert f"${tex}$" in found
