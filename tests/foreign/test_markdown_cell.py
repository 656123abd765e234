"""Names in reports, against an independent renderer of Markdown: they are text, in one cell, whatever they hold."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from megaphi.foreign.markdown_cell import LONGEST_CELL, in_cell
from megaphi.foreign.visible_text import visible

MARKUP = "<script>alert(1)</script>|`*_~#[]()!&lt;\\\n\r\t\x1b\u2028-+a1. "
RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def cells_of(name: str) -> list[str]:
    """The texts of a table's row with the name between two others, as a browser shows them."""
    page = RENDERER.render(f"| a | b | c |\n|---|---|---|\n| x | {in_cell(name)} | y |\n")
    found = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    assert not re.search(r"<(?!/?(?:table|thead|tbody|tr|th|td)>)", page), page
    return [html.unescape(cell) for cell in found]


LETTERS = st.one_of(st.sampled_from(MARKUP), st.characters(exclude_categories=["Cs"]))


@given(st.text(LETTERS, max_size=LONGEST_CELL // 10))
def test_a_name_is_the_text_of_one_cell(name: str) -> None:
    assert cells_of(name) == ["x", visible(" ".join(name.split())), "y"]


@pytest.mark.parametrize(
    "name",
    [
        *("<script>alert(1)</script>", "a|b", "`a` **b** ~~c~~", "![x](y) [z](javascript:w)", "&lt;b&gt;"),
        *("a\n# b\n\n| c |", "\x1b[2J"),
    ],
)
def test_hostile_names(name: str) -> None:
    assert cells_of(name) == ["x", visible(" ".join(name.split())), "y"]
    heading = RENDERER.render(f"# {in_cell(name)}\n")
    assert re.fullmatch(r"<h1>[^<]*</h1>\n", heading)


def test_a_long_name_is_cut_and_says_so() -> None:
    assert in_cell("a" * 500) == "a" * (LONGEST_CELL - 3) + "..."
    assert in_cell("*" * 50, longest=10) == r"\*" * 7 + "..."
