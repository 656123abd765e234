"""News of several requests as pieces of their answers: text as far as it is certain, tokens, and how it ended.

This is where stop texts act: the engine knows tokens only, so a request is called off here once its text holds one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from megaphi.conversation import Finish
from megaphi.generation.requests import News
from megaphi.generation.service import Submission
from megaphi.generation.text import TextStream
from megaphi.tokenizer.phi4 import Phi4Tokenizer


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer."""

    id: int
    log_probability: float
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


async def answer_pieces(submission: Submission, tokenizer: Phi4Tokenizer) -> AsyncIterator[Piece]:
    """Pieces of all answers, as they come. Raises what the submission raises."""
    answers = {
        request.name: (place, TextStream(tokenizer, request.sampling.stop))
        for place, request in enumerate(submission.requests)
    }
    async for news in submission:
        place, stream = answers[news.name]
        piece = piece_of(news, stream, place=place)
        if piece.finish is not None:
            submission.cancel(news.name)  # a stop text: the engine does not know that it is over
        yield piece


def piece_of(news: News, stream: TextStream, *, place: int = 0) -> Piece:
    """What `news` adds to the answer whose text is in `stream`."""
    tokens = ()
    text = ""
    if news.token is not None:
        tokens = (Token(news.token, news.log_probability, news.alternatives, stream.characters),)
        text = stream.add(news.token)
    if news.finish is not None:
        text += stream.end()
    finish: Finish | None = "stop" if stream.is_stopped else news.finish
    return Piece(place, text, tokens, finish)


def join_pieces(place: int, pieces: Sequence[Piece]) -> Piece:
    """The whole of one answer from its pieces, of which the last says how it ended."""
    tokens = tuple(token for piece in pieces for token in piece.tokens)
    return Piece(place, "".join(piece.text for piece in pieces), tokens, pieces[-1].finish if pieces else None)
