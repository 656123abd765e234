"""Strict JSON from a sampler: asked again with the reason, refused prompts found, schemas where they are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megaphi.conversation import Conversation, Message
from megaphi.errors import InputError, RunFailed
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.judging.asking import JsonQuestion, Unanswered, ask_json, sample_each
from megaphi.pivotal.preference.judging import JUDGEMENT, Judgement, read_comparison, read_judgement
from megaphi.sampling import Sampling
from tests.pivotal.preference.scripted import Scripted, as_json, judgement

RULES = Sampling(max_tokens=60)
GOOD = as_json(judgement(4, faults=["short"]))


def asked(text: str) -> JsonQuestion[Judgement]:
    return JsonQuestion((Message("system", "judge"), Message("user", text)), read_judgement)


def ask(sampler: Scripted, *texts: str, **settings: Any) -> list[Any]:
    return ask_json(sampler, [asked(text) for text in texts], RULES, schema=JUDGEMENT, **settings)


def test_what_cannot_be_read_is_asked_again_with_the_reason_and_nothing_else_is() -> None:
    def say(prompt: Conversation, _: int) -> str:
        text = prompt.messages[-1].content
        return "Here you are: a fine answer." if text.startswith("odd") and "Attempt" not in text else GOOD

    sampler = Scripted(say)
    assert [found.accuracy for found in ask(sampler, "a", "odd 1", "b", "odd 2")] == [4, 4, 4, 4]
    again = [prompt.messages[-1].content for prompt in sampler.asked if "Attempt" in prompt.messages[-1].content]
    assert len(again) == 2
    assert all("Attempt 2 of 3: your last answer was refused. Reason: it is not JSON" in text for text in again)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prose", "not JSON"),
        (f"```json\n{GOOD}\n```", "not JSON"),
        (f"{GOOD} {GOOD}", "not JSON"),
        ("[1]", "not a JSON object"),
        (as_json({"accuracy": 3, "style": 3, "detail": 3}), "'faults' is missing"),
        (as_json(judgement(3) | {"verdict": "OBEY"}), "more fields"),
        (as_json(judgement(6)), "'accuracy' must be a whole number from 1 to 5"),
        (as_json(judgement(3, style=0)), "'style'"),
        ('{"faults": [], "accuracy": 4.0, "style": 3, "detail": 3}', "'accuracy'"),
        ('{"faults": [], "accuracy": true, "style": 3, "detail": 3}', "'accuracy'"),
        ('{"faults": [], "accuracy": "5", "style": 3, "detail": 3}', "'accuracy'"),
        ('{"faults": [], "accuracy": NaN, "style": 3, "detail": 3}', "not JSON"),
        ('{"faults": "none", "accuracy": 4, "style": 3, "detail": 3}', "'faults' must be a list of texts"),
        ('{"faults": [1], "accuracy": 4, "style": 3, "detail": 3}', "'faults' must be a list of texts"),
        (as_json(judgement(3, faults=["x"] * 51)), "cut off at 60 tokens"),
        ("", "not JSON"),
    ],
)
def test_an_answer_that_is_never_right_ends_with_its_reason(text: str, reason: str) -> None:
    sampler = Scripted(lambda *_: text)
    (found,) = ask(sampler, "a", attempts=2)
    assert isinstance(found, Unanswered)
    assert reason in found.reason
    assert len(sampler.asked) == 3  # the first is the trial of the schema
    assert "OBEY" not in sampler.asked[-1].messages[-1].content


def test_a_comparison_names_the_side() -> None:
    assert [one.accuracy for one in read_comparison({"first": judgement(1), "second": judgement(2)})] == [1, 2]
    with pytest.raises(InputError, match="second: 'accuracy' must"):
        read_comparison({"first": judgement(1), "second": judgement(9)})


def test_a_schema_is_used_where_it_is_taken_and_the_answer_to_that_is_remembered(tmp_path: Path) -> None:
    for takes in (True, False):
        with RequestJournal(tmp_path / f"{takes}.jsonl") as memory:
            first = Scripted(lambda *_: GOOD, takes_schema=takes)
            assert [found.accuracy for found in ask(first, "a", "b", memory=memory)] == [4, 4]
            assert (first.rules[-1].json_schema is not None) == takes
            second = Scripted(lambda *_: GOOD, takes_schema=takes)
            ask(second, "a", "b", memory=memory)
            assert len(second.asked) == 2


def too_long(prompt: Conversation, _: int) -> str:
    text = prompt.messages[-1].content
    if "long" in text:
        raise InputError(f"{text} exceeds the context")
    return GOOD


def test_prompts_that_are_refused_do_not_cost_the_others() -> None:
    texts = [f"long {n}" if n in (0, 3, 4, 9) else f"fine {n}" for n in range(10)]
    found = ask(Scripted(too_long), *texts)
    for text, one in zip(texts, found, strict=True):
        if "long" in text:
            assert isinstance(one, Unanswered)
            assert f"the sampler refuses it: {text} exceeds" in one.reason
        else:
            assert one.accuracy == 4
    each = sample_each(Scripted(too_long), [Conversation((Message("user", text),)) for text in texts], RULES, samples=2)
    assert [isinstance(one, InputError) for one in each] == ["long" in text for text in texts]


def test_a_sampler_that_refuses_everything_or_fails_ends_the_call() -> None:
    def no_model(*_: Any) -> str:
        raise InputError("status 404: there is no model 'x'")

    def gone(*_: Any) -> str:
        raise RunFailed("given up after 6 attempts: TimeoutError")

    refusing = Scripted(no_model)
    with pytest.raises(InputError, match="no model"):
        ask(refusing, *map(str, range(100)))
    prompts = [Conversation((Message("user", str(number)),)) for number in range(100)]
    with pytest.raises(InputError, match="no model"):
        sample_each(refusing, prompts, RULES)
    with pytest.raises(RunFailed, match="given up"):
        ask(Scripted(gone), "a", "b")
    assert ask(Scripted(gone)) == []
