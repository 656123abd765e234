"""TeX sources: formulas and code come back to the byte, macros are written out, nothing is read outside the files."""

from __future__ import annotations

import contextlib
import gzip
import io
import resource
import tarfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.curation.extract.marks import Marks, restored
from megaphi.curation.extract.pandoc import run
from megaphi.curation.extract.tex import parts
from megaphi.curation.extract.tex.code import CodeForms, without_code
from megaphi.curation.extract.tex.convert import extract_tex
from megaphi.curation.extract.tex.formulas import without_formulas
from megaphi.curation.extract.tex.macros import MOST_EXPANSIONS, Macros, expand


def text_of(body: str, preamble: str = "", files: dict[str, bytes] | None = None) -> Extracted:
    source = f"\\documentclass{{article}}\n{preamble}\n\\begin{{document}}\n{body}\n\\end{{document}}\n"
    return extract_tex(source.encode(), media_type="", files=files or {})


@pytest.mark.parametrize(
    ("definition", "use", "expected"),
    [
        (r"\newcommand{\R}{\mathbb{R}}", r"\R^n", r"\mathbb{R}^n"),
        (r"\newcommand\R{\mathbb{R}}", r"\R", r"\mathbb{R}"),
        (r"\newcommand*{\abs}[1]{\left|#1\right|}", r"\abs{x+\abs{y}}", r"\left|x+\left|y\right|\right|"),
        (r"\newcommand{\norm}[2][2]{\|#2\|_{#1}}", r"\norm{x}+\norm[1]{y}", r"\|x\|_{2}+\|y\|_{1}"),
        (r"\def\pair<#1,#2>{(#1;#2)}", r"\pair<a,b>", "(a;b)"),
        (r"\def\ee#1#2{e^{#1}_{#2}}", r"\ee ab", "e^{a}_{b}"),
        (r"\DeclareMathOperator{\tr}{tr}", r"\tr A", r"\operatorname{tr}A"),
        (r"\DeclareMathOperator*{\argmax}{arg\,max}", r"\argmax_x", r"\operatorname*{arg\,max}_x"),
        (r"\DeclarePairedDelimiter{\ceil}{\lceil}{\rceil}", r"\ceil*{x}", r"\lceil x \rceil"),
        (r"\NewDocumentCommand{\inner}{m O{y}}{\langle #1,#2\rangle}", r"\inner{x}", r"\langle x,y\rangle"),
        (r"\let\eps\varepsilon", r"\eps>0", r"\varepsilon>0"),
        (r"\newcommand{\al}{\alpha}", r"\al x", r"\alpha x"),
        (r"\let\oldphi\phi \renewcommand{\phi}{\oldphi'}", r"\phi", r"\phi'"),
        (r"\renewcommand{\phi}{\varphi}", r"\phi", r"\varphi"),
        (r"\newcommand{\a}{\b}\newcommand{\b}{\c}\newcommand{\c}{x}", r"\a", "x"),
        (r"\newcommand{\tells}{\ifnum 1<2 x\else y\fi}", r"\tells", r"\tells"),  # it computes: left alone
        (r"\newcommand{\same}{p\iff q}", r"\same", r"p\iff q"),
    ],
)
def test_macros_are_written_out(definition: str, use: str, expected: str) -> None:
    assert expand(definition + "$" + use + "$", Macros()).replace(" ", "").endswith(f"${expected.replace(' ', '')}$")
    assert f"${expected}$".replace(" ", "") in text_of(f"So ${use}$ holds.", definition).text.replace(" ", "")


def test_environments_and_theorems_are_written_out() -> None:
    preamble = r"\newcommand{\be}{\begin{equation}}\newcommand{\ee}{\end{equation}}\newtheorem{thm}{Theorem}"
    preamble += r"\newenvironment{claim}[1]{\textit{Claim #1:}}{(end)}"
    found = text_of(r"\be x=1 \ee \begin{thm}[Gauss] Let $p$. \end{thm} \begin{claim}{7} yes \end{claim}", preamble)
    assert found.text == "$$\nx=1\n$$\n\n**Theorem.** (Gauss) Let $p$.\n\n*Claim 7:* yes (end)"


def test_definitions_hold_from_their_place_on_and_in_local_packages() -> None:
    files = {"mine.sty": rb"\newcommand{\X}{package}\def\section#1{oops}", "other.sty": rb"\newcommand{\X}{unused}"}
    text = text_of(r"\X\ \renewcommand{\X}{body}\X \section{S}", r"\usepackage{mine}", files).text
    assert text == "package body\n\n# S"


