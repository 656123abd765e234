"""News of several requests as pieces of their answers: text as far as it is certain, tokens, and how it ended.

This is where stop texts act: the engine knows tokens only, so a request is called off here once its text holds one. It
is also where a prompt is put before its answers (`echo`), as soon as the engine has told what it thinks of its tokens;
what comes of an answer before that is held back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from megaphi.generation.decoding.interface import News, Request, Score
from megaphi.generation.server.workers import Submission
from megaphi.generation.text import TextStream
from megaphi.sampling import Finish
from megaphi.tokenizer.interface import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is asked of the engine for one order, and what its answers are made of."""

    choices: tuple[Request, ...]
    """An answer each: all samples of the first prompt, then those of the second."""
    is_echo: bool = False
    """Every answer begins with its prompt."""
    continues: bool = True
    """False: the answers are the prompts, and nothing is generated."""
    scored: tuple[Request, ...] = ()
    """The prompts whose tokens are to be scored for the echo."""
    tells_stop_token: bool = False
    """The token that ended an answer is told, as a token without a text."""

    @property
    def requests(self) -> tuple[Request, ...]:
        """For the engine, in the order in which the answers need them."""
        return (*self.scored, *(self.choices if self.continues else ()))


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer."""

    id: int
    log_probability: float | None
    """None where nothing came before it, or it was not asked for."""
    alternatives: tuple[tuple[int, float], ...]
    offset: int
    """Characters of the answer before it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What came to one answer. The pieces of an answer join to the whole of it."""

    place: int
    """Number of the answer among those asked for together."""
    text: str
    tokens: tuple[Token, ...]
    finish: Finish | None
    is_prompt: bool = False
    """The echo of the prompt."""


async def answer_pieces(submission: Submission, plan: Plan, tokenizer: Tokenizer) -> AsyncIterator[Piece]:
    """Pieces of all answers, as they come. Raises what the submission raises. `submission` is of `plan.requests`."""
    names = [request.name for request in submission.requests]
    scored = {name: request.prompt for name, request in zip(names, plan.scored, strict=False)}
    places = {name: place for place, name in enumerate(names[len(scored) :])}
    streams = [_stream(choice, plan, tokenizer) for choice in plan.choices]
    awaited = set(scored.values())
    held: dict[int, list[Piece]] = defaultdict(list)
    if plan.is_echo:
        for place, choice in enumerate(plan.choices):
            if choice.prompt not in awaited:
                yield prompt_piece(plan, place, (), tokenizer)
    async for news in submission:
        if news.name in scored:
            prompt = scored[news.name]
            awaited.discard(prompt)
            for place in (place for place, choice in enumerate(plan.choices) if choice.prompt == prompt):
                yield prompt_piece(plan, place, news.scores, tokenizer)
                for piece in held.pop(place, []):
                    yield piece
            continue
        place = places[news.name]
        piece = piece_of(news, streams[place], place=place, tells_stop_token=plan.tells_stop_token)
        if piece.finish is not None:
            submission.cancel(news.name)  # a stop text: the engine does not know that it is over
        if plan.choices[place].prompt in awaited:
            held[place].append(piece)
        else:
            yield piece


def _stream(choice: Request, plan: Plan, tokenizer: Tokenizer) -> TextStream:
    """The text of an answer, behind that of its prompt if it is told."""
    before = len(tokenizer.decode(choice.prompt)) if plan.is_echo else 0
    return TextStream(tokenizer, choice.sampling.stop, before=before)


def prompt_piece(plan: Plan, place: int, scores: Sequence[Score], tokenizer: Tokenizer) -> Piece:
    """A prompt as the beginning of an answer. Nothing is known of its first token: nothing is before it."""
    prompt = plan.choices[place].prompt
    stream, text, tokens = TextStream(tokenizer), "", []
    for number, token in enumerate(prompt):
        score = scores[number - 1] if number and scores else None
        known = (score.log_probability, score.alternatives) if score is not None else (None, ())
        tokens.append(Token(token, *known, stream.characters))
        text += stream.add(token)
    finish: Finish | None = None if plan.continues else "length"
    return Piece(place, text + stream.end(), tuple(tokens), finish, is_prompt=True)


def piece_of(news: News, stream: TextStream, *, place: int = 0, tells_stop_token: bool = False) -> Piece:
    """What `news` adds to the answer whose text is in `stream`."""
    tokens = ()
    text = ""
    told = news.stop_token if tells_stop_token and news.token is None else news.token
    if told is not None:
        tokens = (Token(told, news.log_probability, news.alternatives, stream.characters),)
    if news.token is not None:
        text = stream.add(news.token)
    if news.finish is not None:
        text += stream.end()
    finish: Finish | None = "stop" if stream.is_stopped else news.finish
    return Piece(place, text, tokens, finish)


def join_pieces(place: int, pieces: Sequence[Piece]) -> Piece:
    """The whole of one answer from its pieces, of which the last says how it ended."""
    tokens = tuple(token for piece in pieces for token in piece.tokens)
    return Piece(place, "".join(piece.text for piece in pieces), tokens, pieces[-1].finish if pieces else None)
