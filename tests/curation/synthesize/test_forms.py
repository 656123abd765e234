"""Texts, questions and conversations with a scripted model: what is kept, and each way of being rejected."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from megaphi.curation.synthesize.table.kinds_file import find_kind
from megaphi.sampling import Sampling
from tests.curation.synthesize.chains import (
    CHAINS,
    CHOICES,
    GOOD,
    LONG,
    PAGE,
    PAIRS,
    QUESTIONS,
    QUOTED,
    SCORED,
    SUPPORT,
    TURNS,
    reasons,
    says,
)
from tests.curation.synthesize.scripted import wants

# Texts, and checks by rule


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(["| a | b |", "|---|---|", "| c | d |", "| e | f |", "", LONG]), None),
        ("| a | b |\nfew words", "too_short"),
        (LONG * 8, "too_long"),
        (LONG, "shape"),
        ("| the same | row of a table |\n" * 90, "repetitive"),
        ("   ", "empty"),
    ],
)
def test_texts_are_kept_by_length_shape_and_repetition(run: Any, text: str, reason: str | None) -> None:
    (work,) = run("comparison_table", says({}, text))
    assert reasons([work]) == [reason or None]
    assert work.text == (text.strip() if reason != "empty" else "")
    assert work.messages is None


@pytest.mark.parametrize(
    ("kind", "line", "fits"),
    [
        ("faq", "### What is {}?", True),
        ("faq", "**What is {}?**", True),
        ("faq", "{}. What is it?", True),
        ("faq", "**What** {} is", False),
        ("misconceptions", "## Misconception {}", True),
        ("misconceptions", "**Misconception {}**", True),
        ("misconceptions", "**Misconception** {} is told to children", False),
        ("three_levels", "**For reader {}**", True),
        ("exercise_set", "**Exercise {}:** Find it.", True),
        ("tutorial", "### Step {}: go", True),
    ],
)
def test_headings_count_in_every_form_that_markdown_has(kind: str, line: str, fits: bool) -> None:
    text = "\n".join(line.format(number) for number in range(1, 6))
    found = re.findall(find_kind(kind, table="").settings["pattern"], text, re.MULTILINE)
    assert len(found) == (5 if fits else 0)


def test_a_text_that_is_cut_off_or_beyond_the_budget_says_so(run: Any) -> None:
    (cut,) = run("comparison_table", says({}, "a" * 1_500), tokens=1_400)
    assert reasons([cut]) == ["cut_off"]
    assert cut.text == "a" * 1_400
    assert reasons(run("comparison_table", says({}, LONG), budget=100)) == ["budget"]


def test_what_a_model_said_that_could_not_be_read_is_shown(run: Any) -> None:
    (work,) = run("word_problems", lambda prompt, rules, number: '{"questions": []}')
    assert reasons([work]) == ["unreadable"]
    assert work.text == '{"questions": []}'


def test_a_text_that_copies_its_seed_is_rejected(run: Any) -> None:
    text = "\n".join(f"### Question {number}\n{LONG[number * 90 :][:80]}" for number in range(8)) + LONG
    known = says({SUPPORT: QUOTED}, text)
    assert reasons(run("faq", known)) == [None]
    (copied,) = run("faq", known, PAGE + LONG + text)
    assert reasons([copied]) == ["copied"]
    assert copied.found["copied"] > 0.25


# Judges


def test_grounded_looks_every_quotation_up(run: Any) -> None:
    text = "\n".join(f"### Question {number}\n{LONG[number * 90 :][:80]}" for number in range(8)) + LONG
    quotes = {
        "Copper conducts heat": None,
        "Copper is cheap and beautiful": "ungrounded",
        "": "ungrounded",
        "made of": "ungrounded",  # too short to support anything
    }
    for quote, reason in quotes.items():
        claims = {"claims": [{"claim": "a", "quote": "handles are made of wood"}, {"claim": "b", "quote": quote}]}
        (work,) = run("faq", says({SUPPORT: claims}, text))
        assert reasons([work]) == [reason]
        assert work.found["support"] == {"claims": 2, "found": 2 if reason is None else 1}
    assert reasons(run("faq", says({SUPPORT: {"claims": []}}, text))) == ["unreadable"]


def science(question: str = "Why do copper pans heat evenly?") -> dict[tuple[str, ...], Any]:
    pair = {"question": question, "reasoning": "Heat spreads fast.", "answer": "Copper conducts well."}
    return {PAIRS: {"items": [pair, pair | {"answer": "It conducts well."}]}, SUPPORT: QUOTED, SCORED: GOOD}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({SCORED: lambda prompt: {"findings": "off", "score": 3 if "seed text" in prompt else 4}}, "irrelevant"),
        ({SCORED: lambda prompt: {"findings": "so", "score": 5 if "course" in prompt else 4}}, "difficulty"),
        ({SCORED: lambda prompt: {"findings": "so", "score": 2 if "course" in prompt else 4}}, "difficulty"),
        ({SUPPORT: {"claims": [{"claim": "a", "quote": "gold conducts heat"}]}}, "ungrounded"),
        ({PAIRS: {"items": []}}, "unreadable"),
        ({SCORED: {"findings": "", "score": 4}}, "unreadable"),
        ({SCORED: {"findings": "x", "score": 4.5}}, "unreadable"),
    ],
)
def test_science_questions_are_relevant_grounded_and_of_the_right_difficulty(
    run: Any, change: dict[tuple[str, ...], Any], reason: str | None
) -> None:
    works = run("science_questions", says({**science(), **change}))
    assert set(reasons(works)) == {reason}
    if reason is None:
        assert [work.name for work in works] == ["page/science_questions/0", "page/science_questions/1"]
        assert works[0].messages == [
            {"role": "user", "content": "Why do copper pans heat evenly?"},
            {"role": "assistant", "content": "Heat spreads fast.\n\nAnswer: Copper conducts well."},
        ]
        assert (works[0].found["relevance"], works[0].found["difficulty"]) == (4, 4)


@pytest.mark.parametrize(
    "question", ["What does the author say?", "According to the text, why?", "As mentioned above, what is heat?"]
)
def test_questions_that_need_their_page_are_rejected(run: Any, question: str) -> None:
    assert set(reasons(run("science_questions", says(science(question))))) == {"not_self_contained"}


def test_more_items_than_were_asked_for_are_left_out(run: Any) -> None:
    pair = {"question": "Why?", "reasoning": "So.", "answer": "It is."}
    works = run("qa_how_to", says({PAIRS: {"items": [pair] * 9}, SCORED: GOOD, SUPPORT: QUOTED}), checks=("relevant",))
    assert len(works) == find_kind("qa_how_to").settings["items"] == 3
    assert reasons(works) == [None, "repeated", "repeated"]


@pytest.mark.parametrize("answer", ["…", "...", " "])
def test_the_dots_of_the_form_are_no_answer(run: Any, answer: str) -> None:
    pair = {"question": "Why?", "reasoning": "So.", "answer": answer}
    assert reasons(run("qa_how_to", says({PAIRS: {"items": [pair]}}))) == ["unreadable"]


def test_a_rubric_has_its_least_score(run: Any) -> None:
    for score, reason in ((3, "low_score"), (4, None)):
        say = says({SCORED: {"findings": "x", "score": score}}, f"## a\n## b\n{LONG}")
        (work,) = run("misconceptions", say)
        assert (reasons([work]), work.found["rubric_score"]) == ([reason], score)


# Chains of deductions


def test_a_chain_quotes_its_seed(run: Any) -> None:
    for quote, reason in (("Copper conducts heat", None), ("Copper conducts light", "misquoted")):
        steps = [{"claim": "It conducts.", "quote": quote}, {"claim": "So it is even.", "quote": "evenly warm. A"}]
        steps[1]["quote"] = "is therefore evenly warm"
        item = {"question": "Which pan is evenly warm?", "steps": steps, "answer": "one of copper"}
        works = run("chain_book", says({CHAINS: {"items": [item]}, SCORED: GOOD}))
        assert reasons(works) == [reason]
        if reason is None:
            assert works[0].text.startswith("Question: Which pan is evenly warm?\n\n1. It conducts.\n2. So it is even.")
            assert works[0].found["quotes"] == ["Copper conducts heat", "is therefore evenly warm"]


# Questions


def test_questions_go_through_the_plurality_filter_each_by_itself(run: Any) -> None:
    items = {"items": [{"question": f"What is {number} + {number}?"} for number in (1, 2, 3)]}

    def say(prompt: str, rules: Sampling, number: int) -> str:
        if wants(rules):
            return json.dumps(items)
        if "1 + 1" in prompt:
            return r"\boxed{2}"
        return rf"It is \boxed{{{4 if number < 5 else number}}}" if "2 + 2" in prompt else rf"\boxed{{{number}}}"

    works = run("maths_problems", say)
    assert reasons(works) == ["too_easy", None, "inconsistent"]
    assert works[1].keeps["reference"] == "4"
    assert works[1].found["plurality"] == {"answers": 8, "votes": 5, "share": 0.625, "reference": "4"}
    assert works[1].messages == [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": r"It is \boxed{4}"},
    ]


def test_choices_are_read_with_their_options(run: Any) -> None:
    options = ["light", "heat", "sound", "work"]
    items = {"items": [{"question": "What flows?", "options": options}]}
    say = says({CHOICES: items, SCORED: GOOD}, ["Answer: B", "Answer: C"] * 2 + ["Answer: B"])
    (work,) = run("exam_choice", say)
    assert reasons([work]) == [None]
    assert (work.keeps["reference"], work.keeps["options"]) == ("B", options)
    assert "B) heat" in work.data["question"]
    for wrong in (["a", "b"], ["a", "A", "b"], []):
        items["items"][0]["options"] = wrong
        assert reasons(run("exam_choice", say)) == ["unreadable"]


def test_questions_beyond_the_budget_and_refused_ones_are_told_apart(run: Any) -> None:
    say = says({QUESTIONS: {"items": [{"question": "How many?"}]}}, r"\boxed{1}")
    assert reasons(run("word_problems", say, tokens=2_000, budget=9_000)) == ["budget"]


# Conversations


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (["user", "assistant"] * 3, None),
        (["user", "assistant"], "turns"),
        (["user", "assistant"] * 20, "turns"),
        (["assistant", "user"] * 3, "unreadable"),
        (["user", "user", "assistant", "assistant"], "unreadable"),
        (["user", "assistant", "user"], "unreadable"),
        ([], "unreadable"),
    ],
)
def test_conversations_take_turns(run: Any, turns: list[str], reason: str | None) -> None:
    spoken = [{"speaker": who, "text": f"{number} {LONG[number * 200 :][:200]}"} for number, who in enumerate(turns)]
    (work,) = run("false_premise", says({TURNS: {"turns": spoken}, SUPPORT: QUOTED}), checks=("length", "grounded"))
    assert reasons([work]) == [reason]
    if reason is None:
        assert work.messages is not None
        assert [message["role"] for message in work.messages] == turns
        assert work.text.startswith("User: 0 word")
