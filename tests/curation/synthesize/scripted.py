"""Samplers that say what a function says; a token is a byte, or several. And seed documents, and a step's context."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megaphi.conversation import Conversation
from megaphi.curation.document import Document
from megaphi.curation.step import StepContext
from megaphi.errors import InputError
from megaphi.sampling import Answer, Finish, Prompt, Sampling

Say = Callable[[str, Sampling, int], str]
"""(text of the prompt, rules, number of the sample) -> answer. What it raises, the sampler raises."""


class Scripted:
    """Implements `Sampler`, without a journal of its own."""

    def __init__(self, say: Say, *, name: str = "scripted", takes_schema: bool = True, token_bytes: int = 1) -> None:
        self.name, self.say, self.takes_schema, self.token_bytes = name, say, takes_schema, token_bytes
        self.prompts: list[str] = []
        """One for every answer that was given."""
        self.seeds: list[int] = []
        self.tokens = 0
        """Prompts and answers, a prompt once for all its answers."""

    def sample(
        self, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Answer]]:
        if rules.json_schema is not None and not self.takes_schema:
            raise InputError("response_format is not supported")
        self.seeds += seeds or []
        return [self._answers(prompt, rules, samples) for prompt in prompts]

    def _answers(self, prompt: Prompt, rules: Sampling, samples: int) -> list[Answer]:
        assert isinstance(prompt, Conversation)
        text = prompt.messages[-1].content
        found = [self._answer(text, rules, number) for number in range(samples)]
        self.tokens += found[0].prompt_tokens + sum(len(answer.tokens) for answer in found)
        return found

    def _answer(self, text: str, rules: Sampling, number: int) -> Answer:
        said = self.say(text, rules, number).encode()
        self.prompts.append(text)
        most = rules.max_tokens * self.token_bytes
        finish: Finish = "length" if len(said) > most else "stop"
        kept = said[:most]
        return Answer(
            tokens=tuple(kept[:: self.token_bytes]),
            text=kept.decode(errors="replace"),
            log_probabilities=(),
            finish=finish,
            prompt_tokens=len(text.encode()),
        )


def wants(rules: Sampling) -> tuple[str, ...]:
    """Fields of the JSON that is asked for; those of the items of a list behind its name. Empty for a text."""
    if rules.json_schema is None:
        return ()
    properties = json.loads(rules.json_schema)["properties"]
    found = tuple(properties)
    if len(found) == 1:
        found += tuple(properties[found[0]]["items"].get("properties", ()))
    return found


def context(folder: Path, **samplers: Any) -> StepContext:
    return StepContext(folder=folder, open_sampler=lambda place: samplers[place])


def seed(text: str, *, name: str = "page", **metadata: Any) -> Document:
    return Document(id=name, source=f"https://example.org/{name}", place="pages.jsonl:1", text=text, metadata=metadata)


def code_seed(text: str, **metadata: Any) -> Document:
    return Document(id="code", source="pool/code.py", place="pool/code.py", text=text, metadata=metadata)
