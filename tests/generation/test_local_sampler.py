"""Our own engine as a sampler: three kinds of prompts, stop texts, many samples, one process and two replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megaphi.conversation import Conversation, Message
from megaphi.parallel.layout import ParallelLayout
from megaphi.sampling import Answer, Sampling
from tests.conversion.random_models import SHAPES, random_folder
from tests.gloo_world import run_in_world

RULES = Sampling(max_tokens=14, temperature=1.2, seed=3, alternatives=2)
PROMPTS = (Conversation((Message("user", "a"),)), "some text", [5, 6, 7, 8])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "model"
    random_folder(folder, SHAPES["3 heads per group"], scale=0.4)
    return folder


def sample(checkpoint: str, layout: ParallelLayout) -> dict[str, Any]:
    """Samples of every prompt; then again with a text of the first answer to stop at."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.local_sampler import LocalSampler
    from megaphi.tokenizer.phi4 import load_tokenizer

    ended: list[int] = []
    engine, tokenizer = InferenceEngine(open_model(open_weights(checkpoint), layout), slots=4), load_tokenizer(352)
    sampler = LocalSampler(engine, tokenizer, name="tiny", on_end=lambda: ended.append(1))
    found = sampler.sample(PROMPTS, RULES, samples=3)
    stop = found[1][0].text[2:4]
    stopped = sampler.sample(PROMPTS[1:2], Sampling(max_tokens=14, temperature=1.2, seed=3, stop=(stop,)))
    decoded = [[tokenizer.decode(answer.tokens) for answer in answers] for answers in found]
    return {"found": found, "decoded": decoded, "stop": stop, "stopped": stopped[0][0], "ended": len(ended)}


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


def test_two_replicas_share_the_work_and_know_everything(checkpoint: Path, alone: dict[str, Any]) -> None:
    for found in run_in_world(sample, str(checkpoint), ParallelLayout(data=2), processes=2):
        for ours, theirs in zip(found["found"], alone["found"], strict=True):
            assert [answer.tokens for answer in ours] == [answer.tokens for answer in theirs]
        assert found["stopped"].text == alone["stopped"].text
        assert found["ended"] in (4, 6)  # of ten
