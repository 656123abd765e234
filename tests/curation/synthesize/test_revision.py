"""Self-revision: each way in which its rounds end, and that the best version is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.curation.requests.metered import MeteredSampler
from megaphi.curation.requests.step_journal import StepJournal
from megaphi.curation.synthesize.forms.revision import revise_open
from megaphi.curation.synthesize.forms.work import Tools, Work, start_works
from megaphi.curation.synthesize.table.kinds_file import find_kind
from megaphi.sampling import Sampling
from tests.curation.synthesize.scripted import Scripted, seed, wants

FAULTS = ["a step is missing"]


def revised(
    folder: Path, scores: list[int | str], *, rounds: int = 4, faults: list[str] = FAULTS, broken: int = 99
) -> tuple[Work, Scripted]:
    """A work whose versions (`draft`, `version 1`, …) get these scores; the revision number `broken` is empty."""

    def say(prompt: str, rules: Sampling, number: int) -> str:
        if not wants(rules):
            written = sum("Write it again" in text for text in sampler.prompts) + 1
            assert all(fault in prompt for fault in faults)
            return " " if written == broken else f"version {written}"
        version = 0 if "\ndraft\n" in prompt else next(one for one in range(1, 9) if f"\nversion {one}\n" in prompt)
        score = scores[version]
        return json.dumps({"faults": faults, "score": score}) if isinstance(score, int) else score

    sampler = Scripted(say)
    journal = StepJournal(folder)
    metered = MeteredSampler(sampler, journal, place="x", budget_tokens=None)
    tools = Tools(writer=metered, judge=metered, journal=journal, temperature=1.0, seed=0)
    kind = find_kind("structured_reasoning")
    kind = replace(kind, settings={**kind.settings, "revise": rounds})
    (work,) = start_works(seed("the source"), kind, count=1, seed=0)
    work.text = work.data["answer"] = "draft"
    revise_open([work], tools)
    return work, sampler


@pytest.mark.parametrize(
    ("scores", "kept", "seen"),
    [
        ([2, 3, 4, 5], "version 3", [2, 3, 4, 5]),  # nothing better is possible
        ([2, 3, 3, 5], "version 1", [2, 3, 3]),  # the score stops rising
        ([3, 1], "draft", [3, 1]),  # a revision that makes it worse
        ([5], "draft", [5]),  # a draft that is good already
        ([1, 2, 3, 4, 4], "version 3", [1, 2, 3, 4, 4]),  # the rounds are at their end
        ([2, 3, "prose"], "version 1", [2, 3]),  # a critique that cannot be read
    ],
)
def test_rounds_go_on_while_the_score_rises(
    tmp_path: Path, scores: list[int | str], kept: str, seen: list[int]
) -> None:
    work, _ = revised(tmp_path, scores)
    assert (work.text, work.data["answer"], work.found["revision"]["scores"]) == (kept, kept, seen)
    assert work.found["revision"]["kept"] == (0 if kept == "draft" else int(kept[-1]))
    assert work.rejection is None


def test_a_draft_without_faults_or_without_rounds_is_left_as_it_is(tmp_path: Path) -> None:
    work, sampler = revised(tmp_path / "a", [3], faults=[])
    assert (work.text, len(set(sampler.prompts))) == ("draft", 1)
    work, sampler = revised(tmp_path / "b", [3], rounds=0)
    assert (work.text, sampler.prompts, work.found) == ("draft", [], {})


def test_a_revision_that_is_empty_ends_it_and_a_first_critique_that_fails_rejects(tmp_path: Path) -> None:
    work, _ = revised(tmp_path / "a", [2, 3, 4], broken=2)
    assert (work.text, work.found["revision"], work.rejection) == ("version 1", {"scores": [2, 3], "kept": 1}, None)
    work, _ = revised(tmp_path / "b", ["prose"])
    assert work.rejection is not None
    assert work.rejection.reason == "unreadable"
    assert work.text == "draft"


@given(st.lists(st.integers(1, 5), min_size=7, max_size=7), st.integers(1, 5))
def test_what_is_kept_is_the_end_of_the_first_rise(
    tmp_path_factory: pytest.TempPathFactory, scores: list[int], rounds: int
) -> None:
    work, _ = revised(tmp_path_factory.mktemp("a"), list(scores), rounds=rounds)
    end = 0
    while end < rounds and scores[end] < 5 and scores[end + 1] > scores[end]:
        end += 1
    assert work.text == (f"version {end}" if end else "draft")
