"""Responses through any sampler: repeats, refused prompts, independent draws, what a journal replays, and a judge."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from megaphi.conversation import Conversation, Message
from megaphi.errors import AffectsAll, CannotWrite, InputError, RunFailed
from megaphi.evaluation.asking.responses import SamplerJudge, responses_of, seed_of
from megaphi.evaluation.task import Asked, Choose, Continue, Item, TaskResponse
from megaphi.generation.client.endpoint import EndpointSampler
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.generation.local_sampler import LocalSampler
from megaphi.sampling import Answer, Prompt, Sampling
from tests.generation.server.fake_generator import FakeGenerator
from tests.generation.server.served import served
from tests.generation.server.served import tokenizer as served_tokenizer
from tests.pivotal.preference.scripted import Scripted, ScriptedGenerator, tokenizer

DRAWN = Sampling(max_tokens=20, temperature=0.5)


def said(text: str) -> Conversation:
    return Conversation((Message("user", text),))


def item(name: str) -> Item:
    return Item(name=name, question=name, gold="1", key="1")


ITEMS = [item(f"q{number}") for number in range(6)]


def ask(number: int, **settings: Any) -> Continue:
    return Continue(**{"prompt": said(f"prompt {number}"), "rules": DRAWN, "repeats": 2, **settings})


class Noting(Scripted):
    """Notes the seeds too."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.seeds: list[int] = []

    def sample(
        self, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Answer]]:
        self.seeds += list(seeds or [])
        return super().sample(prompts, rules, samples=samples)


def last(prompt: Conversation) -> str:
    return prompt.messages[-1].content


def texts(responses: Sequence[TaskResponse]) -> list[tuple[str, int, str]]:
    return [(one.item.name, one.repeat, one.text) for one in responses]


def test_repeats_are_samples_or_prompts_of_their_own_and_rules_are_one_call_each() -> None:
    sampler = Noting(lambda prompt, sample: f"{last(prompt)}/{sample}")
    orders = tuple(said(f"order {number}") for number in range(3))
    asked: list[Asked] = [
        ask(0),
        ask(1, rules=Sampling(max_tokens=9), repeats=1),
        ask(2, prompts=orders, prompt=orders[0]),
        ask(3),
    ]
    found = responses_of(ITEMS[:4], asked, sampler, seed=3)
    assert texts(found) == [
        ("q0", 0, "prompt 0/0"),
        ("q0", 1, "prompt 0/1"),
        ("q1", 0, "prompt 1/0"),
        *(("q2", number, f"order {number}/0") for number in range(3)),
        ("q3", 0, "prompt 3/0"),
        ("q3", 1, "prompt 3/1"),
    ]
    assert len(sampler.rules) == 3


def test_drawn_answers_of_different_items_and_repeats_use_different_random_numbers() -> None:
    sampler = Noting(lambda *_: "x")
    same = said("same")
    asked: list[Asked] = [ask(0, prompt=same, prompts=(same, same)) for _ in ITEMS]
    responses_of(ITEMS, asked, sampler, seed=3)
    assert len(set(sampler.seeds)) == 12
    again = Noting(lambda *_: "x")
    responses_of(ITEMS[4:], asked[4:], again, seed=3)
    assert again.seeds == sampler.seeds[8:]  # whatever else is asked
    greedy = Noting(lambda *_: "x")
    for seed in (3, 4):
        responses_of(ITEMS, [ask(0, rules=Sampling()) for _ in ITEMS], greedy, seed=seed)
    assert set(greedy.seeds) == {0}  # so that a journal replays greedy answers whatever the seed
    assert seed_of(DRAWN, "\ud800") >= 0


