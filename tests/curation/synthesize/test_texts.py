"""Passages, natural spans and overlaps: pure functions of texts, by properties and by hand."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.curation.synthesize.forms.natural_spans import FINDERS, natural_spans
from megaphi.curation.synthesize.forms.overlap import flat, repeated_share, shared_share, similarity
from megaphi.curation.synthesize.steps.passages import passages

texts = st.text(st.sampled_from("ab.? \n\t\r\x0c$#|"), max_size=300)


@given(texts, st.integers(1, 60))
def test_passages_are_the_whole_text_and_none_is_longer_than_the_window(text: str, window: int) -> None:
    found = passages(text, window=window)
    assert "".join(text[start:end] for start, end in found) == text
    assert all(0 < end - start <= window for start, end in found)
    assert [end for _, end in found[:-1]] == [start for start, _ in found[1:]]


def test_passages_are_cut_between_paragraphs_and_behind_sentences() -> None:
    text = "One two.\n\nThree four.\n\nFive six seven. Eight nine ten eleven. Twelve.\n\nx"
    cut = [text[start:end] for start, end in passages(text, window=24)]
    assert cut == ["One two.\n\nThree four.\n\n", "Five six seven. ", "Eight nine ten eleven. ", "Twelve.\n\nx"]
    assert passages("a" * 50, window=20) == [(0, 20), (20, 40), (40, 50)]


TEXT = """# Heat

Heat flows from warm to cold. It never does the reverse by itself. That is the second law.

The rate is $q = -k \\nabla T$ in a solid body. Metals have a large $k$ and wood a small one.

## Use

Pans have wooden handles for this reason alone.
"""
CODE = '''import math


def area(radius):
    """Of a disc."""
    if radius < 0:
        raise ValueError("a radius is not negative")
    return math.pi * radius**2


for radius in (1, 2, 3):
    print(radius, area(radius))

print("the end of it")
'''


def test_natural_spans_are_whole_things() -> None:
    def inside(text: str, span: str) -> list[str]:
        return [text[start:end] for start, end in natural_spans(text, span)]

    assert "It never does the reverse by itself." in inside(TEXT, "sentence")
    assert inside(TEXT, "paragraph")[0].startswith("Heat flows")
    assert inside(TEXT, "formula") == ["$q = -k \\nabla T$"]
    assert inside(TEXT, "section")[0].startswith("\nHeat flows")
    body = '    if radius < 0:\n        raise ValueError("a radius is not negative")\n    return math.pi * radius**2'
    assert inside(CODE, "function") == [body]
    assert inside(CODE, "block") == [
        '        raise ValueError("a radius is not negative")',
        "    print(radius, area(radius))",
    ]
    assert inside("def broken(:\n  pass\n" * 9, "function") == []
    assert inside("a = 1\x0c\ndef f():\n    return 'no line of Python ends there'\nf()", "function") == []


@given(st.one_of(texts, st.just(TEXT), st.just(CODE)), st.sampled_from(sorted(FINDERS)))
def test_spans_lie_within_the_text_with_something_on_both_sides(text: str, span: str) -> None:
    for start, end in natural_spans(text, span):
        assert text[:start].strip()
        assert text[start:end].strip()
        assert text[end:].strip()


@given(st.integers(1, 30), st.integers(0, 5))
def test_the_body_of_a_function_is_found_by_its_lines(lines: int, blank: int) -> None:
    body = "\n".join(f"    total_{number} = the_number + {number}" for number in range(lines))
    text = f"import math\n{chr(10) * blank}\ndef f():\n{body}\n\n\nprint(f())\n"
    found = natural_spans(text, "function")
    assert [text[start:end] for start, end in found] == [body]
    (start, end) = found[0]
    ast.parse(text[:start] + "    pass" + text[end:])


@pytest.mark.parametrize(
    ("text", "other", "share"),
    [("a b c d e", "x a b c d y", 0.5), ("A, b; c!", "a b c", 1.0), ("a b", "a b c", 0.0), ("", "a", 0.0)],
)
def test_shared_share_counts_grams_of_words(text: str, other: str, share: float) -> None:
    assert shared_share(text, other, words=3 if len(text) < 9 else 4) == share


def test_repetition_similarity_and_flat_text() -> None:
    assert repeated_share("round and round it goes " * 50, words=6) > 0.9
    assert repeated_share(" ".join(map(str, range(500))), words=6) == 0.0
    assert repeated_share("short", words=6) == 0.0
    assert flat("“Don’t” —  x\n") == '"don\'t" - x'
    assert similarity(CODE, CODE) == 1.0
    assert similarity("def f(x):\n    return x+1", "def f( x ):\n\n  return x + 1") == 1.0
    assert similarity(CODE, TEXT) < 0.3
