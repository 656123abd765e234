"""Extraction of a page of documentation, and the exercises made of it."""

from __future__ import annotations

from megaphi.curation.extract.html_page import Block, read_page
from megaphi.curation.synthesize.rewrite import rewrite, sentences

PAGE = """<html><head><title>x</title><style>p {}</style></head><body>
<nav><p>menu</p></nav>
<div role="main">
 <h1>scipy.frob<a class="headerlink" href="#x">&para;</a></h1>
 <p>Frobnicate a   matrix
 &amp; return it.<br>Every element of the matrix is frobnicated once and in order. Fast.</p>
 <script>alert("<p>no</p>")</script>
 <dl><dt><strong>N</strong><span class="classifier">int, optional</span></dt>
  <dd><p>How many times the matrix is to be frobnicated.</p></dd>
  <dt>undocumented</dt></dl>
 <ul><li>first</li><li>second <em>point</em></li></ul>
 <p>Here is a use of it:</p>
 <pre>&gt;&gt;&gt; frob(
...     1)
2</pre>
 <h2>Notes</h2><p>The algorithm is by Frob. It needs memory for two copies.</p>
 <h2>More</h2><p>See the textbook. There is little else.</p>
 <footer><p>copyright</p></footer>
</div><p>after</p></body></html>"""


def test_blocks_of_a_page():
    page = read_page(PAGE)
    assert page.title == "scipy.frob"
    assert list(page.blocks) == [
        Block("heading", "scipy.frob", "1"),
        Block(
            "paragraph",
            "Frobnicate a matrix & return it. Every element of the matrix is frobnicated once and in order. Fast.",
        ),
        Block("term", "N", "int, optional"),
        Block("paragraph", "How many times the matrix is to be frobnicated."),
        Block("term", "undocumented"),
        Block("item", "first"),
        Block("item", "second point"),
        Block("paragraph", "Here is a use of it:"),
        Block("code", ">>> frob(\n...     1)\n2"),
        Block("heading", "Notes", "2"),
        Block("paragraph", "The algorithm is by Frob. It needs memory for two copies."),
        Block("heading", "More", "2"),
        Block("paragraph", "See the textbook. There is little else."),
    ]
    assert "# scipy.frob\n\nFrobnicate" in page.text
    assert "\n\nN : int, optional\n\nHow many" in page.text


def test_pages_without_a_main_part_or_unclosed():
    assert read_page("<p>hello</p>").blocks == ()
    assert [block.text for block in read_page("<main><p>one<p>two").blocks] == ["one", "two"]


def test_a_page_as_exercises():
    page = read_page(PAGE)
    sheet = rewrite(page)
    assert sheet == rewrite(page)
    assert "How many times the matrix is to be frobnicated. It is given as int, optional." in sheet
    assert "Task: Here is a use of it.\nSolution:\n>>> frob(\n...     1)\n2" in sheet
    assert "_____" in sheet
    assert "Summarise scipy.frob in 3 sentences.\nSolution: Frobnicate a matrix & return it. The algor" in sheet
    assert rewrite(read_page("<main><h1>t</h1><p>Short.</p></main>")) == ""


def test_sentences_end_where_a_capital_follows():
    text = "See e.g. the docs. They (see 1.2) help! `x` too. Done."
    assert sentences(text) == ["See e.g. the docs.", "They (see 1.2) help!", "`x` too.", "Done."]
