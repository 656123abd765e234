"""Pages for the tests of HTML extraction: a frame as sites have it around some content, and the text that comes out."""

from __future__ import annotations

from typing import Any

from megaphi.curation.extract.html.page import extract_html

PROSE = "The text around it is long enough to be taken for the content of a page by any library that looks at it. " * 3
FRAME = """<!DOCTYPE html><html><head><title>Title of the page</title><style>p {{ color: red }}</style></head><body>
<div class="cookie-banner">We value your privacy <button>Accept</button></div>
<nav><ul><li><a href="/">Home page</a></li><li><a href="/about">About us</a></li></ul></nav>
<div class="breadcrumbs"><a href="/">Start</a> / <a href="/a">Articles</a></div>
<main><h1>Heading of the page<a class="headerlink" href="#h">¶</a></h1>
<a class="edit-link" href="/edit">Edit this page</a>
<p>{prose}</p>
{content}
<p>{prose}</p>
<div class="share-buttons"><a href="https://example.org">Share on a network</a></div></main>
<footer>Copyright by somebody</footer></body></html>"""
FURNITURE = ("privacy", "Home page", "About us", "Articles", "¶", "Edit this", "Share on", "Copyright", "color: red")


def text_around(content: str, engine: Any = "trafilatura") -> str:
    """Text made of the content between the two paragraphs of prose."""
    page = FRAME.format(prose=PROSE, content=content)
    text = extract_html(page.encode(), media_type="text/html", files={}, engine=engine).text
    for words in FURNITURE:
        assert words not in text, words
    head, before, rest = text.partition(PROSE.strip())
    assert (head, before) == ("# Heading of the page\n\n", PROSE.strip())
    inside, behind, end = rest.rpartition(PROSE.strip())
    assert behind
    assert not end
    return inside.strip("\n")
