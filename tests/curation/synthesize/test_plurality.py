"""The plurality filter against a recount that shares no code with it, and its limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.curation.requests.metered import MeteredSampler
from megaphi.curation.requests.step_journal import StepJournal
from megaphi.curation.synthesize.forms.plurality import plurality
from megaphi.curation.synthesize.forms.sampled_answers import check_plurality, check_solved
from megaphi.curation.synthesize.forms.work import Tools, Work, start_works
from megaphi.curation.synthesize.table.kinds_file import find_kind
from megaphi.sampling import Sampling
from tests.curation.synthesize.scripted import Scripted, seed

WAYS = ("1/2", "0.5", "2/4", "1", "1.0", "3/3", "7", "-7")
"""Three values and one that stands alone, in several ways of writing."""


def same_value(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    return [Fraction(one) == Fraction(other) for one, other in pairs]


results = st.lists(st.one_of(st.none(), st.sampled_from(WAYS)), min_size=1, max_size=12)


@given(results, st.floats(0, 1), st.floats(0, 1))
def test_it_agrees_with_a_recount_by_value(found: list[str | None], one: float, other: float) -> None:
    least, most = sorted((one, other))
    counted = Counter(Fraction(text) for text in found if text is not None)
    judged = plurality(found, same_value, least=least, most=most)
    if not counted:
        assert (judged.verdict, judged.votes, judged.reference) == ("no_result", 0, None)
        return
    votes = max(counted.values())
    assert judged.votes == votes
    assert judged.answers == len(found)
    assert judged.reference is not None
    reference = found[judged.reference]
    assert reference is not None
    assert counted[Fraction(reference)] == votes
    share = votes / len(found)
    assert judged.verdict == ("too_easy" if share > most else "inconsistent" if share < least else "kept")
    members = [place for place, text in enumerate(found) if text and Fraction(text) == Fraction(reference)]
    assert list(judged.members) == members


@given(results, st.randoms())
def test_the_order_of_the_samples_changes_nothing(found: list[str | None], random: Random) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    one, other = (plurality(texts, same_value, least=0.25, most=0.9) for texts in (found, shuffled))
    assert (one.verdict, one.votes) == (other.verdict, other.votes)
    if one.reference is not None and other.reference is not None:
        assert found[one.reference] == shuffled[other.reference]


def test_ties_go_to_the_shorter_text_and_then_by_the_alphabet() -> None:
    def never(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [False] * len(pairs)

    for found, reference in ((["10", "9", "10", "9"], "9"), (["b", "a"], "a"), (["ccc", "b", None, "ccc"], "ccc")):
        judged = plurality(found, never, least=0, most=1)
        assert judged.reference is not None
        assert found[judged.reference] == reference


def test_the_defaults_keep_from_two_of_eight_to_seven_of_eight() -> None:
    settings = find_kind("maths_problems").settings
    assert (settings["answers"], settings["shares"]) == (8, (0.25, 0.9))
    least, most = settings["shares"]

    def verdict(agreeing: int) -> str:
        found = ["7"] * agreeing + [str(number) for number in range(100, 108 - agreeing)]
        return plurality(found, same_value, least=least, most=most).verdict

    assert [verdict(number) for number in range(1, 9)] == ["inconsistent", *["kept"] * 6, "too_easy"]
    assert (
        plurality(["7", "7", "8", "9"], same_value, least=0.5, most=0.5).verdict == "kept"
    )  # both limits belong to it


def answering(folder: Path, answers: Sequence[str], kind: str, *, question: str = "How many?") -> tuple[Work, Tools]:
    """A work with a question, and tools whose sampler gives these answers to it."""

    def say(text: str, rules: Sampling, number: int) -> str:
        assert question in text
        return answers[number]

    journal = StepJournal(folder)
    sampler = MeteredSampler(Scripted(say), journal, place="x", budget_tokens=None)
    tools = Tools(writer=sampler, judge=sampler, journal=journal, temperature=1.0, seed=0)
    (work,) = start_works(seed("text"), find_kind(kind), count=1, seed=0)
    work.data["question"] = question
    return work, tools


HALVES = [r"So \boxed{\frac{1}{2}}", r"\boxed{0.5}", "The answer is 1/2.", r"\boxed{2}"]
CYCLES = ["Answer: The Krebs cycle.", "answer: krebs-cycle", "Answer: ATP", "Answer: NADH"]
NO_RESULT = "I do not know how one would even begin with that, sorry."


@pytest.mark.parametrize(
    ("kind", "answers", "reference", "votes", "reason"),
    [
        ("maths_problems", HALVES * 2, "0.5", 6, None),
        ("maths_problems", [r"\boxed{12}"] * 8, "12", 8, "too_easy"),
        ("maths_problems", [rf"\boxed{{{number}}}" for number in range(8)], "0", 1, "inconsistent"),
        ("maths_problems", [NO_RESULT] * 8, None, 0, "no_result"),
        ("maths_problems", [r"\boxed{3}"] * 2 + ["x" * 3_000] * 6, "3", 2, None),
        ("short_answer_inference", CYCLES * 2, "krebs-cycle", 4, None),
        ("exam_choice", ["Answer: B", "It is heat: **Answer: (B)**", "Answer: A", NO_RESULT] * 2, "B", 4, None),
    ],
)
def test_answers_are_compared_by_meaning(
    tmp_path: Path, kind: str, answers: list[str], reference: str | None, votes: int, reason: str | None
) -> None:
    work, tools = answering(tmp_path, answers, kind)
    work.keeps["options"] = ["light", "heat", "sound", "work"]
    check_plurality([work], tools)
    tools.close()
    assert work.found["plurality"].get("reference") == reference
    assert work.found["plurality"]["votes"] == votes
    assert (work.rejection.reason if work.rejection else None) == reason
    if reason is None:
        assert work.keeps["reference"] == reference
        assert work.messages is not None
        assert work.messages[1]["content"] in answers


@pytest.mark.parametrize(
    ("stated", "answers", "reason"),
    [
        ("1.5", [r"\boxed{1.5}", r"\boxed{3/2}", r"\boxed{2}", r"\boxed{4}", r"\boxed{3/2}"], None),
        ("1.5", [r"\boxed{1}", r"\boxed{1.50}", r"\boxed{2}", "none of it can be computed here", "x"], "unconfirmed"),
    ],
)
def test_an_answer_is_confirmed_by_independent_attempts(
    tmp_path: Path, stated: str, answers: list[str], reason: str | None
) -> None:
    work, tools = answering(tmp_path, answers, "qa_numbers")
    work.data["answer"] = stated
    check_solved([work], tools)
    tools.close()
    assert (work.rejection.reason if work.rejection else None) == reason
