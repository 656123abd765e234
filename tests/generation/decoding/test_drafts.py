"""The index that drafts come from: the longest context, the most frequent token, the rule, and bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from megaphi.generation.decoding import drafts as module
from megaphi.generation.decoding.drafts import MOST_FAMILIES, ORDERS, Drafter, RecentContexts, Speculation, _keys


def drafter(*, pass_rows=1e9, **fields):
    return Drafter(Speculation(pass_rows=pass_rows, **fields), device="cpu")


def observe(index, text, *, family="f", start=1):
    for end in range(start, len(text)):
        index.observe(family, text[:end], text[end])


def draft(index, text, *, family="f", longest=8, running=1, stop_tokens=()):
    return index.draft(family, text, longest=longest, running=running, stop_tokens=stop_tokens)


def test_a_text_that_was_seen_is_drafted_again():
    index = drafter()
    text = [5, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    observe(index, text)
    assert draft(index, [90, 91, 1, 2]) == [3, 4, 6, 7, 8, 9, 10, 11]
    assert draft(index, [90, 91, 1, 2], longest=3) == [3, 4, 6]
    assert draft(index, [90, 91, 1, 2], stop_tokens={8}) == [3, 4, 6, 7]
    assert draft(index, [90, 91, 1, 2], family="other") == []
    assert draft(index, [1]) == draft(index, [2, 1]) == []


def test_the_longest_context_decides_then_the_count_then_the_latest():
    index = drafter(longest_draft=1)
    for text in ([1, 1, 1, 1, 7, 8, 20], [7, 8, 30], [7, 8, 30], [7, 8, 40]):
        observe(index, text, start=len(text) - 1)
    assert draft(index, [9, 9, 7, 8]) == [30]
    assert draft(index, [1, 1, 7, 8]) == [20]
    observe(index, [7, 8, 40], start=2)
    assert draft(index, [9, 9, 7, 8]) == [40]


def test_prompts_are_known_and_count_once():
    index = drafter(longest_draft=1)
    for _ in range(5):
        index.add_prompt("f", (1, 2, 3, 4))
    assert draft(index, [9, 1, 2]) == [3]
    for _ in range(2):
        observe(index, [1, 2, 7], start=2)
    assert draft(index, [9, 1, 2]) == [7]


def test_it_drafts_where_a_guess_is_likely_enough_to_pay():
    """Right three times in four: worth it if a pass costs more than a third of a token for each sequence."""
    index = drafter(pass_rows=10.0, longest_draft=1)
    for number in range(400):
        observe(index, [1, 2, 4 if number % 4 == 0 else 3], start=2)
    assert draft(index, [1, 2], running=10) == [3]
    assert draft(index, [1, 2], running=25) == [3]
    assert draft(index, [1, 2], running=36) == []
    assert draft(drafter(pass_rows=0.0), [1, 2]) == []


def test_a_family_whose_guesses_turn_wrong_is_drafted_no_more():
    index = drafter(pass_rows=10.0)
    for _ in range(100):
        observe(index, [1, 2, 3], start=2)
    assert draft(index, [1, 2], running=10) == [3]
    for number in range(2_000):  # new contexts, after each of which comes something else than last time
        observe(index, [number, number, 5], start=2)
        observe(index, [number, number, 6], start=2)
    observe(index, [8, 9, 5], start=2)
    assert draft(index, [8, 9], running=10) == []


@given(keys=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), max_size=300), limit=st.integers(2, 12))
def test_recent_contexts_are_remembered_and_others_forgotten(keys, limit):
    table = RecentContexts(limit)
    for place, (key, token) in enumerate(keys):
        table.count(key, token)
        assert len(table) <= 2 * (limit // 2)
        last = list(dict.fromkeys(key for key, _ in reversed(keys[: place + 1])))[: limit // 2]
        assert all(key in table._young or key in table._old for key in last)
    if keys:
        seen = table.get(keys[-1][0])
        assert keys[-1][1] == seen or (isinstance(seen, dict) and list(seen)[-1] == keys[-1][1])


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MOST_FAMILIES", 5)
    assert MOST_FAMILIES > 100
    index = drafter(contexts=1_000)
    for number in range(2_000):
        observe(index, [number % 37, number % 11, number], family=str(number % 9), start=1)
    assert len(index._contexts) <= 1_000
    assert len(index._families) == 5
    for token in range(100):
        index.observe("f", [1, 2], token)
    seen = index._contexts.get(_keys(index._families["f"].salt, [1, 2])[-1])
    assert list(seen) == list(range(92, 100))


def test_every_process_has_the_same_hashes():
    """The ranks of a replica: Python draws the hashes of texts anew in each process, those of numbers it does not."""
    code = "from megaphi.generation.decoding.drafts import *; from megaphi.generation.decoding import drafts as d;"
    code += "i = Drafter(Speculation(), device='cpu'); print(d._keys(i._family('Ω 1').salt, list(range(9))))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert found.pop().count(",") == len(ORDERS) - 1
