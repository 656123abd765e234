"""IFEval: each of its 25 instructions followed and broken, strict and loose, against lm-eval's own grading."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megaphi.errors import InputError
from megaphi.evaluation.task import Continue, Grade, GradingTools, TaskResponse
from megaphi.evaluation.tasks import find_task
from megaphi.evaluation.tasks.instructions import checkers
from megaphi.evaluation.tasks.instructions.ifeval import variants
from megaphi.grading.grader import Grader
from megaphi.sampling import Sampling
from tests.evaluation.tasks.sentence_data import sentence_data

pytest.importorskip("lm_eval", reason="the extra megaphi[eval] is not installed")

TASK = find_task("ifeval")
PROMPT = "Write about rivers."
ENGLISH = "This is a short text about rivers in the north of the country, where they freeze in winter."
GERMAN = "Das ist ein kurzer Text über Flüsse im Norden des Landes, die im Winter zufrieren."
PARTS = "SECTION 1\nRivers.\nSECTION 2\nLakes."
STARS = "One\n\n***\n\nTwo"
AT_LEAST, LESS = "at least", "less than"

FORMATS: tuple[tuple[str, dict[str, Any], str, bool, bool], ...] = (
    ("keywords:existence", {"keywords": ["river", "sea"]}, "A River meets the Sea.", True, True),
    ("keywords:existence", {"keywords": ["river", "sea"]}, "A river.", False, False),
    ("keywords:frequency", {"keyword": "river", "frequency": 2, "relation": AT_LEAST}, "River, river.", True, True),
    ("keywords:frequency", {"keyword": "river", "frequency": 2, "relation": AT_LEAST}, "River.", False, False),
    ("keywords:frequency", {"keyword": "river", "frequency": 2, "relation": LESS}, "River.", True, True),
    ("keywords:forbidden_words", {"forbidden_words": ["lake"]}, "Flakes fall.", True, True),
    ("keywords:forbidden_words", {"forbidden_words": ["lake"]}, "A Lake.", False, False),
    ("keywords:forbidden_words", {"forbidden_words": ["lake"]}, "A lake:\nRivers.", False, True),
    ("keywords:letter_frequency", {"letter": "r", "let_frequency": 3, "let_relation": AT_LEAST}, "RiveR r", True, True),
    ("keywords:letter_frequency", {"letter": "r", "let_frequency": 3, "let_relation": LESS}, "RiveR r", False, False),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": AT_LEAST}, "#a #b", True, True),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": AT_LEAST}, "#a b", False, False),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 1, "let_relation": LESS}, "Oh.", True, True),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 1, "let_relation": LESS}, "Oh!", False, False),
    ("language:response_language", {"language": "de"}, GERMAN, True, True),
    ("language:response_language", {"language": "de"}, ENGLISH, False, False),
    ("language:response_language", {"language": "de"}, "12345", True, True),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": AT_LEAST}, "One. Two.", True, True),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": AT_LEAST}, "Only one.", False, False),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LESS}, "Sure. Yes.\nOne.", False, True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, STARS, True, True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}, STARS, False, False),
    ("length_constraints:number_words", {"num_words": 3, "relation": AT_LEAST}, "one two three", True, True),
    ("length_constraints:number_words", {"num_words": 3, "relation": AT_LEAST}, "one two", False, False),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, "Of course!\none two", False, True),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "rivers"},
        "One.\n\nRivers flow.",
        True,
        True,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "rivers"},
        "One.\n\nRivers flow.",
        False,
        False,
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], [place]", True, True),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], (place)", False, False),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Text.\nP.S. More.", True, True),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Text.", False, False),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n* two", True, True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n* two\n* three", False, True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "1. one\n2. two", False, False),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", True, True),
    ("detectable_format:constrained_response", {}, "Perhaps.", False, False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and **two**", True, True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one*", False, False),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, PARTS, True, True),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 3}, PARTS, False, False),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', True, True),
    ("detectable_format:json_format", {}, 'Here:\n{"a": 1}', False, True),
    ("detectable_format:json_format", {}, "{a: 1}", False, False),
    ("detectable_format:title", {}, "<<Rivers>>\nText.", True, True),
    ("detectable_format:title", {}, "<Rivers>\nText.", False, False),
    ("combination:two_responses", {}, "One.\n******\nTwo.", True, True),
    ("combination:two_responses", {}, "One.\n******\nOne.", False, False),
    ("combination:repeat_prompt", {"prompt_to_repeat": PROMPT}, "Write about rivers. They flow.", True, True),
    ("combination:repeat_prompt", {"prompt_to_repeat": PROMPT}, "They flow.", False, False),
    ("combination:repeat_prompt", {"prompt_to_repeat": PROMPT}, "Yes:\nWrite about rivers. So.", False, True),
    ("startend:end_checker", {"end_phrase": "That is all."}, "They flow. That is all.", True, True),
    ("startend:end_checker", {"end_phrase": "That is all."}, "That is all. They flow.", False, False),
    ("startend:end_checker", {"end_phrase": "That is all."}, "That is all.\nBye!", False, True),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": AT_LEAST},
        "A BIG one",
        True,
        True,
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": LESS},
        "A BIG one",
        False,
        False,
    ),
    ("change_case:english_capital", {}, ENGLISH.upper(), True, True),
    ("change_case:english_capital", {}, ENGLISH, False, False),
    ("change_case:english_lowercase", {}, ENGLISH.lower(), True, True),
    ("change_case:english_lowercase", {}, ENGLISH, False, False),
    ("punctuation:no_comma", {}, "One; two.", True, True),
    ("punctuation:no_comma", {}, "One, two.", False, False),
    ("punctuation:no_comma", {}, "Sure, here:\nOne; two.", False, True),
    ("startend:quotation", {}, '"One."', True, True),
    ("startend:quotation", {}, '*"One."*', False, True),
    ("startend:quotation", {}, "One.", False, False),
    ("punctuation:no_comma", {}, "", False, False),
    ("punctuation:no_comma", {}, " \n ", False, False),
)


@pytest.fixture(scope="module", autouse=True)
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with sentence_data(tmp_path_factory.mktemp("nltk")):
        yield


def record(*instructions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    names, arguments = zip(*instructions, strict=True)
    return {"key": 1000, "prompt": PROMPT, "instruction_id_list": list(names), "kwargs": list(arguments)}


def graded(row: dict[str, Any], text: str, finish: Any = "stop") -> Grade:
    response = TaskResponse(item=TASK.read(row), asked=Continue(prompt="", rules=Sampling()), text=text, finish=finish)
    return TASK.grade([response], frozenset(), GradingTools(grader=Grader(processes=1)))[0]


def test_all_instructions_followed_and_broken() -> None:
    from lm_eval.tasks.ifeval.utils import process_results

    for name, arguments, text, strict, loose in FORMATS:
        grade = graded(record((name, arguments)), text)
        assert grade.scores == {
            "prompt_strict": strict,
            "prompt_loose": loose,
            "followed_strict": strict / 10,
            "followed_loose": loose / 10,
            "instructions": 1 / 10,
        }, (name, text)
        if str(arguments.get("letter", "r")) == "r":  # for other characters lm-eval draws a letter at random
            theirs = process_results(record((name, arguments)), [text])
            assert (theirs["prompt_level_strict_acc"], theirs["prompt_level_loose_acc"]) == (strict, loose), (
                name,
                text,
            )
    assert {name for name, *_ in FORMATS} == set(checkers.instruction_classes())
    assert len({text for _, _, text, *_ in FORMATS}) >= 30


def test_prompts_of_several_instructions_and_the_four_figures() -> None:
    from lm_eval.tasks.ifeval.utils import agg_inst_level_acc, process_results

    three = record(("punctuation:no_comma", {}), ("detectable_format:title", {}), ("startend:quotation", {}))
    one = record(("punctuation:no_comma", {}))
    answers = (
        (three, '"<<Rivers>> They flow."'),
        (three, "Well,\n<<Rivers>> They flow."),
        (one, "Yes, no"),
        (one, "No"),
    )
    grades = [graded(*answer) for answer in answers]
    theirs = [process_results(row, [text]) for row, text in answers]
    means = {name: sum(grade.scores[name] for grade in grades) / len(grades) for name in TASK.scores}
    assert means["prompt_strict"] == sum(one["prompt_level_strict_acc"] for one in theirs) / 4 == 0.5
    assert means["prompt_loose"] == sum(one["prompt_level_loose_acc"] for one in theirs) / 4
    for kind in ("strict", "loose"):
        expected = agg_inst_level_acc([one[f"inst_level_{kind}_acc"] for one in theirs])
        assert TASK.derived[f"instruction_{kind}"](means) == pytest.approx(expected)
    assert TASK.derived["instruction_strict"](means) == pytest.approx(5 / 8)
    assert grades[1].details["strict"] == [False, True, False]
    assert grades[1].note == "not followed: punctuation:no_comma, startend:quotation"


def test_empty_and_cut_off_responses() -> None:
    row = record(("punctuation:no_comma", {}))
    assert graded(row, "").problem == "no answer extracted"
    assert graded(row, "", "length").problem == "truncated"
    assert (
        graded(row, "A text that", "length").problem,
        graded(row, "A text that", "length").scores["prompt_strict"],
    ) == ("", 1)


def test_a_language_is_found_alike_every_time() -> None:
    between = "Park Hotel am See"  # without a fixed seed: German, Dutch or Afrikaans
    row = record(("language:response_language", {"language": "de"}))
    assert len({graded(row, between).scores["prompt_strict"] for _ in range(20)}) == 1


def test_loose_has_eight_variants() -> None:
    assert variants("Sure:\n*a*\nBye") == [
        "Sure:\n*a*\nBye",
        "Sure:\na\nBye",
        "*a*\nBye",
        "a\nBye",
        "Sure:\n*a*",
        "Sure:\na",
        "*a*",
        "a",
    ]


def test_arguments_as_tables_hold_them() -> None:
    """Parquet gives every argument to every instruction, null where it has none, and whole numbers as floats."""
    row = record(("detectable_format:number_bullet_lists", {"num_bullets": 2.0, "language": None, "keywords": None}))
    assert graded(row, "* a\n* b").scores["prompt_strict"] == 1
    assert TASK.read(row).name == "1000"
    asked = TASK.ask(TASK.read(row), [], frozenset())
    assert isinstance(asked, Continue)
    assert [message.content for message in asked.prompt.messages] == [PROMPT]  # pyright: ignore


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (record(("punctuation:no_commas", {})), "there is no instruction 'punctuation:no_commas'"),
        (record(("startend:quotation", {"colour": "red"})), "'startend:quotation' does not take {'colour': 'red'}"),
        (record(("length_constraints:number_words", {"num_words": 3})), "lacks its argument 'relation'"),
        (record(("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "more than"})), "does not take"),
        (
            record(("keywords:letter_frequency", {"letter": "##", "let_frequency": 1, "let_relation": LESS})),
            "one character",
        ),
        ({**record(("startend:quotation", {})), "kwargs": []}, "column 'kwargs' must be a list of 1 objects"),
        ({**record(("startend:quotation", {})), "kwargs": ["x"]}, "column 'kwargs' must hold objects"),
        ({**record(("startend:quotation", {})), "kwargs": None}, "column 'kwargs' is missing"),
        (record(*[("startend:quotation", {})] * 11), "has 11 instructions: at most 10"),
    ],
)
def test_records_that_cannot_be_used(row: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        TASK.read(row)


def test_what_is_missing_is_named_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nltk

    checkers.instruction_classes.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(checkers, "find_spec", lambda name: None if name == "langdetect" else sys)
        with pytest.raises(
            InputError, match=re.escape("need langdetect, which is not installed: pip install 'megaphi[eval]'")
        ):
            TASK.read(record(("startend:quotation", {})))
    with monkeypatch.context() as patched:
        patched.setattr(nltk.data, "path", [str(tmp_path)])
        patched.setattr(nltk, "download", lambda *_: pytest.fail("something is downloaded"))
        with pytest.raises(InputError, match=re.escape("python -m nltk.downloader punkt_tab")):
            TASK.read(record(("startend:quotation", {})))
