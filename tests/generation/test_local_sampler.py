"""Our own engine as a sampler: three kinds of prompts, stop texts, many samples; in a job only rank 0 samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megaphi.conversation import Conversation, Message
from megaphi.errors import InputError, RunFailed
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.generation.decoding.interface import Request
from megaphi.generation.local_sampler import LocalSampler
from megaphi.parallel.layout import ParallelLayout
from megaphi.sampling import Answer, Sampling
from tests.conversion.random_models import SHAPES, random_folder
from tests.generation.server.fake_generator import FakeGenerator, expected_tokens
from tests.generation.server.served import tokenizer
from tests.gloo_world import run_in_world

RULES = Sampling(max_tokens=14, temperature=1.2, seed=3, alternatives=2)
PROMPTS = (Conversation((Message("user", "a"),)), "some text", [5, 6, 7, 8])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "model"
    random_folder(folder, SHAPES["3 heads per group"], scale=0.4)
    return folder


def sample(checkpoint: str, layout: ParallelLayout) -> dict[str, Any] | None:
    """On rank 0: samples of every prompt; then again with a text of the first answer to stop at; then requests."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.driver import drive, follow
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.tokenizer.phi4 import load_tokenizer

    engine, tokenizer = InferenceEngine(open_model(open_weights(checkpoint), layout), slots=4), load_tokenizer(352)
    if not engine.model.world.is_main:
        return follow(engine)
    generators: list[Any] = drive(engine)
    ended: list[int] = []
    with LocalSampler(generators, tokenizer, name="tiny", at_once=3, on_end=lambda: ended.append(1)) as sampler:
        found = sampler.sample(PROMPTS, RULES, samples=3)
        stop = found[1][0].text[2:4]
        stopped = sampler.sample(PROMPTS[1:2], Sampling(max_tokens=14, temperature=1.2, seed=3, stop=(stop,)))
        completed = dict(sampler.complete(requests()))
    for generator in generators:
        if hasattr(generator, "close"):
            generator.close()
    decoded = [[tokenizer.decode(answer.tokens) for answer in answers] for answers in found]
    return {
        "found": found,
        "decoded": decoded,
        "stop": stop,
        "stopped": stopped[0][0],
        "ended": len(ended),
        "completed": completed,
    }


def requests() -> Iterator[Request]:
    """More than are open at a time: some that generate, some that score."""
    for number in range(12):
        prompt = (5, 6, 7, number)
        yield Request(name=f"new {number}", prompt=prompt, sampling=RULES, sample=number)
        yield Request(name=f"score {number}", prompt=prompt, scored=2)


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> dict[str, Any]:
    return run_in_world(sample, str(checkpoint), ParallelLayout(), processes=1)[0]


def test_answers_are_whole(alone: dict[str, Any]) -> None:
    assert [len(answers) for answers in alone["found"]] == [3, 3, 3]
    assert alone["ended"] == 10
    for answers, texts, prompt_tokens in zip(alone["found"], alone["decoded"], (None, None, 4), strict=True):
        assert len({answer.tokens for answer in answers}) == 3
        for answer, text in zip(answers, texts, strict=True):
            assert isinstance(answer, Answer)
            assert answer.text == text
            assert len(answer.tokens) == len(answer.log_probabilities) == len(answer.alternatives) <= 14
            assert answer.finish == ("length" if len(answer.tokens) == 14 else "stop")
            assert prompt_tokens in (None, answer.prompt_tokens)
            assert all(len(listed) == 2 for listed in answer.alternatives)


def test_a_stop_text_ends_an_answer_and_is_not_in_it(alone: dict[str, Any]) -> None:
    whole, stopped, stop = alone["found"][1][0], alone["stopped"], alone["stop"]
    assert stopped.finish == "stop"
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.tokens == whole.tokens[: len(stopped.tokens)]
    assert len(stopped.tokens) < len(whole.tokens)


def test_requests_in_tokens_are_completed_one_by_one(alone: dict[str, Any]) -> None:
    completed = alone["completed"]
    assert sorted(completed) == sorted(request.name for request in requests())
    for name, completion in completed.items():
        if name.startswith("score"):
            assert (completion.tokens, len(completion.scores)) == ([], 2)
        else:
            assert len(completion.tokens) == len(completion.log_probabilities) == 14
            assert completion.finish == "length"


