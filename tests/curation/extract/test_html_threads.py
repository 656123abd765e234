"""Threads of the programs that run forums: every post with its author, in order; a blog is no thread."""

from __future__ import annotations

import pytest

from megaphi.curation.extract.html.page import extract_html

QUESTION, ANSWER = "How does one sort a list of numbers?", "By the function sorted, as in the example below."
STACK_EXCHANGE = f"""<div class="question" data-score="3"><div class="js-vote-count">3</div>
<div class="s-prose js-post-body"><p>{QUESTION}</p><pre><code>a = [3, 1]</code></pre></div>
<div class="post-signature owner"><div class="user-details"><a href="/u/1">ada</a><span>1,234</span></div></div>
<ul class="comments-list"><li><div class="comment-body"><span class="comment-copy">Which language?</span>
<a class="comment-user">eve</a></div></li></ul></div>
<div class="answer accepted-answer"><div class="js-vote-count">12</div>
<div class="s-prose js-post-body"><p>{ANSWER}</p></div>
<div class="post-signature owner"><div class="user-details"><a href="/u/2">bob</a></div></div></div>"""
DISCOURSE = f"""<div class="topic-post"><span class="names"><a>ada</a></span>
<div class="cooked"><p>{QUESTION}</p></div></div>
<div class="topic-post"><span class="names"><a>bob</a></span><div class="cooked">
<aside class="quote"><blockquote><p>sort a list</p></blockquote></aside><p>{ANSWER}</p></div></div>"""
PHPBB = f"""<div class="post"><div class="postbody"><p class="author">by <a class="username">ada</a> yesterday</p>
<div class="content">{QUESTION}</div></div></div>
<div class="post"><div class="postbody"><p class="author">by <a class="username">bob</a></p>
<div class="content"><blockquote><div>
<cite>ada wrote:</cite>sort a list</div></blockquote>{ANSWER}</div></div></div>"""
XENFORO = f"""<article class="message message--post" data-author="ada">
<div class="message-body"><div class="bbWrapper">{QUESTION}</div></div></article>
<article class="message message--post" data-author="bob"><div class="bbWrapper">{ANSWER}</div></article>"""
SCHEMA = f"""<div itemtype="https://schema.org/QAPage"><div itemtype="https://schema.org/Question">
<div itemprop="text">{QUESTION}</div><span itemprop="author"><b itemprop="name">ada</b></span></div>
<div itemprop="acceptedAnswer" itemtype="https://schema.org/Answer"><span itemprop="upvoteCount">7</span>
<div itemprop="text">{ANSWER}</div><span itemprop="author"><b itemprop="name">bob</b></span></div></div>"""


@pytest.mark.parametrize(
    ("html", "program", "lines"),
    [
        (
            STACK_EXCHANGE,
            "stackexchange",
            ["## Question by ada (3 votes)", QUESTION, "```\na = [3, 1]\n```", "Comment by eve:", "Which language?",
             "## Answer by bob (accepted, 12 votes)", ANSWER],
        ),
        (DISCOURSE, "discourse", ["## Post by ada", QUESTION, "## Post by bob", "> sort a list", ANSWER]),
        (PHPBB, "phpbb", ["## Post by ada", QUESTION, "## Post by bob", "> ada wrote:", "> sort a list", ANSWER]),
        (XENFORO, "xenforo", ["## Post by ada", QUESTION, "## Post by bob", ANSWER]),
        (SCHEMA, "schema.org", ["## Question by ada", QUESTION, "## Answer by bob (accepted, 7 votes)", ANSWER]),
    ],
)  # fmt: skip
def test_a_thread_keeps_its_voices(html: str, program: str, lines: list[str]) -> None:
    page = f"""<html><body><nav><a href="/">Home</a></nav><h1>Sorting numbers</h1>{html}
<div class="sidebar"><a href="/1">Hot network questions</a></div><footer>Terms of use</footer></body></html>"""
    found = extract_html(page.encode(), media_type="text/html", files={})
    assert found.metadata["extraction"]["decided"] == program
    text = found.text
    for line in ["# Sorting numbers", *lines]:
        assert line in text, line
        text = text[text.index(line) + len(line) :]
    assert not text.strip()
    for words in ("Home", "Hot network", "Terms of use", "1,234"):
        assert words not in found.text


def test_a_list_of_articles_is_no_thread() -> None:
    post = f'<div class="post"><h2>An article</h2><div class="content"><p>{QUESTION * 9}</p></div></div>'
    found = extract_html(f"<html><body>{post * 3}</body></html>".encode(), media_type="text/html", files={})
    assert "posts" not in found.metadata["extraction"]
    assert found.text.count("An article") == 3
