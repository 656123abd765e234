"""Extractors, by the step `Extract` with its own processes and limits: a text comes out, or a reason.

`crashed` is a finding although the step survives it: a library has a fault that its files can reach.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.fuzz.structured import ENTITIES, gzip_content, json_value, xml_element, zip_member, zipped
from tests.fuzz.target import Mutator, Target

CPU_SECONDS = 10.0
MEMORY_BYTES = 2 << 30
HTML = "text/html"
PIECES = (
    b"\0", b"&#x110000;&#0;&#xD800;", b"<div>" * 300, b"<b><i>" * 200, b"</p>" * 200, b"<table><tr><td>" * 60,
    b"<ul><li>" * 80, b"<math><mfrac>" * 60, b"<svg><foreignObject>" * 20, b"<!--" * 50, b"<![CDATA[", b"<script>",
    b"</script>", b"<plaintext>", b"<pre>\n\n", b"<a href='" + b"x" * 50_000 + b"'>",
    b"<img src='data:image/png;base64," + b"QUJD" * 20_000 + b"'>", b"<td colspan=100000 rowspan=100000>",
    b"<ol start=-9999999999999>", b"&amp;" * 500, b"\\(" * 300, b"$$" * 200, b"<frameset>", b"\r" * 100,
    "\u27e6\u2801\u2801\u2801\u27e7".encode(),
)  # fmt: skip
TEX_PIECES = (
    b"\\def\\x{\\x\\x}\\x", b"\\input{../../../etc/passwd}", b"{" * 2_000, b"\\begin{align}" * 100, b"$", b"\\[", b"%",
    b"\\newcommand{\\a}[9]{#1#2#9}", b"\\a\\a\\a", b"\\verb|", b"\\begin{verbatim}", b"\\include{main}",
    b"\\end{document}",
    b"\\def\\a#1{#1#1}\\a{\\a{\\a{\\a{\\a{\\a{\\a{\\a{\\a{\\a{\\a{\\a{x}}}}}}}}}}}}",
)  # fmt: skip
PDF_PIECES = (
    b"/Length 99999999999", b"/Kids [2 0 R]", b"/Count -1", b"/Filter [/FlateDecode /FlateDecode]", b"<<" * 500,
    b"[" * 2_000, b"endobj", b"endstream", b"/Prev 9", b"/Encrypt 1 0 R", b"(" * 1_000, b"BT", b" Tj", b"q " * 2_000,
)  # fmt: skip


@cache
def step(engine: str) -> Any:
    from megaphi.curation.extract.extract import Extract
    from megaphi.curation.step import StepContext

    settings = Extract(engine=engine, cpu_seconds=CPU_SECONDS, memory_bytes=MEMORY_BYTES)  # type: ignore[arg-type]
    return settings.open(StepContext(folder=Path(), open_sampler=lambda name: None))  # type: ignore[arg-type,return-value]


def extract(media_type: str, engine: str, content: bytes) -> str | None:
    """None, or the reason why there is no text."""
    from megaphi.curation.document import Document

    outcome = step(engine)(Document(id="1", source="s", place="p", content=content, media_type=media_type))
    if isinstance(outcome, Document):
        return None
    assert outcome.reason not in ("crashed", "unknown_format"), f"{outcome.reason}: {outcome.detail}"
    return outcome.reason


def pages() -> Sequence[bytes]:
    folder = Path(__file__).parents[2] / "curation" / "extract" / "data"
    return [path.read_bytes() for path in sorted(folder.glob("*.html"))]


def tex() -> Sequence[bytes]:
    source = (
        rb"\documentclass{article}\newcommand{\R}{\mathbb{R}}\newcommand{\pair}[2]{\langle #1,#2\rangle}"
        rb"\def\half{\frac12}"
        rb"\begin{document}\section{On $x\in\R$}\label{a} Words \emph{and} more, see~\ref{a}. \input{part}"
        rb"\begin{align} a &= \pair{b}{c} \\ d &= \half \end{align}\begin{verbatim}" + b"\n  code()\n"
        rb"\end{verbatim}\begin{tabular}{l|r} 1 & $y$ \\ 2 & z \end{tabular}\begin{theorem}All $n>0$.\end{theorem}"
        rb"\end{document}"
    )
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in (("main.tex", source), ("part.tex", b"Part \\(q\\)."), ("../../out.tex", b"climbs")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return [source, gzip.compress(file.getvalue(), mtime=0), gzip.compress(source, mtime=0)]


def written(form: str) -> Sequence[bytes]:
    """A document with formulas, code and a table."""
    from tests.curation.extract.written_files import by_pandoc

    return [by_pandoc(form)]


def bombs(form: str) -> Sequence[bytes]:
    """The same with a member that unpacks to 300 MB, one that climbs, and with each member expanding entities."""
    members = _members(written(form)[0])
    zeros = [*members, ("word/bomb.xml" if form == "docx" else "bomb.xhtml", bytes(300 << 20))]
    climbing = [*members, ("../../../../tmp/climbed", b"x")]
    expanding = [(name, ENTITIES + data.replace(b"Words", b"&i;")) for name, data in members]
    return [zipped(zeros), zipped(climbing), zipped(expanding)]


def deep(*elements: bytes) -> Sequence[bytes]:
    """Elements within elements, entities in entities, one line of 30 MB, and a file of zeros."""
    nested = [b"<html><body>" + each * 200_000 + b"Words" for each in elements]
    return [*nested, ENTITIES + b"<article><body><p>&i;</p></body></article>", b"a" * (30 << 20), bytes(1 << 20)]


def _members(content: bytes) -> list[tuple[str, bytes]]:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(each.filename, archive.read(each)) for each in archive.infolist()]


def jats() -> Sequence[bytes]:
    from tests.curation.extract.written_files import JATS

    return [JATS]


def notebooks() -> Sequence[bytes]:
    from tests.curation.extract.written_files import NOTEBOOK

    return [NOTEBOOK]


def pdfs() -> Sequence[bytes]:
    from tests.curation.extract.written_files import pdf

    lines = ["The quick brown fox jumps over the lazy dog and goes on in the next"] * 20
    return [pdf([lines]), pdf([lines, lines, lines])]


def extractor(
    name: str, media_type: str, seeds: Callable[[], Sequence[bytes]], suffix: str, *mutators: Mutator, **more: Any
) -> Target:
    engine = more.pop("engine", "trafilatura")
    return Target(
        name=f"extract {name}",
        run=partial(extract, media_type, engine),
        seeds=seeds,
        mutators=mutators,
        suffixes=(suffix,),
        seconds=4 * CPU_SECONDS,
        memory_bytes=MEMORY_BYTES,
        short_inputs=12,
        **more,
    )


TARGETS = (
    extractor("html", HTML, pages, ".html", xml_element, tokens=PIECES, crafted=partial(deep, b"<b>", b"<table><td>")),
    extractor("html resiliparse", HTML, pages, ".html", xml_element, tokens=PIECES, engine="resiliparse",
              crafted=partial(deep, b"<b>", b"<table><td>")),
    extractor("tex", "application/x-tex", tex, ".tex", gzip_content(), tokens=TEX_PIECES,
              crafted=lambda: [gzip.compress(bytes(300 << 20), mtime=0), *(b"\\documentclass{a}\\begin{document}" +
                               each * 100_000 for each in (b"{", b"\\begin{itemize}", b"$", b"\\frac", b"["))]),
    extractor("jats", "application/jats+xml", jats, ".nxml", xml_element, tokens=PIECES,
              crafted=partial(deep, b"<sec>", b"<p><list><list-item>")),
    extractor("notebook", "application/x-ipynb+json", notebooks, ".ipynb", json_value, tokens=PIECES),
    extractor("epub", "application/epub+zip", partial(written, "epub"), ".epub", zip_member(xml_element), tokens=PIECES,
              crafted=partial(bombs, "epub")),
    extractor(
        "docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", partial(written, "docx"),
        ".docx", zip_member(xml_element), crafted=partial(bombs, "docx"),
    ),
    extractor("pdf", "application/pdf", pdfs, ".pdf", tokens=PDF_PIECES),
)  # fmt: skip
