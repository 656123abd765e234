"""Code byte by byte, tables, lists and definitions as Markdown; furniture gone; both engines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.curation.extract.html.code import fenced
from megaphi.curation.extract.html.page import extract_html
from tests.curation.extract.html_pages import PROSE, text_around

ENGINES = ["trafilatura", "resiliparse"]
CODE = "def f(a):\n\tif a < 1 && b:\n\n        return '&amp;'\n\n\n    # end"
ESCAPED = CODE.replace("&", "&amp;").replace("<", "&lt;")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("html", "language"),
    [
        (f"<pre>\n{ESCAPED}\n</pre>", ""),
        (f'<pre><code class="language-python">{ESCAPED}\n</code></pre>', "python"),
        (f'<div class="highlight-python3"><div><pre><span></span>{ESCAPED}</pre></div></div>', "python"),
        (
            '<table class="highlighttable"><tr><td class="linenos"><div class="linenodiv"><pre>1\n2\n3</pre></div></td>'
            f'<td class="code"><div><button>Copy</button><pre>{ESCAPED}</pre></div></td></tr></table>',
            "",
        ),
        ("<pre>" + "".join(f'<span class="lineno">7</span>{line}\n' for line in ESCAPED.split("\n")) + "</pre>", ""),
        ("<pre>" + "<br>".join(ESCAPED.split("\n")) + "</pre>", ""),
        ("<pre>" + "".join(f'<div class="line">{line or "<br>"}</div>' for line in ESCAPED.split("\n")) + "</pre>", ""),
        (f"<ul><li>An item\n<pre>{ESCAPED}</pre></li></ul>", None),
    ],
)  # fmt: skip
def test_code_is_the_same_bytes(html: str, language: str | None, engine: str) -> None:
    text = text_around(html, engine)
    assert f"\n{CODE}\n```" in text
    if language is not None:
        assert text == f"```{language}\n{CODE}\n```"


def test_a_fence_is_longer_than_any_in_the_code() -> None:
    assert fenced("```\nx\n````", "md") == "`````md\n```\nx\n````\n`````"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p><code>f( a )</code> or <tt>x`y</tt> or <kbd>Ctrl</kbd>.</p>", "`f( a )` or `` x`y `` or `Ctrl`."),
        ("<p>An <b> old </b>word<em></em>, x<sup>2</sup>, H<sub>2</sub>O.</p>", "An **old** word, x^2, H_2O."),
        ("<p>Seen before.<sup><a href='#1'>[1]</a></sup></p>", "Seen before.[1]"),
        ("<p>Text with a <a href='/x'>link in it</a> stays.</p>", "Text with a link in it stays."),
        ("<ul><li>One</li><li>Two<ol start=3><li>A</li><li>B</li></ol></li></ul>", "- One\n- Two\n  3. A\n  4. B"),
        ("<ul><li><p>One</p><p>More of it</p></li><li><p>Two</p></li></ul>", "- One\n\n  More of it\n- Two"),
        ("<blockquote><p>Said by somebody</p><p>Else</p></blockquote>", "> Said by somebody\n\n> Else"),
        ("<dl><dt>a</dt><dd>What it means.</dd><dt>b</dt><dd>More.</dd></dl>", "- a\n  What it means.\n- b\n  More."),
        (
            '<dl class="py function"><dt class="sig sig-object py"><span class="sig-prename"><span>m.</span></span>'
            '<span class="pre">f</span>(<em class="sig-param">a</em>, <em>*args</em>)<a class="headerlink" href="#f">¶'
            "</a></dt><dd><p>What it does.</p><pre>m.f(1)</pre></dd></dl>",
            "`m.f(a, *args)`\n\nWhat it does.\n\n```\nm.f(1)\n```",
        ),
        ("<p class='rubric'>Notes</p><p>Noted.</p>", "## Notes\n\nNoted."),
        ("<p>A line<br>and one more</p>", "A line\nand one more"),
        ('<div class="citation"><span class="label">[7]</span><p>A book of 1990.</p></div>', "[7] A book of 1990."),
    ],
)  # fmt: skip
def test_markdown(html: str, text: str) -> None:
    assert text_around(html) == text


CELLS = "<tr><td>{}</td><td>{}</td></tr>"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        (
            "<table><thead><tr><th>A</th><th>B</th></tr></thead>" + CELLS.format("1", "2") + "</table>",
            "| A | B |\n| --- | --- |\n| 1 | 2 |",
        ),
        (
            "<table>" + CELLS.format("<p>a|b</p>", "<code>x</code>") + CELLS.format("c", "") + "</table>",
            "|  |  |\n| --- | --- |\n| a\\|b | `x` |\n| c |  |",
        ),
        (
            "<table><tr><th>A</th><th colspan=2>B</th></tr><tr><td rowspan=2>1</td><td>2</td><td>3</td></tr>"
            "<tr><td>4</td><td>5</td></tr></table>",
            "| A | B |  |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n| 1 | 4 | 5 |",
        ),
        (
            "<table><tr><td><p>Left part</p></td></tr><tr><td><h2>Below</h2><p>Text.</p></td></tr></table>",
            "Left part\n\n## Below\n\nText.",
        ),
        ("<table><tr><td>f( x )</td><td>(function)</td></tr></table>", "f( x ) (function)"),
        (
            "<table><caption>Numbers</caption>" + CELLS.format("a", "1") + CELLS.format("b", "2") + "</table>",
            "Numbers\n\n|  |  |\n| --- | --- |\n| a | 1 |\n| b | 2 |",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", ENGINES)
def test_tables(html: str, text: str, engine: str) -> None:
    assert text_around(html, engine) == text


def test_a_span_beyond_reason_stays_small() -> None:
    text = text_around(
        f"<table><tr><td colspan=999999999 rowspan=999999999>a</td><td>b</td></tr>{CELLS.format(1, 2)}</table>"
    )
    assert len(text) < 2_000


def test_words_that_name_furniture_do_not_take_the_content_away() -> None:
    page = f'<html><body><div class="sidebar-wrapper nav"><p>{PROSE}</p><p>{PROSE}</p></div></body></html>'
    text = extract_html(page.encode(), media_type="text/html", files={}).text
    assert text.count(PROSE.strip()) == 2


def test_lines_from_page_to_page_are_gone_and_single_links_are_not() -> None:
    line = "<p>Next: <a href='b' rel='next'>The next page</a>, Up: <a href='a' rel='up'>Above</a></p>"
    line += "<p>Previous: <a href='c'>The page before</a></p><p>Generated by <a href='d'>a program</a></p>"
    assert (
        text_around(f"{line}<p>See <a href='x'>another chapter of this book</a></p>")
        == "See another chapter of this book"
    )


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\u00a0"), max_size=200))
def test_any_characters_in_code_come_back(code: str) -> None:
    code = "\n".join(f"{line}" for line in code.split("#"))
    if not code.strip():
        return
    escaped = code.replace("&", "&amp;").replace("<", "&lt;").replace("\r", "")
    page = f"<html><body><main><p>{PROSE}</p><pre>\n{escaped}</pre><p>{PROSE}</p></main></body></html>"
    text = extract_html(page.encode(), media_type="text/html; charset=utf-8", files={}, engine="resiliparse").text
    assert code.rstrip("\n") in text


def test_a_hidden_solution_is_text_and_a_hidden_notice_is_not() -> None:
    shown = f"<p>Exercise 1.</p><div style='display: none'><p>{PROSE}Thus it follows.</p></div>"
    assert text_around(f"{shown}<div hidden>Loading</div>") == f"Exercise 1.\n\n{PROSE}Thus it follows."


def test_the_contents_of_the_page_are_not_said_twice() -> None:
    parts = [f"Part {name} of it" for name in ("one", "two", "three")]
    contents = "".join(f"<li><a href='#{part}'>{part}</a></li>" for part in parts)
    text = text_around(f"<ul>{contents}</ul>" + "".join(f"<h2>{part}</h2><p>{PROSE}</p>" for part in parts))
    assert all(text.count(part) == 1 for part in parts)


@pytest.mark.parametrize("engine", ENGINES)
def test_links_that_an_item_announces_are_text(engine: str) -> None:
    links = "".join(f"<li><a href='#{name}'>{name}</a></li>" for name in ("f_one", "f_two", "f_three", "f_four"))
    text = text_around(f"<ul><li><p>These commands are new in this version:</p><ul>{links}</ul></li></ul>", engine)
    assert text.endswith("new in this version:\n  - f_one\n  - f_two\n  - f_three\n  - f_four")
