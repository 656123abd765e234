"""Every way of writing an answer, under both protocols: the recorded outcome, the public rules again, and the page.

The formats with their outcomes are in `answer_formats/`; `published_rules.py` has the published rules a second time,
without regular expressions where the first writing has them. Random texts of the same fragments go through both.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megaphi.evaluation.task import CORRECTED, PHI4, EvaluationTask, switches_on
from megaphi.evaluation.tasks import find_task
from megaphi.evaluation.tasks.mathematics.number_reading import ANSWER_WORDS
from megaphi.grading.grader import Grader
from tests.evaluation.tasks import published_rules as rules
from tools.evaluation_formats import PAGE, AnswerFormat, page, read_formats

FILES = {
    "mmlu": ("choices.jsonl", "mmlu"),
    "mmlu_pro": ("choices.jsonl", "plain"),
    "gpqa": ("choices.jsonl", "plain"),
    "arc_challenge": ("choices.jsonl", "plain"),
    "exam": ("choices.jsonl", "plain"),
    "math": ("problems.jsonl", "published"),
    "mgsm": ("numbers.jsonl", "published"),
    "gsm8k": ("numbers.jsonl", "published"),
    "gsm8k_base": ("hashes.jsonl", "published"),
    "amc": ("papers.jsonl", "published"),
}


@cache
def formats_of(task: str) -> list[AnswerFormat]:
    found = read_formats(FILES[task][0])
    return [one for one in found if one.row["language"] == "en"] if task == "gsm8k" else found


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(processes=1) as opened:
        yield opened


def all_on(task: EvaluationTask) -> frozenset[str]:
    return switches_on(task, PHI4, {})


@pytest.mark.parametrize("name", FILES)
def test_each_task_has_thirty_formats_with_the_recorded_outcomes(name: str, grader: Grader) -> None:
    task, formats = find_task(name), formats_of(name)
    wrong = []
    for one in formats:
        for protocol, column in ((PHI4, FILES[name][1]), (CORRECTED, "corrected")):
            got = one.outcome(task, switches_on(task, protocol, {}), grader)
            if got != one.row[column]:
                wrong.append((protocol, one.row["answer"], one.row[column], got))
    assert wrong == []
    assert len({one.row["answer"] for one in formats}) >= 30


@pytest.mark.parametrize("name", FILES)
def test_each_switch_of_grading_changes_a_score(name: str, grader: Grader) -> None:
    """Turned off from all on, or on from all off."""
    task = find_task(name)
    graded = {switch.name for switch in task.switches if switch.changes == "grading"}
    moved = {
        switch
        for one in formats_of(name)
        for switch in graded
        for on in (all_on(task), frozenset({switch}))
        if one.grade(task, on, grader).scores != one.grade(task, on - {switch}, grader).scores
    }
    assert moved == graded


@pytest.mark.parametrize("name", FILES)
def test_a_response_without_an_answer_says_so(name: str, grader: Grader) -> None:
    task = find_task(name)
    nothing = [one for one in formats_of(name) if one.row["answer"] == ""]
    cut_off = [one for one in formats_of(name) if one.row.get("finish") == "length"]
    assert nothing
    assert cut_off
    for on in (all_on(task), frozenset[str]()):
        assert {one.grade(task, on, grader).problem for one in nothing} == {"no answer extracted"}
        assert {one.grade(task, on, grader).problem for one in cut_off} == {"truncated"}


def test_failures_of_the_judge_are_failures_only_where_they_are_looked_for(grader: Grader) -> None:
    task = find_task("math")
    on = all_on(task)
    problems = {
        one.row["judge"]: (
            one.grade(task, on, grader).problem,
            one.grade(task, on - {"yes-exactly"}, grader).problem,
            one.grade(task, on - {"yes-exactly"}, grader).scores["accuracy"],
        )
        for one in formats_of("math")
        if one.row["answer"] == "Answer: 12" and "judge_raw" not in one.row
    }
    assert problems["Yes."] == problems["**Yes**"] == ("", "", 1.0)
    assert problems["The expressions seem nice."] == ("", "judge failed", 0.0)
    assert problems[None] == ("judge failed", "judge failed", 0.0)


@pytest.mark.parametrize("name", ["mmlu", "mmlu_pro", "gpqa", "arc_challenge", "exam"])
def test_choices_agree_with_the_public_rules(name: str, grader: Grader) -> None:
    task = find_task(name)
    for one in formats_of(name):
        text = one.row["answer"]
        letter = rules.mmlu_letter(text) if name == "mmlu" else rules.gpqa_letter(text)
        grade = one.grade(task, all_on(task), grader)
        assert (grade.extracted, grade.scores["accuracy"]) == (letter, float(rules.latin_letter(letter) == "B")), text


def test_results_agree_with_the_public_rules(grader: Grader) -> None:
    task = find_task("math")
    for one in formats_of("math"):
        grade = one.grade(task, all_on(task), grader)
        result = rules.math_result(one.row["answer"])
        said = one.row.get("judge_raw", one.row.get("judge_sampled", one.row["judge"]))
        said = one.row.get("judge_none", "No") if result is None else said
        assert grade.extracted == (result or "")
        assert grade.scores["accuracy"] == float(rules.judge_says_equal(said)), one.row


@pytest.mark.parametrize("name", ["mgsm", "gsm8k"])
def test_numbers_agree_with_the_public_rules(name: str, grader: Grader) -> None:
    task = find_task(name)
    for one in formats_of(name):
        number = rules.mgsm_number(one.row["answer"], ANSWER_WORDS[one.row["language"]])
        grade = one.grade(task, all_on(task), grader)
        assert grade.extracted == number
        assert grade.scores["accuracy"] == float(rules.mgsm_is_right(number, str(one.row["gold"]))), one.row


def test_numbers_behind_hashes_agree_with_lm_eval(grader: Grader) -> None:
    """Its own filters and its own comparison, with the settings of its task gsm8k."""
    pytest.importorskip("lm_eval", reason="the extra megaphi[eval] is not installed")
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    strict = RegexFilter(r"#### (\-?[0-9\.\,]+)", group_select=0)
    flexible = RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    ignored = [",", r"\$", r"(?s).*#### ", r"\.$"]
    task = find_task("gsm8k_base")
    for one in formats_of("gsm8k_base"):
        grade = one.grade(task, all_on(task), grader)
        for score, extract in (("exact_match", strict), ("flexible", flexible)):
            found = next(iter(extract.apply([[one.row["answer"]]], [{}])))
            compared = exact_match_hf_evaluate(found, [f"… #### {one.row['gold']}"], ignored, ignore_case=True)
            assert grade.scores[score] == compared["exact_match"], (score, one.row)
        assert grade.scores["flexible"] == float(one.row["flexible"])


def test_what_lm_eval_finds_equal_the_verifiers_find_equal(grader: Grader) -> None:
    """Its comparison of strings finds fewer equal, so that only one direction holds."""
    pytest.importorskip("lm_eval", reason="the extra megaphi[eval] is not installed")
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    task = find_task("math")
    agreed = 0
    for one in formats_of("math"):
        grade = one.grade(task, frozenset(), grader)
        if grade.extracted and is_equiv(grade.extracted, one.row["gold"]):
            assert grade.scores["accuracy"] == 1.0, one.row
            agreed += 1
    assert agreed >= 15


FRAGMENTS = (
    *("Answer", "answer", "ANSWER", ":", " :", ": ", " ", "\n", "\t", "A", "B", "b", "D", "E", "Because", "(B)", "**"),
    *(
        "$",
        "\\boxed{",
        "$\\boxed{",
        "}",
        "}$",
        "\\text{",
        "\\textbf{",
        "\\(",
        "{",
        "Respuesta:",
        "答案：",
        "উত্তর:",
        "ب",
        "ت",
    ),
    *(
        "Ｂ",
        "ａ",
        "18",
        "1,234",
        "18.00",
        "-",
        ".",
        ",",
        "১৮",
        "Antwort",
        "Réponse",
        "answers",
        "=",
        "(6",
        "∞",
        "\u00a0",
    ),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_random_texts_agree_with_the_public_rules(text: str) -> None:
    from megaphi.evaluation.tasks.mathematics.number_reading import read_number
    from megaphi.evaluation.tasks.mathematics.problems import found_result
    from megaphi.evaluation.tasks.multiple_choice.announced_letters import ENGLISH, LANGUAGES, chosen_letter

    options = ("Mercury", "Venus", "Earth", "Mars")
    mmlu, gpqa, math, mgsm = (all_on(find_task(name)) for name in ("mmlu", "gpqa", "math", "mgsm"))
    found = chosen_letter(text, options, mmlu, LANGUAGES)
    assert found.as_written == (letter := rules.mmlu_letter(text))
    assert (found.index == 1) == (rules.latin_letter(letter) == "B")
    assert chosen_letter(text, options, gpqa, ENGLISH).as_written == rules.gpqa_letter(text)
    result = found_result(text, math)
    assert (None if result is None else result.text) == rules.math_result(text)
    for language, word in ANSWER_WORDS.items():
        number = read_number(text, "18", language, mgsm)
        assert number.text == rules.mgsm_number(text, word)
        assert number.is_right == rules.mgsm_is_right(number.text, "18")


def test_words_of_all_languages_agree_with_the_public_rules() -> None:
    """Each word alone, and each before each other, because the order of the languages decides."""
    from megaphi.evaluation.tasks.multiple_choice.announced_letters import LANGUAGES, chosen_letter

    on = all_on(find_task("mmlu"))
    texts = [f"{first} A\n{second} B" for first in rules.COLONED for second in rules.COLONED]
    texts += [f"{word} {letter}" for word in rules.COLONED for letter in (*rules.LETTER_OF, *rules.WIDE)]
    for text in texts:
        found = chosen_letter(text, ("Mercury", "Venus", "Earth", "Mars"), on, LANGUAGES)
        letter = rules.mmlu_letter(text)
        assert found.as_written == letter, text
        assert found.index == "ABCD".find(rules.latin_letter(letter)), text


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sets(st.sampled_from([one.name for one in find_task("mmlu").switches])))
def test_any_choice_of_switches_gives_an_option_or_none(text: str, on: set[str]) -> None:
    from megaphi.evaluation.tasks.multiple_choice.announced_letters import ENGLISH, chosen_letter

    found = chosen_letter(text, ("Mercury", "Venus", "Earth", "Mars"), frozenset(on), ENGLISH)
    assert found.index is None or (0 <= found.index < 4 and found.as_written)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=40), TEXTS), st.sampled_from(["mmlu", "gpqa", "mgsm", "gsm8k_base", "amc"]))
def test_any_text_gets_a_grade(grader: Grader, text: str, name: str) -> None:
    task, one = find_task(name), formats_of(name)[0]
    written = AnswerFormat({**one.row, "answer": text}, one.records)
    for on in (all_on(task), frozenset[str]()):
        grade = written.grade(task, on, grader)
        assert set(grade.scores) == set(task.scores)
        assert all(0 <= score <= 1 for score in grade.scores.values())
        assert bool(grade.extracted) == (grade.problem in ("", "undecided"))


def test_the_page_is_what_the_tool_writes(grader: Grader) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(grader), "run python tools/evaluation_formats.py"
