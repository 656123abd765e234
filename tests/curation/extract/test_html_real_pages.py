"""Excerpts of real pages: their whole text as it was read by eye, in both engines; and hostile pages.

`data/scipy_fdtri.html` is from the SciPy 1.10.1 manual (BSD 3-Clause License, The SciPy community),
`data/python_bisect.html` from the Python 3.11 documentation (PSF License Version 2, Python Software Foundation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megaphi.curation.document import Document, Rejected
from megaphi.curation.extract.html.page import extract_html
from tests.curation.extract.html_pages import PROSE
from tests.curation.extract.test_extract_step import document, opened

DATA = Path(__file__).parent / "data"
PAGES = ["scipy_fdtri", "python_bisect"]


@pytest.mark.parametrize("engine", ["trafilatura", "resiliparse"])
@pytest.mark.parametrize("name", PAGES)
def test_a_real_page_is_read_whole(name: str, engine: Any) -> None:
    page = (DATA / f"{name}.html").read_bytes()
    found = extract_html(page, media_type="text/html", files={}, engine=engine)
    assert found.text == (DATA / f"{name}.txt").read_text().rstrip("\n")
    counts = [found.metadata["extraction"][kind] for kind in ("formulas", "code", "tables")]
    assert all(in_text == on_page for in_text, on_page in counts)


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        (b"a" * 11_000_000, "too_large"),
        (b"<img alt='" + b"a" * 11_000_000 + b"'>", "too_large"),
        (b"<b>" * 50_000, "too_deep"),
        (b"<table><tr><td>" * 2_000, "too_deep"),
        (b"<img src='data:image/png;base64," + b"QUJD" * 1_000_000 + b"'>", None),
        (b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '" + b"&a;" * 1_000 + b"'>]>" + b"&b;" * 1_000, None),
        (b"</p>" * 10_000, None),
        (b"<p>\xff\xfe\xc3\x28</p>" * 1_000, None),
        (b"\0" * 1_000_000, None),
        (b"<br>" * 10_000, None),
        (b"\\(" * 50_000 + b"$$" * 50_000, None),
    ],
)
def test_hostile_pages(inside: bytes, reason: str | None) -> None:
    script = b"<script src='MathJax.js'></script>"
    page = b"<html>%s<body><p>%s</p>%s<p>%s</p></body></html>" % (script, PROSE.encode(), inside, PROSE.encode())
    outcome = opened(cpu_seconds=20.0)(document(page, "text/html"))
    assert (outcome.reason if isinstance(outcome, Rejected) else None) == reason
    if isinstance(outcome, Document):
        assert PROSE.strip() in " ".join(outcome.text.split())