@pytest.mark.parametrize(
    "layout", [ParallelLayout(data=2), ParallelLayout(pipeline=2, stage_layers=(1, 3))], ids=["DP2", "PP2"]
)
def test_the_other_ranks_only_follow(checkpoint: Path, alone: dict[str, Any], layout: ParallelLayout) -> None:
    found, nothing = run_in_world(sample, str(checkpoint), layout, processes=2)
    assert nothing is None
    for ours, theirs in zip(found["found"], alone["found"], strict=True):
        assert [answer.tokens for answer in ours] == [answer.tokens for answer in theirs]
    assert found["stopped"].text == alone["stopped"].text
    assert found["ended"] == 10
    for name, completion in alone["completed"].items():
        assert found["completed"][name].tokens == completion.tokens


def local(*generators: FakeGenerator, **settings: Any) -> LocalSampler:
    return LocalSampler(generators, tokenizer(), name="fake", **settings)


def test_steps_of_several_tokens_change_no_answer() -> None:
    """As drafts make them; a stop text in the middle of a step, and an end behind it in the same step."""
    alphabet = tokenizer().encode(" one two three four five")
    found: list[Any] = []
    for tokens_per_step in (1, 5, 40):
        ended: list[int] = []
        generator = FakeGenerator(alphabet=alphabet, tokens_per_step=tokens_per_step)
        with local(generator, on_end=lambda ended=ended: ended.append(1)) as sampler:
            for stop in ((), ("three",)):
                rules = Sampling(max_tokens=30, temperature=1.0, seed=4, stop=stop)
                answers = [answer for some in sampler.sample(["count", "again"], rules, samples=4) for answer in some]
                assert not stop or any(answer.finish == "stop" for answer in answers)
                found.append([(answer.text, answer.tokens, answer.finish) for answer in answers])
        assert len(ended) == 16
    assert found[:2] == found[2:4] == found[4:]


class Open(FakeGenerator):
    """Remembers how many requests it had at a time."""

    most = 0

    def step(self) -> Any:
        self.most = max(self.most, len(self.waiting) + len(self.running))
        return super().step()


def test_every_replica_works_and_few_requests_are_open() -> None:
    replicas = [Open(slots=2), Open(slots=2), Open(slots=2)]
    prompts = [[5 + number % 9] * (1 + number) for number in range(60)]
    with local(*replicas, at_once=4) as sampler:
        found = sampler.sample(prompts, RULES, samples=2)
    for prompt, answers in zip(prompts, found, strict=True):
        for number, answer in enumerate(answers):
            assert answer.tokens == tuple(expected_tokens(prompt, RULES, sample=number))
    assert [replica.most for replica in replicas] == [2, 2, 2]
    assert all(replica.steps > 100 for replica in replicas)


def test_a_second_run_generates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    def asked(generator: FakeGenerator, rules: Sampling = RULES, identity: str = "w1") -> Any:
        with RequestJournal(path) as journal, local(generator, journal=journal, identity=identity) as sampler:
            return sampler.sample(PROMPTS, rules, samples=2)

    first = asked(FakeGenerator())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # killed
    again, third = FakeGenerator(), FakeGenerator()
    assert asked(again) == first
    assert again.steps > 0
    assert asked(third) == first
    assert third.steps == 0
    for rules, identity in ((replace(RULES, seed=4), "w1"), (RULES, "w2")):
        other = FakeGenerator()
        asked(other, rules, identity)
        assert other.steps > 0, identity


def test_bad_requests_and_failures_are_one_error_and_the_next_call_works() -> None:
    generator = FakeGenerator(context=40)
    with local(generator) as sampler:
        with pytest.raises(InputError, match="tokens of prompt"):
            sampler.sample([[5], [5] * 60, [6]], RULES)
        assert len(sampler.sample([[5]], RULES)[0]) == 1
        requests_left = sampler.complete(requests())
        next(requests_left)
        requests_left.close()
        assert len(sampler.sample([[5]], RULES)[0]) == 1
        assert generator.is_idle
        generator.explode = True
        with pytest.raises(RunFailed, match="out of memory"):
            sampler.sample([[5]], RULES)
