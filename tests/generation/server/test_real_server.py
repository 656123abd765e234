"""`megaphi serve` and `megaphi chat` on a real model, as a user starts them: two tensor ranks, a client, and the end.

The model is random, so what it says means nothing; that the server says what the engine says is checked token by token.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from megaphi.parallel.launcher import LOST_RANK_CODE
from megaphi.tokenizer.open_tokenizer import open_path
from tests.conversion.random_models import SHAPES, random_folder
from tests.generation.engine_runs import SCHEMA, WITHOUT_BLANKS, prompts_of
from tests.gloo_world import run_in_world
from tests.processes import children_of
from tests.tokenizer.own_tokenizer import write_tokenizer
from tests.warm_megaphi import WarmMegaphi, run_megaphi

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "model"
    random_folder(folder, SHAPES["3 heads per group"], scale=0.4)
    return folder


@contextmanager
def serving(checkpoint: Path, *options: str) -> Iterator[tuple[str, WarmMegaphi]]:
    """The command in a process of its own; gives the address that it tells."""
    own = () if (checkpoint / "tokenizer.json").exists() else ("--tokenizer", "phi4")
    words = ["serve", str(checkpoint), *own, "--port", "0", *options]
    server = WarmMegaphi(words, env=ENVIRONMENT)
    try:
        for line in server.stderr:
            if found := re.search(r"serving at (http://\S+)", line):
                yield found[1], server
                break
        else:
            pytest.fail(f"the server ended with {server.wait(10)}")
    finally:
        server.kill()
        server.wait(10)


def greedy(checkpoint: str, prompts: list[list[int]]) -> list[list[int]]:
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.generate import generate
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.sampling import Sampling

    engine = InferenceEngine(open_model(open_weights(checkpoint)))
    return [found.tokens for (found,) in generate(engine, prompts, Sampling(max_tokens=8))]


def check_scores(checkpoint: Path, prompt: list[int], found: Any) -> None:
    """Against transformers' log-softmax."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        told_SV = model(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
    assert found.token_logprobs[0] is None
    expected = [told_SV[place, token].item() for place, token in enumerate(prompt[1:])]
    assert found.token_logprobs[1 : len(prompt)] == pytest.approx(expected, abs=1e-4)
    assert len(found.token_logprobs) == len(prompt) + 1
    best = told_SV[:-1].max(-1).values.tolist()
    assert [max(top.values()) for top in found.top_logprobs[1 : len(prompt)]] == pytest.approx(best, abs=1e-4)


def test_two_ranks_serve_what_the_engine_says_and_end_when_told(checkpoint: Path) -> None:
    from openai import OpenAI

    prompts = prompts_of(352)[:6]
    (expected,) = run_in_world(greedy, str(checkpoint), prompts, processes=1)
    with serving(checkpoint, "--tensor", "2", "--batch", "3") as (url, server):
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        (model,) = client.models.list().data
        for prompt, tokens in zip(prompts, expected, strict=True):
            body = {"return_token_ids": True}
            answer = client.completions.create(
                model=model.id, prompt=prompt, max_tokens=8, temperature=0, extra_body=body
            )
            found = answer.choices[0].token_ids  # pyright: ignore[reportAttributeAccessIssue]
            assert found == tokens[: len(found)]
            assert len(found) == 8 or answer.choices[0].finish_reason == "stop"
        scored = client.completions.create(
            model=model.id, prompt=prompts[5], max_tokens=1, echo=True, logprobs=3, temperature=0
        )
        check_scores(checkpoint, prompts[5], scored.choices[0].logprobs)
        described = client.chat.completions.create(
            model=model.id,
            messages=[{"role": "user", "content": "a"}],
            max_tokens=24,
            response_format={"type": "json_schema", "json_schema": {"name": "pair", "schema": SCHEMA}},
            logit_bias={str(token): -100 for token, _ in WITHOUT_BLANKS},
        )
        assert list(json.loads(described.choices[0].message.content or "")) == ["a", "b"]
        talk = client.chat.completions.create(
            model=model.id, messages=[{"role": "user", "content": "a"}], max_tokens=5, stream=True
        )
        assert [chunk.choices[0].finish_reason for chunk in talk if chunk.choices][-1] in ("length", "stop")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_two_replicas_answer_alike_behind_one_address_and_end_together(checkpoint: Path) -> None:
    import psutil
    from openai import OpenAI

    with serving(checkpoint, "--replicas", "2", "--batch", "2") as (url, server):
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        fields = {"model": "model", "prompt": [5, 6, 7], "max_tokens": 12, "seed": 3, "n": 12}
        answer = client.completions.create(**fields, temperature=0)
        assert len({choice.text for choice in answer.choices}) == 1
        metrics = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
        for replica in (0, 1):  # what a replica uses comes with the outputs of its steps
            assert float(re.search(rf'cache_blocks{{replica="{replica}"}} (\S+)', metrics)[1]) > 0  # pyright: ignore
        other = psutil.Process(children_of(server.pid)[1])
        other.kill()
        assert server.wait(60) == LOST_RANK_CODE
        assert server.stderr is not None
        assert "rank 1 of 2 was killed by SIGKILL" in server.stderr.read()


