"""The files of a search over the small model: read by who reads them, equal whatever the order of events, escaped."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from megaphi.data.packed.preference_pairs import read_pairs
from megaphi.foreign.markdown_cell import in_cell
from megaphi.grading.question import MathAnswer, Question
from megaphi.pivotal.interchange.pts_events import read_events
from megaphi.pivotal.methods.backward import backward
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.results import SearchedQuestion, write_results
from megaphi.pivotal.rollouts.runner import Tally
from tests.pivotal.searches import PLAN, searched
from tests.pivotal.small_world import SmallSource, SmallTokenizer, is_right, law, otherwise, prompt_of, success

SETTINGS = Settings(most_rollouts=250, confirm=150)
QUESTIONS = 12
MIDDLING = replace(PLAN, first_rollouts=16, lowest_rate=0.35, highest_rate=0.65)
FILES = (
    "pivotal_tokens.jsonl",
    "pairs.jsonl",
    "values.jsonl",
    "events.jsonl",
    "questions.jsonl",
    "undecided.jsonl",
    "report.md",
    "page.html",
)


MODEL = "a & b|<i>"


class HostileTokenizer(SmallTokenizer):
    """Its texts are what a model may write to harm who looks at them."""

    def decode(self, tokens: Any) -> str:
        return "".join(f"<script>alert({token})</script>&\n" for token in tokens)


def hostile(number: int) -> Question:
    return Question(name=f"q{number}", prompt="<img src=x onerror=alert(1)> & </p>", key=MathAnswer("even"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[SearchedQuestion], Tally]:
    return searched(
        tmp_path_factory.mktemp("search") / "store",
        questions=QUESTIONS,
        question=hostile,
        method=backward,
        settings=SETTINGS,
        plan=MIDDLING,
    )


@pytest.fixture(scope="module")
def folder(found: tuple[list[SearchedQuestion], Tally], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("results"), *found)


def written(folder: Path, questions: list[SearchedQuestion], tally: Tally) -> Path:
    tokenizer: Any = HostileTokenizer()
    options: dict[str, Any] = {"settings": SETTINGS, "level": 0.05, "margin": 0.1}
    said = write_results(questions, folder, tally, tokenizer, model=MODEL, **options)
    assert str(folder / "report.md") in said
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pairs_are_read_as_they_are_and_truly_differ(folder: Path) -> None:
    """Against the success probability of both sides by enumeration."""
    path = str(folder / "pairs.jsonl")
    pairs, report = read_pairs(
        [path], None, sequence_length=64, append_eos=True, max_completion_tokens=None, too_long="error", vocabulary=200
    )
    assert len(pairs) >= 5
    assert not report.skipped
    better = 0
    for pair, record in zip(pairs, lines(folder / "pairs.jsonl"), strict=True):
        assert len(pair.chosen) == len(pair.rejected) == 1  # no end was appended
        prefix = tuple(pair.prompt.tolist())
        better += success((*prefix, int(pair.chosen[0]))) > success((*prefix, int(pair.rejected[0])))
        assert record["chance"] >= 0.95
    assert better >= 0.95 * len(pairs)


def test_pivotal_tokens_have_the_effects_that_enumeration_gives(
    folder: Path, found: tuple[list[SearchedQuestion], Tally]
) -> None:
    records = lines(folder / "pivotal_tokens.jsonl")
    traces = {
        (one.question.name, number): answer.trace
        for one in found[0]
        for number, answer in enumerate(one.result.answers)
    }
    assert len(traces) >= 8
    pivotal = [record for record in records if record["is_pivotal"]]
    assert len(pivotal) >= 8
    covered = 0
    for record in pivotal:
        trace = traces[record["question"], record["answer"]]
        prefix = (*trace.prompt, *trace.tokens[: record["position"]])
        p = 1 - law(prefix)[record["token"]]
        truth = p * (success((*prefix, record["token"])) - otherwise(prefix, record["token"]))
        covered += record["effect"]["low"] <= truth <= record["effect"]["high"]
    assert covered >= 0.85 * len(pivotal)


def test_values_are_the_outcomes_of_rollouts_from_their_prefixes(folder: Path) -> None:
    records = lines(folder / "values.jsonl")
    assert len(records) > 50
    large = [record for record in records if record["n"] >= 50]
    assert len(large) > 10
    for record in large:
        p = success(tuple(record["tokens"]))
        assert abs(record["successes"] / record["n"] - p) <= 4.5 * (p * (1 - p) / record["n"]) ** 0.5
    whole = [tuple(record["tokens"]) for record in records if record["tokens"][-1] == 7]
    assert all(is_right(tokens) == success(tokens) for tokens in whole)


def test_events_are_those_of_codelion_with_positions_in_the_whole_sequence(folder: Path) -> None:
    events = read_events(folder / "events.jsonl")
    pivotal = [record for record in lines(folder / "pivotal_tokens.jsonl") if record["is_pivotal"]]
    assert [event.position for event in events] == [record["position"] + len(prompt_of(0)) for record in pivotal]
    for event, record in zip(events, pivotal, strict=True):
        assert event.effect == pytest.approx(record["effect"]["estimate"])
        assert event.token == record["token"]


def test_the_report_counts_every_question_and_prints_the_check(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    reasons = Counter(record["left_out"] for record in lines(folder / "questions.jsonl") if record["left_out"])
    assert reasons
    for reason, number in reasons.items():
        assert f"| {in_cell(reason)} | {number} |" in text
    assert f"# Pivotal tokens of {in_cell(MODEL)}" in text
    assert f"{QUESTIONS} questions" in text
    assert "Martingale check over" in text
    pairs = len(lines(folder / "pairs.jsonl"))
    assert f"| pairs | {pairs} |" in text


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.styled = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag] += 1
        assert not any(name.startswith("on") for name, _ in attrs)
        self.styled += ("class", "pivotal") in attrs


def test_the_page_shows_every_token_and_nothing_that_a_model_wrote_is_markup(folder: Path) -> None:
    elements = _Elements()
    text = (folder / "page.html").read_text()
    elements.feed(text)
    assert not {"script", "img"} & elements.found.keys()
    pivotal = [record for record in lines(folder / "pivotal_tokens.jsonl") if record["is_pivotal"]]
    assert elements.styled == len(pivotal)
    assert elements.found["table"] == len(pivotal)
    assert "&lt;script&gt;alert(" in text
    assert elements.found["svg"] == sum(record["answers"] for record in lines(folder / "questions.jsonl"))


def test_files_do_not_depend_on_the_order_of_events(folder: Path, tmp_path: Path) -> None:
    again = searched(
        tmp_path / "store",
        questions=QUESTIONS,
        question=hostile,
        method=backward,
        settings=SETTINGS,
        plan=MIDDLING,
        source=SmallSource(order=99, at_once=31),
        in_flight=11,
    )
    other = written(tmp_path / "results", *again)
    for name in FILES:
        assert (other / name).read_bytes() == (folder / name).read_bytes(), name
