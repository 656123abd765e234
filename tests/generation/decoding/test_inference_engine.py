"""The engine of generation in every layout, against forward passes over whole texts without a cache.

Ragged prompts, beginnings in common, a cache too small for all of them, sampling with seeds, penalties, scores: tokens
must be the same whoever else is in the batch and however the model is cut, numbers equal up to rounding. Two pipeline
stages do not divide the three layers: the first takes two.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from megaphi.errors import InputError
from megaphi.generation.decoding.interface import Request
from megaphi.parallel.layout import ParallelLayout
from megaphi.sampling import Sampling
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.conversion.random_models import SHAPES, random_folder
from tests.generation.engine_runs import GREEDY, RULES, SCORED, continuations, without_cache
from tests.generation.server.replica_runs import through_replicas
from tests.gloo_world import run_in_world

LAYOUTS = {
    "1": ParallelLayout(),
    "TP2": ParallelLayout(tensor=2),
    "PP2": ParallelLayout(pipeline=2),
    "DP2": ParallelLayout(data=2),
    "TP2xPP2": ParallelLayout(tensor=2, pipeline=2),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generation") / "model"
    random_folder(folder, replace(SHAPES["3 heads per group"], layers=3), scale=0.6)
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> dict[str, Any]:
    (found,) = run_in_world(without_cache, str(checkpoint), processes=1)
    return found


def test_answers_that_must_be_json_are(expected: dict[str, Any]) -> None:
    """`expected` is what every layout says; a random model, of which nothing but the grammar makes JSON."""
    answers = [json.loads(load_tokenizer(352).decode(answer["tokens"])) for answer in expected["json"]]
    assert len({json.dumps(answer) for answer in answers}) > 1
    for answer in answers:
        assert list(answer) == ["a", "b"]
        assert type(answer["a"]) is int
        assert 0 <= answer["a"] <= 99
        assert answer["b"] in (True, None)
    assert {answer["finish"] for answer in expected["json"]} == {"stop"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_says_what_a_model_without_cache_says(
    checkpoint: Path, expected: dict[str, Any], name: str
) -> None:
    layout = LAYOUTS[name]
    processes = layout.model_ranks * (layout.data or 1)
    tops = [top for top, _ in expected["forced"]]
    ranks = run_in_world(continuations, str(checkpoint), layout, tops, processes=processes)
    assert len({found["cache blocks"] for found in ranks}) == 1  # their schedulers decide alike
    for found in ranks:
        for kind in (*RULES, "json"):
            for ours, theirs in zip(found[kind], expected[kind], strict=True):
                assert_same(ours, theirs)
        for ours, theirs in zip(found["fixed"], expected["sampled"], strict=True):
            assert_same(ours, theirs)
        for ours, theirs in zip(found["sampled, small cache"], expected["sampled"], strict=True):
            assert_same(ours, theirs)
        for ours, theirs in zip(found["samples"], expected["samples"], strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert_same(one, other)
        assert len({tuple(item["tokens"]) for item in found["samples"][0]}) > 4
        assert found["reused"] >= (6 if name == "DP2" else 14) * 32
        assert found["stopped"]["finish"] == "stop"
        assert found["stopped"]["tokens"] == expected["greedy"][0]["tokens"][:5]
        for ours, theirs in zip(found["scores"], expected["scores"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        for kind in SCORED:
            for ours, theirs in zip(found[f"{kind}, sampled"], expected[f"{kind}, sampled"], strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
        for answers, (_, firsts) in zip(found["forced"], expected["forced"], strict=True):
            assert [answer["tokens"][0] if answer["tokens"] else None for answer in answers] == firsts
            assert {answer["finish"] for answer in answers} <= {"length" if firsts[0] is not None else "excluded"}
        assert_drafts_change_nothing(*found["families"], expected)


def assert_drafts_change_nothing(drafted: dict[str, Any], free: dict[str, Any], expected: dict[str, Any]) -> None:
    """Answers with and without drafts, of which at least a third are right, and those of a model without cache."""
    assert drafted["drafted"] > drafted["accepted"] > 0.33 * drafted["drafted"] > 15
    assert free["drafted"] == 0
    for name, answer in drafted["answers"].items():
        kind, place, _ = name.split()
        assert answer["tokens"] == free["answers"][name]["tokens"] == expected[kind][int(place)]["tokens"]
        assert answer["finish"] == free["answers"][name]["finish"]
        alone = free["answers"][name]["log_probabilities"]
        # Passes of other lengths round their products otherwise: numbers around 10, in fp32.
        np.testing.assert_allclose(answer["log_probabilities"], alone, rtol=1e-5, atol=1e-5)


def test_forced_answers_and_probabilities_are_of_many_kinds(expected: dict[str, Any]) -> None:
    """The values that layouts are compared with: some answers have no token, some tokens are left out by the rules."""
    firsts = [first for _, firsts in expected["forced"] for first in firsts]
    assert None in firsts
    assert len(set(firsts)) > 10
    for kind in SCORED:
        probabilities = [value for text in expected[f"{kind}, sampled"] for value in text]
        assert 0 in probabilities
        assert max(probabilities) > 0.01
    assert expected["greedy, sampled"][-1] == [1.0] * GREEDY.max_tokens


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["tokens"] == theirs["tokens"]
    assert ours["finish"] == theirs["finish"]
    np.testing.assert_allclose(ours["log_probabilities"], theirs["log_probabilities"], rtol=1e-4, atol=1e-4)
    for one, other in zip(ours["alternatives"], theirs["alternatives"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [ParallelLayout(data=2), ParallelLayout(tensor=2, data=2)], ids=str)
def test_replicas_behind_one_service_say_the_same(
    checkpoint: Path, expected: dict[str, Any], layout: ParallelLayout
) -> None:
    found, *others = run_in_world(through_replicas, str(checkpoint), layout, processes=layout.world_size)
    assert others == [None] * (layout.world_size - 1)
    for kind in ("greedy", "sampled"):
        assert found[kind] == [answer["tokens"] for answer in expected[kind]]
    assert len({usage.cache_blocks for usage in found["usages"]}) == 1
    assert found["usages"][0].cache_blocks > 0
    assert all(usage.preemptions for usage in found["usages"])


def open_without_drawing(checkpoint: str) -> None:
    """Fail if initial weights are drawn for a model whose weights are all loaded: minutes of a rank, of 14 billion."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model

    drawn = AssertionError("initial weights were drawn")
    with mock.patch("megaphi.model.initialize._draw", side_effect=drawn):
        open_model(open_weights(checkpoint))