def test_chat_reads_lines_and_ends_with_them(checkpoint: Path) -> None:
    began = time.monotonic()
    words = ("chat", checkpoint, "--tokenizer", "phi4", "--max-tokens", 4, "--pipeline", 2)
    talk = run_megaphi(*words, env=ENVIRONMENT, typed="a\n/reset\nb\n")
    assert talk.returncode == 0, talk.stderr
    assert "forgotten" in talk.stderr
    assert talk.stdout.count("\n") >= 2
    assert time.monotonic() - began < 110


def test_layouts_that_do_not_fit_are_one_message(checkpoint: Path) -> None:
    done = run_megaphi("serve", checkpoint, "--tokenizer", "phi4", "--tensor", 3, "--port", 0, env=ENVIRONMENT)
    assert done.returncode == 2
    assert "layout.tensor=3 does not divide model.feed_forward=52" in done.stderr
    assert "Traceback" not in done.stderr


QUESTION = "hello there, how"


@pytest.fixture(scope="module", params=["byte-level", "metaspace"])
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer of its own, as transformers writes both, in the two families that there are."""
    folder = tmp_path_factory.mktemp("imported") / "model"
    random_folder(folder, replace(SHAPES["3 heads per group"], vocabulary=1_000), scale=0.4, eos_token_id=None)
    write_tokenizer(folder, metaspace=request.param == "metaspace", bos=True)
    return folder


def said_by_transformers(folder: Path, tokens: int) -> tuple[str, str]:
    """The greedy continuation of QUESTION, and the greedy answer to it, decoded behind what they continue."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = open_path(str(folder))
    talk = [{"role": "user", "content": QUESTION}]
    said = []
    for prompt in (tokenizer(QUESTION)["input_ids"], tokenizer.apply_chat_template(talk, add_generation_prompt=True)):
        ids = prompt if isinstance(prompt, list) else prompt["input_ids"]
        prompt_1T = torch.tensor([ids])
        seen = torch.ones_like(prompt_1T)  # else transformers hides </s> of the template: it is the padding token too
        rules: Any = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None}
        whole = model.generate(prompt_1T, attention_mask=seen, **rules)[0]
        answer = list(takewhile(lambda token: token not in ours.stop_tokens, whole[len(ids) :].tolist()))
        said.append(ours.decode([*ids, *answer])[len(ours.decode(ids)) :])
    return said[0], said[1]


def test_an_imported_model_speaks_through_its_own_tokenizer(imported: Path) -> None:
    """Every verb: the model's ids before a text and its chat template, and the space before the first word."""
    from openai import OpenAI

    text, answer = said_by_transformers(imported, 12)
    assert text.strip()
    assert answer.strip()
    generated = run_megaphi("generate", imported, "--prompt", QUESTION, "--max-tokens", 12, env=ENVIRONMENT)
    assert (generated.returncode, generated.stdout) == (0, f"{QUESTION}{text}\n"), generated.stderr
    words = ("chat", imported, "--max-tokens", 12, "--temperature", 0)
    talk = run_megaphi(*words, env=ENVIRONMENT, typed=f"{QUESTION}\n")
    assert (talk.returncode, talk.stdout) == (0, f"{answer}\n"), talk.stderr
    with serving(imported) as (url, _):
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        rules: Any = {"model": "model", "max_tokens": 12, "temperature": 0}
        assert client.completions.create(prompt=QUESTION, **rules).choices[0].text == text
        streamed = client.completions.create(prompt=QUESTION, stream=True, **rules)
        assert "".join(chunk.choices[0].text for chunk in streamed) == text
        echoed = client.completions.create(prompt=QUESTION, echo=True, **rules).choices[0].text
        assert echoed.endswith(f"{QUESTION}{text}")
        messages: Any = [{"role": "user", "content": QUESTION}]
        assert client.chat.completions.create(messages=messages, **rules).choices[0].message.content == answer