def test_a_refused_prompt_is_counted_with_its_reason_also_if_all_are() -> None:
    def say(prompt: Conversation, _: int) -> str:
        if int(last(prompt).split()[1]) % 2:
            raise InputError("it does not fit")
        return ""

    found = responses_of(ITEMS, [ask(number) for number in range(6)], Scripted(say), seed=0)
    assert [bool(one.refused) for one in found] == [bool(number // 2 % 2) for number in range(12)]
    assert {one.refused for one in found} == {"", "it does not fit"}
    odd = responses_of(ITEMS[:2], [ask(1), ask(3)], Scripted(say), seed=0)
    assert [one.refused for one in odd] == ["it does not fit"] * 4


@pytest.mark.parametrize("error", [RunFailed("given up"), AffectsAll("status 401"), CannotWrite("no space left")])
def test_what_is_no_fault_of_a_prompt_ends_the_run(error: Exception) -> None:
    """Also where only some prompts meet it: the others were answered by the journal."""

    def say(prompt: Conversation, _: int) -> str:
        if last(prompt) == "prompt 3":
            raise error
        return "x"

    with pytest.raises(type(error), match=str(error)):
        responses_of(ITEMS, [ask(number) for number in range(6)], Scripted(say), seed=0)


def test_a_full_disk_under_the_journal_is_no_refused_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(handle: int, content: bytes) -> int:
        if journal_size(tmp_path) > 300:
            raise OSError(errno.ENOSPC, "full")
        return write(handle, content)

    generator = ScriptedGenerator(lambda *_: "7")
    with (
        RequestJournal(tmp_path / "journal.jsonl") as journal,
        LocalSampler([generator], tokenizer(), name="m", identity="m", journal=journal) as sampler,
    ):
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(CannotWrite, match="no space left"):
            responses_of(ITEMS, [ask(number) for number in range(6)], sampler, seed=0)
        assert len(journal) > 0
        monkeypatch.undo()
    before = generator.requests
    assert before > 0
    with (
        RequestJournal(tmp_path / "journal.jsonl") as journal,
        LocalSampler([generator], tokenizer(), name="m", identity="m", journal=journal) as sampler,
    ):
        found = responses_of(ITEMS, [ask(number) for number in range(6)], sampler, seed=0)
        assert {one.text for one in found} == {"7"}


def journal_size(folder: Path) -> int:
    return (folder / "journal.jsonl").stat().st_size


def test_a_servers_answers_come_from_the_journal_of_the_same_seed(tmp_path: Path) -> None:
    generator = FakeGenerator()
    asked = [Continue(prompt=f"text {number}", rules=DRAWN, repeats=2) for number in range(6)]
    with served(generator) as (url, _):

        def found(seed: int) -> list[tuple[str, int, str]]:
            with RequestJournal(tmp_path / "journal.jsonl") as journal:
                sampler = EndpointSampler(f"{url}/v1", "tiny", tokenizer=served_tokenizer(), journal=journal)
                return texts(responses_of(ITEMS, asked, sampler, seed=seed))

        first = found(1)
        size = journal_size(tmp_path)
        assert found(1) == first
        assert journal_size(tmp_path) == size
        found(2)
        assert journal_size(tmp_path) > size


def test_a_refused_key_is_no_text_that_cannot_be_scored() -> None:
    asked = [Choose(context="a", continuations=(" b", " c")) for _ in ITEMS]
    with served(FakeGenerator(), api_key="s3cret") as (url, _):
        sampler = EndpointSampler(f"{url}/v1", "tiny", tokenizer=served_tokenizer())
        with pytest.raises(AffectsAll, match="status 401"):
            responses_of(ITEMS, asked, sampler, seed=0)


def test_a_judge_draws_a_prompt_that_comes_twice_twice_and_what_it_cannot_say_is_none() -> None:
    def say(prompt: Conversation, _: int) -> str:
        if "refuse" in last(prompt):
            raise InputError(f"{last(prompt)} does not fit")
        return "word " * 60 if "cut" in last(prompt) else "yes"

    sampler = Noting(say)
    judge = SamplerJudge(sampler)
    prompts = [said(text) for text in ("equal", "cut", "equal", "refuse", "other")]
    assert judge.answers(prompts, DRAWN) == ["yes", None, "yes", None, "yes"]
    drawn = Noting(say)
    SamplerJudge(drawn).answers([said("equal"), said("equal")], DRAWN)
    assert len(set(drawn.seeds)) == 2
    greedy = Noting(say)
    SamplerJudge(greedy).answers([said("equal"), said("equal")], Sampling(seed=8))
    assert greedy.seeds == [8, 8]
    with pytest.raises(InputError, match="does not fit"):
        judge.answers([said("refuse")] * 3, DRAWN)