def test_no_weights_are_drawn_that_are_loaded(checkpoint: Path) -> None:
    run_in_world(open_without_drawing, str(checkpoint), processes=1)


def refusals(checkpoint: str) -> list[str]:
    """Messages of the engine for requests that can never run."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.inference_engine import InferenceEngine

    engine = InferenceEngine(open_model(open_weights(checkpoint)), slots=2, cache_bytes=33_000)
    ten = Sampling(max_tokens=10)
    requests = [
        Request(name="a", prompt=()),
        Request(name="a", prompt=(352,)),
        Request(name="a", prompt=(-1,)),
        Request(name="a", prompt=(1,) * 60, sampling=ten),
        Request(name="a", prompt=(1,) * 45, sampling=ten),
        Request(name="a", prompt=(1, 2), scored=2),
        Request(name="a", prompt=(1,), sampling=Sampling(top_p=2.0)),
        Request(name="a", prompt=(1,), excluded_first=frozenset({352})),
        Request(name="a", prompt=(1, 2), scored=1, excluded_first=frozenset({5})),
    ]
    messages = [refusal(engine, request) for request in requests]
    assert engine.is_idle
    engine.add(Request(name="b", prompt=(1,), sampling=ten))
    messages.append(refusal(engine, Request(name="b", prompt=(1,))))
    engine.cancel("b")
    engine.cancel("nobody")
    assert [(output.name, output.finish) for output in engine.step()] == [("b", "cancelled")]
    assert engine.is_idle
    engine.add(Request(name="b", prompt=(1,), sampling=ten))
    return messages


def refusal(engine: Any, request: Request) -> str:
    with pytest.raises(InputError) as caught:
        engine.add(request)
    return str(caught.value)


def test_requests_that_can_never_run_are_refused(checkpoint: Path) -> None:
    (messages,) = run_in_world(refusals, str(checkpoint), processes=1)
    wanted = (
        "the prompt is empty",
        "outside the model's vocabulary of 352",
        "outside the model's vocabulary of 352",
        "60 tokens of prompt and 10 to add exceed the model's context of 64",
        "do not fit into a cache of 48 tokens",
        "2 of 2 tokens cannot be scored",
        "top_p=2.0",
        "excluded_first names token id 352",
        "excluded_first is for answers",
        "'b' is running already",
    )
    for message, part in zip(messages, wanted, strict=True):
        assert part in message
