"""The step `Extract`: formats are told apart, limits hold, and every failure is a rejection with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megaphi.curation.document import Document, Rejected
from megaphi.curation.extract.decode import decoded
from megaphi.curation.extract.extract import Extract
from megaphi.curation.extract.media_type import media_type_of
from megaphi.curation.step import OfOne, StepContext
from megaphi.errors import InputError

PAGE = b"<html><body><main><h1>Title</h1><p>%s</p></main></body></html>" % (b"A sentence of a page. " * 20)


def no_sampler(name: str) -> None:
    raise InputError(name)


def opened(**settings: Any) -> OfOne:
    return Extract(**settings).open(StepContext(folder=Path(), open_sampler=no_sampler))


def document(content: bytes, media_type: str = "") -> Document:
    return Document(id="1", source="s", place="p", content=content, media_type=media_type)


@pytest.mark.parametrize(
    ("content", "said", "media_type"),
    [
        (b"%PDF-1.7\n", "text/html", "application/pdf"),
        (b"\x1f\x8b\x08\x00", "", "application/gzip"),
        (b"PK\x03\x04" + b"0" * 26 + b"mimetypeapplication/epub+zip", "", "application/epub+zip"),
        (b"\n<!DOCTYPE html><html>", "", "text/html"),
        (b"<!DOCTYPE html>\\documentclass", "text/html; charset=utf-8", "text/html"),
        (b"% notes\n\\documentclass{article}", "application/octet-stream", "application/x-tex"),
        (b'<?xml version="1.0"?><article article-type="research-article">', "text/xml", "application/jats+xml"),
        (b'{"cells": [], "nbformat": 4}', "", "application/x-ipynb+json"),
        (b"Plain words.", "", "text/plain"),
        (b"\0\1\2", "", "application/octet-stream"),
    ],
)
def test_formats_are_told_apart(content: bytes, said: str, media_type: str) -> None:
    assert media_type_of(content, said) == media_type


@pytest.mark.parametrize(
    ("content", "media_type", "text", "encoding"),
    [
        ("Größe".encode("utf-16"), "", "Größe", "utf-16"),
        ("Größe".encode(), "text/html; charset=iso-8859-1", "Größe", "utf-8"),
        ("Größe".encode("cp1252"), "text/html; charset=latin1", "Größe", "cp1252"),
        ("<meta charset='koi8-r'>привет".encode("koi8-r"), "", "<meta charset='koi8-r'>привет", "koi8-r"),
        ("数学".encode("iso2022_jp"), "text/html; charset=iso-2022-jp", "数学", "iso2022_jp"),
        ("Größe ".encode() * 200 + b"\xff", "text/html; charset=utf-8", "Größe " * 200 + "\ufffd", "utf-8"),
        (
            "Größe und Maß für Füße. ".encode("cp1252") * 9,
            "text/html; charset=no-such",
            "Größe und Maß für Füße. " * 9,
            "cp1252",
        ),
        ("これは日本語の文章です。".encode("euc_jp") * 5, "", "これは日本語の文章です。" * 5, "euc_jp"),
    ],
)
def test_encodings(content: bytes, media_type: str, text: str, encoding: str) -> None:
    assert decoded(content, media_type=media_type) == (text, encoding)


@pytest.mark.parametrize(
    ("content", "media_type", "reason"),
    [
        (b"<div>" * 100_000 + b"x", "text/html", "too_deep"),
        (b"<p>" + b"x" * 2_000_000, "text/html", "too_large"),
        (b"\0\1\2", "", "unknown_format"),
        (b"a\0b", "text/plain", "nul_bytes"),
        (b"<html></html>", "text/html", "empty"),
        (b"", "text/html", "empty"),
    ],
)
def test_what_cannot_be_read_is_a_rejection(content: bytes, media_type: str, reason: str) -> None:
    outcome = opened(largest_bytes=1_000_000)(document(content, media_type))
    assert isinstance(outcome, Rejected)
    assert outcome.reason == reason


@pytest.mark.parametrize("engine", ["trafilatura", "resiliparse"])
def test_a_page_becomes_text_and_loses_its_bytes(engine: str) -> None:
    outcome = opened(engine=engine)(document(PAGE, "text/html"))
    assert isinstance(outcome, Document)
    assert "A sentence of a page." in outcome.text
    assert outcome.content == b""
    assert outcome.metadata["extraction"]["decided"] == engine


def test_a_document_with_text_goes_through() -> None:
    given = Document(id="1", source="s", place="p", text="Words.")
    assert opened()(given) is given


def test_characters_that_xml_has_no_place_for_are_left_out() -> None:
    sentence = b"A sentence&#1;&#x1F; of\x01 a\xef\xbf\xbf page&#12; &#123;&#x10ffff;. "
    page = b"<p>%s</p><math><m\\x>1</m\\x><mi>&#2;</mi></math>" % (sentence * 20)
    outcome = opened()(document(b"<html><body>%s<pre>a\x0b&#8;b</pre></body></html>" % page, "text/html"))
    assert isinstance(outcome, Document)
    assert "A sentence of a page {\U0010ffff. A" in outcome.text
    assert "\nab\n" in outcome.text
