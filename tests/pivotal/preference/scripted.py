"""Samplers that say what a function says, for the tests of judges, writers and checkers; they remember the prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from megaphi.conversation import Conversation
from megaphi.errors import InputError
from megaphi.generation.decoding.interface import Request, StepOutput, Usage
from megaphi.sampling import Answer, Finish, Prompt, Sampler, Sampling
from megaphi.tokenizer.phi4 import Phi4Tokenizer, load_tokenizer

Say = Callable[[Conversation, int], str]
"""(prompt, number of the sample) -> answer. What it raises, the sampler raises."""


@cache
def tokenizer() -> Phi4Tokenizer:
    """Phi-4's, which takes half a second to load."""
    return load_tokenizer()


class Scripted:
    """Implements `Sampler`."""

    def __init__(self, say: Say, *, name: str = "scripted", takes_schema: bool = True) -> None:
        self.name = name
        self.tokenizer = tokenizer()
        self.say = say
        self.takes_schema = takes_schema
        self.asked: list[Conversation] = []
        self.rules: list[Sampling] = []

    def sample(
        self, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Answer]]:
        if rules.json_schema is not None and not self.takes_schema:
            raise InputError("response_format is not supported")
        self.rules.append(rules)
        return [[self._answer(prompt, number, rules) for number in range(samples)] for prompt in prompts]

    def _answer(self, prompt: Prompt, number: int, rules: Sampling) -> Answer:
        assert isinstance(prompt, Conversation)
        self.asked.append(prompt)
        text = self.say(prompt, number)
        tokens = self.tokenizer.encode(text)
        finish: Finish = "length" if len(tokens) > rules.max_tokens else "stop"
        kept = tokens[: rules.max_tokens]
        return Answer(
            tokens=tuple(kept),
            text=self.tokenizer.decode(kept),
            log_probabilities=(),
            finish=finish,
            prompt_tokens=1,
        )


def opener(**samplers: Sampler) -> Any:
    """`OpenSampler` of samplers by name."""

    @contextmanager
    def opened(name: str, total: int, label: str) -> Iterator[Sampler]:
        yield samplers[name]

    return opened


class ScriptedGenerator:
    """Implements `Generator`: answers prompts, as text, with what a function says, a few tokens in each step."""

    def __init__(self, say: Callable[[str, int], str], *, tokens_per_step: int = 40) -> None:
        self.context, self.vocabulary, self.slots = 16_384, 100_352, 1_000
        self.usage = Usage()
        self.requests = 0
        self._say, self._tokens_per_step = say, tokens_per_step
        self._tokenizer = tokenizer()
        self._open: dict[str, tuple[Request, list[int]]] = {}

    def add(self, request: Request) -> None:
        if len(request.prompt) + request.sampling.max_tokens > self.context:
            raise InputError(f"{len(request.prompt)} tokens of prompt are too many")
        self.requests += 1
        text = self._say(self._tokenizer.decode(request.prompt), request.sample)
        self._open[request.name] = (request, self._tokenizer.encode(text))

    def cancel(self, name: str) -> None:
        self._open.pop(name, None)

    def step(self) -> list[StepOutput]:
        outputs = []
        for name, (request, rest) in list(self._open.items()):
            for _ in range(self._tokens_per_step):
                if not rest:
                    outputs.append(StepOutput(name, finish="stop", stop_token=min(request.stop_tokens)))
                    del self._open[name]
                    break
                outputs.append(StepOutput(name, rest.pop(0), -0.5))
        return outputs

    @property
    def is_idle(self) -> bool:
        return not self._open


def judgement(accuracy: int, style: int = 3, detail: int = 3, faults: Sequence[str] = ()) -> dict[str, Any]:
    return {"faults": list(faults), "accuracy": accuracy, "style": style, "detail": detail}


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
