"""Responses of one or several samplers to each prompt, and which of them can be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from megaphi.errors import InputError
from megaphi.judging.asking import sample_each
from megaphi.pivotal.preference.prompts import AskedPrompt
from megaphi.pivotal.preference.record_files import MissingItems
from megaphi.sampling import Sampler, Sampling

OpenSampler = Callable[[str, int, str], AbstractContextManager[Sampler]]
"""(name on the command line, answers to come, label of its progress bar) -> the sampler, while it is needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """One answer of one sampler."""

    name: str
    """Prompt, sampler and number, for records."""
    prompt: int
    """Index of the prompt."""
    model: str
    text: str
    tokens: int
    is_whole: bool
    """It ended by itself, and not at the limit of tokens."""


def sample_responses(
    open_sampler: OpenSampler,
    models: Sequence[str],
    prompts: Sequence[AskedPrompt],
    rules: Sampling,
    *,
    samples: int,
    left_out: MissingItems,
) -> list[list[Response]]:
    """`samples` responses of every model to every prompt, by prompt; a refused prompt is left out and named."""
    found: list[list[Response]] = [[] for _ in prompts]
    conversations = [prompt.conversation for prompt in prompts]
    for number, model in enumerate(models):
        with open_sampler(model, samples * len(prompts), "responses") as sampler:
            answered = sample_each(sampler, conversations, rules, samples=samples)
        for place, (prompt, answers) in enumerate(zip(prompts, answered, strict=True)):
            if isinstance(answers, InputError):
                left_out.add("the sampler refuses the prompt", f"{prompt.name} by {model}", str(answers))
                continue
            found[place] += [
                Response(
                    name=f"{prompt.name}/{number}/{sample}",
                    prompt=place,
                    model=model,
                    text=answer.text,
                    tokens=len(answer.tokens),
                    is_whole=answer.finish == "stop",
                )
                for sample, answer in enumerate(answers)
            ]
    return found


def usable(responses: Sequence[Response], left_out: MissingItems) -> list[Response]:
    """Responses that one can learn from: whole, not empty, and each text once."""
    kept: dict[str, Response] = {}
    for response in responses:
        if not response.is_whole:
            left_out.add("the response was cut off at --max-tokens", response.name)
        elif not response.text.strip():
            left_out.add("the response is empty", response.name)
        elif response.text in kept:
            left_out.add("the response says what another one says", response.name, kept[response.text].name)
        else:
            kept[response.text] = response
    return list(kept.values())