LOOPS = [
    r"\newcommand{\x}{\x\x}\x",
    r"\def\a{\b\b}\def\b{\a\a}\a",
    "".join(rf"\def\{a}{{\{b}\{b}\{b}\{b}}}" for a, b in zip("abcdefghijklmnopqrs", "bcdefghijklmnopqrst", strict=True))
    + r"\def\t{xxxxxxxx}\a",
    r"\newenvironment{e}{\begin{e}}{\end{e}}\begin{e}\end{e}",
    r"\newcommand{\x}[1]{#1#1}" + r"\x{" * 300 + "y" + "}" * 300,
]


@pytest.mark.parametrize("source", LOOPS)
def test_macros_that_never_end_are_cut(source: str) -> None:
    began, macros = time.process_time(), Macros()
    shown = expand(source, macros)
    assert len(shown) < 100 << 20
    assert macros.expansions <= MOST_EXPANSIONS + 50
    assert time.process_time() - began < 20


CODE = "def f(x):\n\treturn '%d\\n' % x  # not a comment $x$ \\input{a} ``` {\n\n"


@pytest.mark.parametrize(
    ("begin", "end", "language"),
    [
        ("\\begin{verbatim}\n", "\\end{verbatim}", ""),
        ("\\begin{lstlisting}[language=Python, caption={A}]\n", "\\end{lstlisting}", "python"),
        ("\\begin{minted}[linenos]{python}\n", "\\end{minted}", "python"),
        ("\\begin{Verbatim}[frame=single]\n", "\\end{Verbatim}", ""),
        ("\\begin{mycode}\n", "  \\end{mycode}", ""),
        ("\\begin{pythoncode}\n", "\\end{pythoncode}", "python"),
    ],
)
def test_code_is_kept_to_the_byte(begin: str, end: str, language: str) -> None:
    preamble = "\\lstnewenvironment{mycode}{}{}\\newminted{python}{}"
    found = text_of(f"Before.\n{begin}{CODE}{end}\nBehind. % {begin}", preamble)
    assert f"\n````{language}\n{CODE.removesuffix(chr(10))}\n````\n" in found.text
    assert found.text.startswith("Before.")
    assert found.text.endswith("Behind.")
    assert (found.metadata["code_blocks"], found.metadata["code_blocks_kept"]) == (1, 1)


def test_inline_code_of_every_kind_is_kept() -> None:
    found = text_of(
        r"\verb|a%b$c_| and \lstinline[language=C]!x = \n! and \mintinline{c}{y = {1}} and |s_1|.",
        r"\MakeShortVerb{\|}",
    )
    assert found.text == r"`a%b$c_` and `x = \n` and `y = {1}` and `s_1`."


def test_formulas_of_every_kind_are_kept_and_counted() -> None:
    body = r"""Cost \$5. $a_1 \text{ if $b$}$, \(c\), $$d
    \hbox{for $e$}$$ \[f\] \begin{equation*}g\label{eq:g}\end{equation*}
    \begin{align} h &= 1 \\ i &= 2 \end{align}
    \footnote{Note $j$.} \unknown[opt]{k $k$} \begin{strange}{x} $l$ \end{strange}
    \begin{itemize}\item[$m$] one \end{itemize}
    \begin{tabular}{ll} $n$ & \multirow{2}{*}{$o$} \\ \multicolumn{2}{c}{$p$} \end{tabular} See \eqref{eq:g}."""
    found = text_of(body, r"\title{On $q$}")
    assert (found.metadata["formulas"], found.metadata["formulas_kept"]) == (14, 14)
    assert found.metadata["title"] == "On $q$"
    for formula in (r"$a_1 \text{ if $b$}$", "$c$", "$$\nf\n$$", "$$\ng\\label{eq:g}\n$$", "$j$", "$k$", "$l$", "$p$"):
        assert formula in found.text
    assert "Cost $5." in found.text
    assert r"See \eqref{eq:g}." in found.text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*"ab$%\\{}[]_&\n ", "$$", "\\(", "\\)", "\\begin{align}", "\\end{align}", "\\verb|"])))
def test_taking_out_and_putting_back_loses_nothing(pieces: list[str]) -> None:
    text = "".join(pieces)
    marks = Marks(text)
    taken = without_formulas(without_code(text, CodeForms.of([text]), marks), marks)
    assert all(
        f"{marks.letters}{number}q" in taken or "code" in kind for number, (kind, _) in enumerate(marks.contents)
    )
    assert not marks.pattern.search(restored(taken, marks))


def test_comments_end_lines_and_paragraphs_as_in_tex() -> None:
    assert text_of("one% note\n  two\n\nthree % note\n% note\n\nfour 5\\% six").text == "onetwo\n\nthree\n\nfour 5% six"


