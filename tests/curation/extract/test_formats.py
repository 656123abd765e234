"""DOCX, ePub, JATS, PDF and notebooks: a file's words stand in its text, and hostile files are refused by name."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile

import pytest

from megaphi.curation.document import Document, Rejected
from megaphi.curation.extract.archive import unpack
from megaphi.curation.extract.extract import Extract, extractors
from megaphi.curation.extract.found import Extracted, Extractor, NotExtracted
from megaphi.curation.extract.notebook import LONGEST_OUTPUT, extract_notebook
from megaphi.curation.extract.pandoc.docx import extract_docx
from megaphi.curation.extract.pandoc.epub import extract_epub
from megaphi.curation.extract.pandoc.jats import extract_jats
from megaphi.curation.extract.pdf import extract_pdf, text_of_pages
from tests.curation.extract.written_files import JATS, NOTEBOOK, by_pandoc, pdf, zipped


def extracted(extractor: Extractor, content: bytes) -> Extracted:
    return extractor(content, media_type="", files={})


def refusal(extractor: Extractor, content: bytes) -> str:
    with pytest.raises(NotExtracted) as raised:
        extracted(extractor, content)
    return raised.value.reason


@pytest.mark.parametrize(("form", "extractor"), [("docx", extract_docx), ("epub", extract_epub)])
def test_documents_keep_formulas_code_and_tables(form: str, extractor: Extractor) -> None:
    found = extracted(extractor, by_pandoc(form))
    assert found.text.startswith("# Title\n\n## Head\n\nWords with $x^")
    assert "\\sum_{i" in found.text
    assert "\\begin{pmatrix}" in found.text
    assert "def f():\n    return 1\n```" in found.text
    assert found.text.endswith("| 1   | $y$ |")
    assert (found.metadata["formulas"], found.metadata["formulas_kept"]) == (3, 3)
    assert found.metadata["title"] == "Title"


def test_articles_in_jats() -> None:
    found = extracted(extract_jats, JATS)
    assert found.text.startswith(
        "# On *x*\n\n## Abstract\n\nShort.\n\n## Intro – α\n\nSee 1: $x^{2}$ and $\\alpha_1$ so\n\n"
    )
    assert "so\n\n$$\na < b\n$$\n\ndone." in found.text
    assert found.text.endswith("| 1   |\n\n```python\nx = 1\n  y\n```")
    assert "| h   |\n|-----|\n| 1   |" in found.text
    assert "Reference" not in found.text
    assert "Journal" not in found.text
    assert found.metadata == {"formulas": 3, "formulas_kept": 3, "title": "On *x*", "declared_language": "en"}


def test_notebooks() -> None:
    found = extracted(extract_notebook, NOTEBOOK)
    assert found.text.startswith(
        "# Title\nwith $x$ p\n\n```julia\nf(x) = `x`\n\tg\n```\n\n```\nred\n$y^2$\nKeyError: 'k'\n```"
    )
    assert "iVBOR" not in found.text
    assert found.text.endswith(f"{'z' * LONGEST_OUTPUT}\n[3,000 characters more]\n```")
    assert found.metadata["outputs_left_out"] == {"image/png": 1}
    assert refusal(extract_notebook, b"{") == "malformed"
    assert refusal(extract_notebook, b'{"cells": 7}') == "malformed"
    assert refusal(extract_notebook, json.dumps({"cells": []}).encode()) == "empty"


def test_pdf_joins_lines_and_leaves_out_what_every_page_has() -> None:
    line = "The quick brown fox jumps over the lazy dog and then over the next one"
    names = ("one", "two", "three", "four", "five")
    pages = [
        [f"Header {number}", f"{line} {name}", f"{line} two", "goes on here.", f"{name} = 1", name, f"Page {number}"]
        for number, name in enumerate(names)
    ]
    found = extracted(extract_pdf, pdf(pages))
    assert found.text.splitlines()[:2] == [f"{line} one {line} two goes on here.", "one = 1"]
    assert "Header" not in found.text
    assert "Page" not in found.text
    assert found.metadata["pages"] == 5
    assert text_of_pages(["a conver\x02\nsion of hyphen-\nated words"]) == "a conversion of hyphenated words"


def test_pdf_without_characters_or_with_a_password_or_damage() -> None:
    assert refusal(extract_pdf, pdf([[] for _ in range(3)])) == "no_text_layer"
    assert refusal(extract_pdf, b"%PDF-1.4\nnothing") == "malformed"


BOMB = b"\0" * (40 << 20)
LAUGHS = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "xxxxxxxxxx">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + level, b"&%c;" % (97 + level) * 10) for level in range(9)
)


@pytest.mark.parametrize(
    ("extractor", "content", "reason"),
    [
        (extract_docx, zipped({"word/document.xml": BOMB}), "hostile_archive"),
        (extract_docx, zipped({"word/document.xml": LAUGHS + b"]><a>&j;</a>"}), "malformed"),
        (extract_docx, zipped({"other": b""}), "malformed"),
        (extract_docx, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "encrypted"),
        (extract_docx, b"PK\x03\x04", "malformed"),
        (extract_epub, zipped({"META-INF/container.xml": b"", "META-INF/rights.xml": b""}), "encrypted"),
        (extract_epub, zipped({"mimetype": b""}), "malformed"),
        (extract_jats, b"<html/>", "malformed"),
        (extract_jats, b"<article>" * 400, "malformed"),
        (extract_jats, b"<article>\0</article>", "nul_bytes"),
    ],
)
def test_hostile_files_are_refused_by_name(extractor: Extractor, content: bytes, reason: str) -> None:
    assert refusal(extractor, content) == reason


def test_entities_of_xml_expand_to_nothing_and_name_no_file() -> None:
    body = b"<body><p>kept &j; &x; &amp;</p></body></article>"
    for declared in (LAUGHS + b"]>", b'<!DOCTYPE article [<!ENTITY x SYSTEM "file:///etc/passwd">]>'):
        text = extracted(extract_jats, declared + b"<article>" + body).text
        assert text == "kept &j; &x; &"


def test_archives_are_unpacked_within_limits_and_lead_nowhere() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, kind in (
            ("/etc/a", b"0"),
            ("../b", b"0"),
            ("c/../../d", b"0"),
            ("link", b"2"),
            ("dev", b"3"),
            ("ok/e", b"0"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 1 if kind == b"0" else 0
            archive.addfile(member, io.BytesIO(b"x"))
    found = unpack(file.getvalue())
    assert (found.files, found.unsafe) == ({"ok/e": b"x"}, 5)
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("..\\up", "x")
        archive.writestr("C:\\x", "x")
    assert (unpack(file.getvalue()).files, unpack(file.getvalue()).unsafe) == ({}, 3)
    with pytest.raises(NotExtracted, match="hostile_archive"):
        unpack(zipped({f"{number}": b"\0" * (1 << 20) for number in range(60)}))


def test_the_step_finds_the_extractor_of_every_format() -> None:
    step = Extract()
    table = extractors(step)
    from megaphi.curation.extract.extract import extracted

    written = {
        "docx": (by_pandoc("docx"), "", "# Title"),
        "epub": (by_pandoc("epub"), "", "# Title"),
        "jats": (JATS, "application/xml", "# On *x*"),
        "notebook": (NOTEBOOK, "", "# Title"),
        "pdf": (pdf([["Words that stand on a page, and some more."]]), "text/html", "Words that"),
        "tex": (b"\\documentclass{article}\\begin{document}Words\\end{document}", "", "Words"),
    }
    for name, (content, media_type, begin) in written.items():
        document = Document(id=name, source=name, place=name, content=content, media_type=media_type)
        found = extracted(document, step, table)
        assert not isinstance(found, Rejected), (name, found.detail)
        assert isinstance(found, Document)
        assert found.text.startswith(begin), name
        assert found.content == b""


@pytest.mark.parametrize("name", ["docx", "epub", "jats", "notebook", "pdf", "tex"])
def test_damaged_files_have_a_text_or_a_reason(name: str) -> None:
    whole = {"jats": JATS, "notebook": NOTEBOOK, "pdf": pdf([["Some words."] * 9] * 3)}
    whole["tex"] = b"\\documentclass{a}\\begin{document}$x$ \\newcommand{\\y}[1]{#1} \\y{z} \\verb|c|\\end{document}"
    content = whole[name] if name in whole else by_pandoc(name)
    table = extractors(Extract(cpu_seconds=20))
    media = {"tex": "application/x-tex", "notebook": "application/x-ipynb+json", "jats": "application/jats+xml"}
    media |= {"pdf": "application/pdf", "epub": "application/epub+zip"}
    kinds = [kind for kind in table if "wordprocessing" in kind]
    extractor = table[media.get(name, kinds[0])]
    chance = random.Random(7)
    reasons: set[str] = set()
    for _ in range(12):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 3, 30])):
            start = chance.randrange(len(damaged))
            damaged[start : start + chance.choice([0, 1, 20])] = chance.randbytes(chance.choice([0, 1, 20]))
        try:
            assert isinstance(extractor(bytes(damaged), media_type="", files={}).text, str)
        except NotExtracted as error:
            reasons.add(error.reason)
    assert reasons <= {"malformed", "encrypted", "empty", "nul_bytes", "no_text_layer", "hostile_archive"}
