"""The published heuristics against texts that break one rule each, and their counts against a plain recount."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.curation.document import Document, Rejected
from megaphi.curation.filter.c4 import C4Lines
from megaphi.curation.filter.code import CodeQuality
from megaphi.curation.filter.fineweb import FineWebQuality
from megaphi.curation.filter.gopher import (
    GopherQuality,
    GopherRepetition,
    repeated_ngram_characters,
    top_ngram_characters,
)
from megaphi.curation.filter.words import tokens_of

PROSE = (
    "The cat sat on the mat, and it looked out of the window to see a bird that had come down from the old tree.\n"
    "Nobody in the house would have thought that it could be quick enough, for it was heavy with years and with food.\n"
    "But when the bird hopped closer to the glass, everything changed: a leap, a crash, a broken pot of flowers.\n"
    "We found both of them in the garden afterwards, and neither seemed to remember what the quarrel was about.\n"
    "It is said that animals forgive sooner than people do, which may be why they sleep so well at night.\n"
)


def verdict(step: Any, text: str, **metadata: object) -> str:
    found = step.look(Document(id="1", source="s", place="p", text=text, metadata=metadata))
    return found.reason if isinstance(found, Rejected) else "kept"


@pytest.mark.parametrize("step", [GopherQuality(), GopherRepetition(), C4Lines(), FineWebQuality()])
def test_prose_is_kept(step: object) -> None:
    assert verdict(step, PROSE) == "kept"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "too_few_words"),
        ("Only a few words of the text.", "too_few_words"),
        ("a b c d e to of " * 20, "mean_word_length"),
        ("Donaudampfschifffahrt Gesellschaftskapitän " * 40, "mean_word_length"),
        (PROSE + "# # # # " * 8, "symbols"),
        (PROSE + "… " * 20, "symbols"),
        ("- " + PROSE.replace("\n", "\n- ")[:-3], "bullet_lines"),
        (PROSE.replace(".\n", " ...\n"), "ellipsis_lines"),
        (PROSE + "1 22 333 4444 " * 20, "few_alphabetic"),
        ("Cats chase birds because birds taste good while birds flee and cats follow. " * 10, "few_stop_words"),
    ],
)
def test_gopher_quality_names_the_rule(text: str, reason: str) -> None:
    assert verdict(GopherQuality(), text) == reason


def test_words_of_the_documents_language_are_asked_for() -> None:
    german = "Der alte Baum stand nicht weit von dem Haus, und die Kinder kamen mit ihren Hunden in den Garten. " * 4
    assert verdict(GopherQuality(), german) == "few_stop_words"
    assert verdict(GopherQuality(), german, language="de") == "kept"
    assert verdict(GopherQuality(), german, language="tlh") == "kept"


def test_scripts_without_spaces_have_words() -> None:
    assert tokens_of("東京へ行くPythonを使う。") == ["東京", "へ", "行", "く", "Python", "を", "使", "う", "。"]
    assert tokens_of("हिन्दी में लिखा है।") == ["हिन्दी", "में", "लिखा", "है", "।"]
    japanese = "私は昨日、友達と一緒に東京の町を歩いて、古い本を買いました。とても楽しい一日でした。" * 3
    assert verdict(GopherQuality(), japanese, language="ja") == "kept"


def test_tokens_are_words_and_signs() -> None:
    assert tokens_of("Don't pay 1,000.50 for foo_bar, it's (so) ... -- no!") == [
        *("Don't", "pay", "1,000.50", "for", "foo_bar", ",", "it's", "(", "so", ")", "...", "--", "no", "!")
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n", "no_text"),
        ((PROSE + "\n") * 2, "repeated_paragraphs"),
        (PROSE + "The same line.\n" * 9, "repeated_lines"),
        (PROSE + "Buy it now! " * 40, "top_ngram"),
        (PROSE + PROSE.replace("\n", " "), "repeated_ngrams"),
    ],
)
def test_gopher_repetition_names_the_rule(text: str, reason: str) -> None:
    assert verdict(GopherRepetition(), text) == reason


TOKENS = st.lists(st.sampled_from(["a", "bb", "ccc", ","]), max_size=40)


@given(TOKENS, st.integers(2, 4))
def test_top_ngram_is_the_commonest(tokens: list[str], size: int) -> None:
    grams = [" ".join(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]
    most = max(map(grams.count, grams), default=0)
    possible = {len(gram) * most for gram in grams if grams.count(gram) == most} if most > 1 else {0}
    assert top_ngram_characters(tokens, size) in possible


@given(TOKENS, st.integers(1, 6))
def test_repeated_ngrams_are_counted_once(tokens: list[str], size: int) -> None:
    seen, covered, place = set(), 0, 0
    while place + size <= len(tokens):
        gram = tuple(tokens[place : place + size])
        covered += sum(map(len, gram)) if gram in seen else 0
        place, seen = (place + size, seen) if gram in seen else (place + 1, seen | {gram})
    assert repeated_ngram_characters(tokens, size) == covered <= sum(map(len, tokens))


def test_c4_keeps_the_lines_that_are_sentences() -> None:
    page = (
        f"Home | About\n{PROSE}Please enable JavaScript to see this.\nThis site uses cookies, as all do.\nTwo words.\n"
    )
    found = C4Lines().look(Document(id="1", source="s", place="p", text=page.replace("mat,", "mat[3],")))
    assert isinstance(found, Document)
    assert found.text == PROSE.strip()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE + "He wrote a block { of code.", "curly_bracket"),
        (PROSE + "Then came Lorem ipsum dolor.", "lorem_ipsum"),
        ("\n".join(PROSE.splitlines()[:4]), "too_few_sentences"),
        ("One is here. Two is here! Three? Four is here. Five is here.", "kept"),
    ],
)
def test_c4_names_the_rule(text: str, reason: str) -> None:
    assert verdict(C4Lines(), text) == reason


def test_c4_can_keep_formulas() -> None:
    assert verdict(C4Lines(drop_curly_brackets=False), PROSE + r"Now $\frac{1}{2}$ is a half.") == "kept"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n \n", "no_text"),
        (PROSE.replace(".\n", "\n"), "unfinished_lines"),
        (PROSE + "Home.\nNews.\n" + "".join(f"Item {n}.\n" for n in range(20)), "short_lines"),
        (PROSE + "Read more about it.\n" * 2, "repeated_lines"),
        ("".join(f"Internationalisation {n:015d}.\n" for n in range(20)), "line_breaks"),
    ],
)
def test_fineweb_names_the_rule(text: str, reason: str) -> None:
    assert verdict(FineWebQuality(), text) == reason


CODE = "def add(left, right):\n    return left + right\n\n\nprint(add(1, 2))\n"
BASE64 = "TWFuIGlzIGRpc3Rpbmd1aXNoZWQsIG5vdCBvbmx5IGJ5IGhpcyByZWFzb24sIGJ1dCBieSB0aGlz" * 20
LINES = "\n".join(BASE64[start : start + 76] for start in range(0, len(BASE64), 76))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CODE, "kept"),
        ("", "no_text"),
        ("// Code generated by protoc-gen-go. DO NOT EDIT.\n" + CODE, "generated"),
        ("# This file was automatically generated\n" + CODE, "generated"),
        (CODE * 5 + "# automatically generated\n", "kept"),
        ("# how generated code is tested\n" + CODE, "kept"),
        ('<?xml version="1.0"?>\n<a/>\n', "xml"),
        (CODE + f"x = {'1 + ' * 300}1\n", "long_line"),
        ("y = " + "word + " * 20 + "\n", "long_mean_line"),
        ("{}[]()+-*/\n" * 30, "few_alphanumeric"),
        (f'{CODE}data = """\n{LINES}\n"""\n', "encoded_data"),
        (CODE + "t = [\n" + "0x1f, 0x2e, 0x3d, 0x4c,\n" * 60 + "]\n", "encoded_data"),
        (CODE + "pi = 3\n# " + "1415926535" * 9 + "\n", "kept"),
        (CODE + "# /usr/share/python/library/functions/" * 4 + "\n", "kept"),
    ],
)
def test_code_names_the_rule(text: str, reason: str) -> None:
    assert verdict(CodeQuality(), text) == reason


def test_paths_and_word_lists_are_no_encoded_data() -> None:
    words = "\n".join("alpha bravo charlie delta".split() * 50)
    path = "/usr/share/doc/python3/html/library/functions/index/of/all/modules/there/are"
    assert verdict(CodeQuality(), f"{words}\n# {path}\n" * 3) == "kept"
