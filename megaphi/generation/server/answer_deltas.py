"""Deltas of answers from the step outputs of several requests: text as far as it is final, tokens, finish reason.

A request is cancelled here once its text (`answer_stream.py`) contains a stop text. With `echo` a prompt is put before
its answers as soon as the inference engine has scored its tokens; deltas that come earlier are held back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from megaphi.generation.answer_stream import AnswerStream
from megaphi.generation.decoding.interface import Request, Score, StepOutput
from megaphi.generation.text import TextStream
from megaphi.generation.workers import Submission
from megaphi.sampling import Finish
from megaphi.tokenizer.interface import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerPlan:
    """Plan of one API request: requests to the inference engine, and the assembly of answers from them."""

    choices: tuple[Request, ...]
    """One request per answer: all samples of the first prompt, then those of the second, and so on."""
    is_echo: bool = False
    """True if every answer begins with its prompt."""
    continues: bool = True
    """False if the answers are the prompts alone, and nothing is generated."""
    scored: tuple[Request, ...] = ()
    """Prompts whose tokens are scored for the echo."""
    reports_stop_token: bool = False
    """Report the token that ended an answer too, without text."""

    @property
    def requests(self) -> tuple[Request, ...]:
        """All requests for the inference engine, in the order in which the answers need them."""
        return (*self.scored, *(self.choices if self.continues else ()))


@dataclass(frozen=True, slots=True)
class AnswerToken:
    """One token of an answer."""

    id: int
    log_probability: float | None
    """None for the first token of a text, or if it was not requested."""
    alternatives: tuple[tuple[int, float], ...]
    offset: int
    """Number of characters of the answer before it."""


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """The text and tokens that one step adds to one answer; the deltas of an answer concatenate to all of it."""

    index: int
    """Number of the answer among those of its API request."""
    text: str
    tokens: tuple[AnswerToken, ...]
    finish: Finish | None
    is_prompt: bool = False
    """The echo of the prompt."""


async def answer_deltas(submission: Submission, plan: AnswerPlan, tokenizer: Tokenizer) -> AsyncIterator[AnswerDelta]:
    """Yield deltas of all answers as they come from `submission`, that of `plan.requests`; raises its exceptions."""
    names = [request.name for request in submission.requests]
    scored = {name: request.prompt for name, request in zip(names, plan.scored, strict=False)}
    indices = {name: index for index, name in enumerate(names[len(scored) :])}
    streams = [_stream(choice, plan, tokenizer) for choice in plan.choices]
    awaited = set(scored.values())
    held: dict[int, list[AnswerDelta]] = defaultdict(list)
    if plan.is_echo:
        for index, choice in enumerate(plan.choices):
            if choice.prompt not in awaited:
                yield prompt_delta(plan, index, (), tokenizer)
    async for output in submission:
        if output.name in scored:
            prompt = scored[output.name]
            awaited.discard(prompt)
            for index in (index for index, choice in enumerate(plan.choices) if choice.prompt == prompt):
                yield prompt_delta(plan, index, output.scores, tokenizer)
                for delta in held.pop(index, []):
                    yield delta
            continue
        index = indices[output.name]
        delta = delta_of(output, streams[index], index=index, reports_stop_token=plan.reports_stop_token)
        if delta.finish is not None:
            submission.cancel(output.name)  # after a stop text the engine does not know that it is over
        if plan.choices[index].prompt in awaited:
            held[index].append(delta)
        else:
            yield delta


def _stream(choice: Request, plan: AnswerPlan, tokenizer: Tokenizer) -> AnswerStream:
    """Make the text stream of an answer, which continues its prompt's if that is echoed."""
    before = len(tokenizer.decode(choice.prompt)) if plan.is_echo else 0
    return AnswerStream(choice, tokenizer, before=before)


def prompt_delta(plan: AnswerPlan, index: int, scores: Sequence[Score], tokenizer: Tokenizer) -> AnswerDelta:
    """The echo of a prompt; its first token has no log-probability, because nothing precedes it."""
    prompt = plan.choices[index].prompt
    stream, text, tokens = TextStream(tokenizer), "", []
    for number, token in enumerate(prompt):
        score = scores[number - 1] if number and scores else None
        known = (score.log_probability, score.alternatives) if score is not None else (None, ())
        tokens.append(AnswerToken(token, *known, stream.characters))
        text += stream.add(token)
    finish: Finish | None = None if plan.continues else "length"
    return AnswerDelta(index, text + stream.end(), tuple(tokens), finish, is_prompt=True)


def delta_of(
    output: StepOutput, stream: AnswerStream, *, index: int = 0, reports_stop_token: bool = False
) -> AnswerDelta:
    """Return what `output` adds to the answer whose text is in `stream`."""
    tokens = ()
    token = output.stop_token if reports_stop_token and output.token is None else output.token
    if token is not None:
        tokens = (AnswerToken(token, output.log_probability, output.alternatives, stream.characters),)
    text = stream.add(output)
    return AnswerDelta(index, text, tokens, stream.finish)


def join_deltas(index: int, deltas: Sequence[AnswerDelta]) -> AnswerDelta:
    """Join the deltas of one answer; the last has its finish reason."""
    tokens = tuple(token for delta in deltas for token in delta.tokens)
    return AnswerDelta(index, "".join(delta.text for delta in deltas), tokens, deltas[-1].finish if deltas else None)
