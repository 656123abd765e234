"""Conversations for fine-tuning, from JSON lines or parquet, to token ids and which of them are trained.

A record is `messages` (a list of role and content), or `prompt` (a text or such a list) and `response`, or `ids` and
`trained`, where the tokens were made elsewhere. Turns may come in any order, but a system message comes first, nobody
speaks twice in a row, and the assistant never says nothing. Kept are four bytes for an id and one for its flag: a
million conversations are a few gigabytes of arrays, where lists of Python integers would be twenty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.conversation import Conversation, Message, Role, from_plain
from megaphi.data.documents import kind_of
from megaphi.data.records import SkipReport, TooLong, matching_form, read_each, reason_if_too_long, token_ids
from megaphi.errors import InputError
from megaphi.tokenizer.chat_format import RenderedConversation, TrainOn, render_conversation
from megaphi.tokenizer.phi4 import Phi4Tokenizer

MESSAGES, PROMPT_AND_RESPONSE, TOKENS = ("messages",), ("prompt", "response"), ("ids", "trained")
FORMS = (MESSAGES, PROMPT_AND_RESPONSE, TOKENS)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversationSample:
    """One conversation and where it stands, as in "chats.jsonl:12" or "chats.parquet: row 12"."""

    rendered: RenderedConversation
    """int32 ids and boolean flags, of which at least one is set."""
    where: str


def read_conversations(
    paths: Sequence[str],
    tokenizer: Phi4Tokenizer,
    *,
    train_on: TrainOn,
    sequence_length: int,
    too_long: TooLong,
    vocabulary: int | None = None,
) -> tuple[list[RenderedConversation], SkipReport]:
    """All conversations of `paths` that fit into `sequence_length` tokens, and what was left out.

    Args:
        paths: files, folders or patterns; .jsonl, .jsonl.gz, .jsonl.zst, .parquet.
        train_on: "assistant" or "last" (of its answers); records of `ids` and `trained` say it themselves.
        too_long: "skip" counts what does not fit, "error" stops at it.
        vocabulary: tokens of the model, where records hold ids of another tokenizer than `tokenizer`.

    Raises:
        InputError: a record is not one of the forms above, trains nothing or says nothing (file and line named), a file
            is empty, or nothing is left.
    """
    report = SkipReport()
    samples = stream_conversations(
        paths,
        tokenizer,
        train_on=train_on,
        sequence_length=sequence_length,
        too_long=too_long,
        vocabulary=vocabulary,
        report=report,
    )
    return [sample.rendered for sample in samples], report


def stream_conversations(
    paths: Sequence[str],
    tokenizer: Phi4Tokenizer,
    *,
    train_on: TrainOn,
    sequence_length: int,
    too_long: TooLong,
    report: SkipReport,
    vocabulary: int | None = None,
) -> Iterator[ConversationSample]:
    """Like `read_conversations`, one at a time, each with its place; `report` is complete at the end."""

    def make(record: dict[str, Any]) -> RenderedConversation | str:
        if matching_form(record, FORMS) == TOKENS:
            rendered = _from_tokens(record, vocabulary=vocabulary or tokenizer.vocabulary_size)
        else:
            rendered = _from_messages(_messages_of(record), tokenizer, train_on=train_on)
        return reason_if_too_long(len(rendered.ids), sequence_length=sequence_length, too_long=too_long) or rendered

    for where, rendered in read_each(paths, make, report):
        yield ConversationSample(rendered=rendered, where=where)


def as_messages(value: Any, key: str, *, speaker: Role) -> tuple[Message, ...]:
    """A text as the one message that `speaker` says, a list of role and content as what it is."""
    try:
        if isinstance(value, str):
            return (Message(speaker, value),)
        if isinstance(value, list):
            return from_plain(value).messages
    except InputError as error:
        raise InputError(f"{key!r}: {error}") from None
    raise InputError(f"{key!r} must be a text or a list of messages, not {kind_of(value)}")


def as_text(value: Any, key: str) -> str:
    """`value`, which must be a text."""
    if not isinstance(value, str):
        raise InputError(f"{key!r} must be a text, not {kind_of(value)}")
    return value


def check_turns(messages: Sequence[Message]) -> None:
    """Raises `InputError` for a system message that is not the first, a role twice in a row, or an empty answer."""
    for number, (before, message) in enumerate(pairwise(messages), start=2):
        if message.role == "system":
            raise InputError(f"message {number} is the system's: only the first may be")
        if message.role == before.role:
            raise InputError(f"messages {number - 1} and {number} are both the {message.role}'s: join them to one")
    for number, message in enumerate(messages, start=1):
        if message.role == "assistant" and not message.content.strip():
            raise InputError(f"message {number}, the assistant's, is empty: it would learn to say nothing")


def _messages_of(record: dict[str, Any]) -> tuple[Message, ...]:
    if "messages" in record:
        return from_plain(record["messages"]).messages
    prompt = as_messages(record["prompt"], "prompt", speaker="user")
    return (*prompt, Message("assistant", as_text(record["response"], "response")))


def _from_messages(
    messages: tuple[Message, ...], tokenizer: Phi4Tokenizer, *, train_on: TrainOn
) -> RenderedConversation:
    check_turns(messages)
    if all(message.role != "assistant" for message in messages):
        raise InputError("no message is the assistant's: there is no token to train on")
    rendered = render_conversation(Conversation(messages), tokenizer, train_on=train_on)
    return RenderedConversation(np.array(rendered.ids, dtype=np.int32), np.array(rendered.trained, dtype=np.bool_))


def _from_tokens(record: dict[str, Any], *, vocabulary: int) -> RenderedConversation:
    ids = token_ids(record["ids"], "ids", vocabulary=vocabulary)
    trained = _flags(record["trained"])
    if len(ids) != len(trained):
        raise InputError(f"{len(ids)} 'ids' and {len(trained)} 'trained': there must be one flag for every id")
    trained[0] = False  # no position comes before it that could predict it
    if not trained.any():
        raise InputError("'trained' is true nowhere after the first token: there is no token to train on")
    return RenderedConversation(ids, trained)


def _flags(value: Any) -> NDArray[np.bool_]:
    if not isinstance(value, list):
        raise InputError(f"'trained' must be a list of true and false, not {kind_of(value)}")
    if not (set(map(type, value)) <= {bool, int} and set(value) <= {0, 1}):
        place = next(place for place, flag in enumerate(value) if type(flag) not in (bool, int) or flag not in (0, 1))
        raise InputError(f"'trained' must hold true and false, but at position {place} stands {value[place]!r}")
    return np.array(value, dtype=np.bool_)