def test_files_come_in_their_places() -> None:
    files = {
        "chapters/one.tex": rb"One. \input{../shared} \include{chapters/two}",
        "chapters/two.tex": rb"Two. \input{chapters/one}",
        "shared.tex": b"Shared.\\endinput never",
        "sub.tex": b"\\documentclass[main]{subfiles}\\begin{document}Sub.\\end{document}",
        "code.py": b"x = '%'\n",
    }
    body = r"\input chapters/one \subfile{sub} %\input{nothing}" + "\n" + r"\lstinputlisting{code.py} \input{missing}"
    found = text_of(body, files=files)
    assert found.text == "One. Shared. Two. Sub.\n\n```\nx = '%'\n```"
    assert found.metadata["missing_files"] == ["chapters/one", "missing"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "|ls", "chapters/../../../etc/passwd"])
def test_nothing_outside_the_files_is_read(path: str) -> None:
    found = text_of(
        rf"A \input{{{path}}} \lstinputlisting{{{path}}} \write18{{touch /tmp/x}} \immediate\openin5={path} B."
    )
    assert "root" not in found.text
    assert found.text.startswith("A")


def packed(files: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return file.getvalue()


def test_the_main_file_of_an_archive_is_found() -> None:
    whole = r"\documentclass{article}\begin{document}%s\end{document}"
    archive = packed(
        {
            "template.tex": whole % ("template " * 500),
            "part.tex": "Part. " * 500,
            "response.tex": whole % ("letter " * 300),
            "smith23.tex": whole % r"Paper. \input{part}",
            "notes.tex": whole % "short",
            "../../evil.tex": whole % ("evil " * 5000),
        }
    )
    assert extract_tex(archive, media_type="application/gzip", files={}).text.startswith("Paper. Part.")
    alone = gzip.compress((whole % "Alone.").encode())
    assert extract_tex(alone, media_type="application/gzip", files={}).text == "Alone."
    with pytest.raises(NotExtracted, match="no_main_file"):
        extract_tex(packed({"figure.eps": "x", "README": "y"}), media_type="application/gzip", files={})


def test_one_paragraph_that_pandoc_cannot_parse_costs_one_paragraph() -> None:
    body = "\n\n".join([f"Paragraph {number} with $x_{{{number}}}$." for number in range(20)])
    broken = body.replace("Paragraph 7", r"Paragraph 7 \begin{itemize} \item x \end{enumerate} }")
    found = text_of(broken)
    assert found.metadata["parts_without_pandoc"] == 1
    assert found.metadata["formulas_kept"] == found.metadata["formulas"] == 20
    assert all(f"Paragraph {number}" in found.text for number in range(20))


@pytest.mark.parametrize(
    "body",
    ["{" * 20_000, "$" * 20_001, "\\begin{a}" * 3_000, "\\verb|" * 5_000, "x" * 1_000_000, "\\item[" * 5_000],
    ids=lambda body: f"{body[:9]}*{len(body)}",
)
def test_hostile_sources_end_in_time(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CPU_SECONDS", 1)
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime + time.process_time()
    with contextlib.suppress(NotExtracted):
        text_of(body)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime + time.process_time() - began < 20


def test_pictures_and_bibliographies_are_left_out() -> None:
    body = r"A \cite{k}.\begin{tikzpicture}\draw (0,0) node {$x$};\end{tikzpicture} B."
    body += r"\begin{thebibliography}{9}\bibitem{k} Reference $y$.\end{thebibliography}"
    found = text_of(body)
    assert found.text == "A \\cite{k}. B."
    assert found.metadata["formulas"] == 0


def test_a_manual_that_shows_documents_is_read_to_its_end() -> None:
    shown = r"\begin{sourcecode}\documentclass{x}\begin{document}y\end{document}\end{sourcecode}"
    body = r"First. \cmd\documentclass[a]{b} " + shown + " Second $x$.\n\n\\begin{slide}{Its title} Third. \\end{slide}"
    text = text_of(body).text
    assert [text.count(word) for word in ("First.", "Second $x$.", "Its title", "Third.")] == [1, 1, 1, 1]


def test_a_text_that_pandoc_ends_early_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = parts.to_markdown
    monkeypatch.setattr(parts, "to_markdown", lambda source, reader: whole(source.partition(b"Stop")[0], reader))
    written = [f"Paragraph number {number} about " + "something " * 20 + "else." for number in range(8)]
    text = text_of("\n\n".join([written[0], "Stop", *written[1:]])).text
    assert [paragraph in text for paragraph in written[2:]] == [True] * 6
