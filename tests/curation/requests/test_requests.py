"""Budgets, journals and replays: no token over the budget, no answer paid for twice, by one process or by several."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.conversation import Conversation, Message
from megaphi.curation.requests.asking import Missed, ask_several, ask_texts, ask_values
from megaphi.curation.requests.metered import CANCELLED, MeteredSampler, prompt_tokens_at_most
from megaphi.curation.requests.step_journal import StepJournal
from megaphi.errors import AffectsAll, InputError, RunFailed
from megaphi.json_text import parse_json
from megaphi.judging.asking import JsonQuestion
from megaphi.sampling import Sampling
from tests.curation.synthesize.scripted import Scripted

RULES = Sampling(max_tokens=40, temperature=1.0)


def prompt(text: str) -> Conversation:
    return Conversation((Message("user", text),))


@contextmanager
def journal_in(folder: Path) -> Iterator[StepJournal]:
    journal = StepJournal(folder)
    try:
        yield journal
    finally:
        journal.close()


def metered(sampler: Scripted, journal: StepJournal, budget: int | None = None) -> MeteredSampler:
    return MeteredSampler(sampler, journal, place="place", budget_tokens=budget)


def echo(text: str, rules: Sampling, number: int) -> str:
    return f"{text} {number}"


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("ab ", min_size=1, max_size=30), min_size=1, max_size=8),
    budget=st.integers(1, 3_000),
    samples=st.integers(1, 3),
)
def test_a_budget_is_never_exceeded_and_is_used_as_far_as_it_goes(texts: list[str], budget: int, samples: int) -> None:
    sampler = Scripted(echo)
    with tempfile.TemporaryDirectory() as folder, journal_in(Path(folder)) as journal:
        asked = [prompt(text) for text in texts]
        answers = metered(sampler, journal, budget).sample(asked, RULES, samples=samples)
        assert sampler.tokens == journal.paid_tokens <= budget
        denied = [one for one, found in zip(asked, answers, strict=True) if found[0] is CANCELLED]
        if denied:
            left = budget - sampler.tokens
            assert prompt_tokens_at_most(denied[0]) + samples * RULES.max_tokens > left
        for one, found in zip(texts, answers, strict=True):
            if found[0] is not CANCELLED:
                assert [answer.text for answer in found] == [f"{one} {number}"[:40] for number in range(samples)]


def test_a_second_run_asks_nothing_and_decides_alike(tmp_path: Path) -> None:
    asked = [prompt(f"question {number}") for number in range(20)]
    found = []
    for _ in range(2):
        sampler = Scripted(echo)
        with journal_in(tmp_path) as journal:
            found.append(metered(sampler, journal, 400).sample(asked, RULES, seeds=list(range(20))))
    assert found[0] == found[1]
    assert sampler.prompts == []
    assert 0 < sum(one[0] is CANCELLED for one in found[0]) < 20


def test_other_rules_seeds_places_and_samples_are_other_requests(tmp_path: Path) -> None:
    sampler = Scripted(echo)
    with journal_in(tmp_path) as journal:
        one = metered(sampler, journal)
        other = MeteredSampler(sampler, journal, place="elsewhere", budget_tokens=None)
        one.sample([prompt("a")], RULES)
        one.sample([prompt("a")], RULES, seeds=[1])
        one.sample([prompt("a")], Sampling(max_tokens=41, temperature=1.0))
        one.sample([prompt("a")], RULES, samples=2)
        other.sample([prompt("a")], RULES)
        assert (one.usage.prompts, one.usage.replayed, other.usage.prompts) == (4, 0, 1)


def test_processes_share_what_they_paid_for_and_their_budget(tmp_path: Path) -> None:
    first, second = Scripted(echo), Scripted(echo)
    with journal_in(tmp_path) as one, journal_in(tmp_path) as other:
        assert one.path != other.path
        ours, theirs = metered(first, one, 1_000), metered(second, other, 1_000)
        ours.sample([prompt("a"), prompt("b")], RULES)
        assert theirs.sample([prompt("b")], RULES)[0][0].text == "b 0"
        assert second.prompts == []
        theirs.sample([prompt(f"c{number}") for number in range(50)], RULES)
        assert first.tokens + second.tokens <= 1_000
        assert ours.sample([prompt("d" * 900)], RULES) == [[CANCELLED]]
        one.refresh()
        assert one.paid_tokens == other.paid_tokens == first.tokens + second.tokens


def test_a_line_that_is_being_written_is_read_later_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    with journal_in(tmp_path) as one, journal_in(tmp_path) as other:
        with open(one.path, "ab") as file:
            file.write(b'{"request": "a", "response": {"paid": [3,')
        other.refresh()
        assert (other.get("a"), other.paid_tokens) == (None, 0)
        with open(one.path, "ab") as file:
            file.write(b" 4]}}\n")
        other.refresh()
        assert (other.get("a"), other.paid_tokens) == ({"paid": [3, 4]}, 7)
        with open(one.path, "ab") as file:
            file.write(b"{}\n")
        with pytest.raises(InputError, match=r"requests-0\.jsonl: byte 47 does not begin an answer: mend it"):
            other.refresh()


def test_a_sampler_with_a_journal_is_lent_ours_for_the_call(tmp_path: Path) -> None:
    class WithJournal(Scripted):
        journal: object = "its own"
        seen: object = None

        def sample(self, *arguments: object, **named: object) -> object:  # type: ignore[override]
            self.seen = self.journal
            return super().sample(*arguments, **named)  # type: ignore[arg-type]

    sampler = WithJournal(echo)
    with journal_in(tmp_path) as journal:
        metered(sampler, journal).sample([prompt("a")], RULES)
        assert sampler.seen is journal
        assert sampler.journal == "its own"


def test_every_reason_for_a_text_that_is_missed(tmp_path: Path) -> None:
    def say(text: str, rules: Sampling, number: int) -> str:
        if "forbidden" in text:
            raise InputError("too long for the context")
        return {"cut": "x" * 100, "empty": " \n"}.get(text, "good")

    texts = ["good", "cut", "empty", "forbidden", "good", "b" * 3_000]
    with journal_in(tmp_path) as journal:
        found = ask_texts(metered(Scripted(say), journal, 2_000), [prompt(one) for one in texts], RULES, seeds=[0] * 6)
    assert found[0] == found[4] == "good"
    reasons = [one.reason if isinstance(one, Missed) else one for one in found]
    assert reasons == ["good", "cut_off", "empty", "refused", "good", "budget"]


def test_values_are_missed_with_their_reason_and_the_budget_ends_further_attempts(tmp_path: Path) -> None:
    def say(text: str, rules: Sampling, number: int) -> str:
        if "forbidden" in text:
            raise InputError("too long")
        return "prose" if "prose" in text else "1"

    questions = [
        JsonQuestion((Message("user", text),), int) for text in ("fine", "prose", "forbidden", "fine too", "z" * 5_000)
    ]
    with journal_in(tmp_path) as journal:
        sampler = Scripted(say)
        found = ask_values(metered(sampler, journal, 4_000), questions, RULES, schema={}, memory=journal, seeds=[0] * 5)
    assert found[0] == found[3] == 1
    assert [one.reason for one in found if isinstance(one, Missed)] == ["unreadable", "refused", "budget"]
    assert len({text for text in sampler.prompts if "prose" in text}) == 3


def test_a_batch_that_is_refused_whole_is_missed_and_what_concerns_all_is_raised(tmp_path: Path) -> None:
    def refuse(text: str, rules: Sampling, number: int) -> str:
        raise error

    asked, seeds = [prompt("a"), prompt("b")], [0, 0]
    questions = [JsonQuestion(one.messages, parse_json) for one in asked]
    with journal_in(tmp_path) as journal:
        sampler = metered(Scripted(refuse), journal)
        error: Exception = InputError("no such model here")
        assert ask_texts(sampler, asked, RULES, seeds=seeds) == [Missed("refused", "no such model here")] * 2
        found = ask_values(sampler, questions, RULES, schema={}, memory=journal, seeds=seeds)
        assert found == [Missed("refused", "no such model here")] * 2
        for error in (AffectsAll("the key is refused"), RunFailed("it does not answer")):
            with pytest.raises(type(error)):
                ask_several(sampler, asked, RULES, samples=2, seeds=seeds)
            with pytest.raises(type(error)):
                ask_values(sampler, questions, RULES, schema={}, memory=journal, seeds=seeds)
