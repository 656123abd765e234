"""Conversations for fine-tuning, from JSON or parquet, to token ids and which of them are trained.

A record is `messages` (role and content), or `conversations` (the same, or ShareGPT's from and value), or `prompt` and
`response` or TRL's `completion` (texts or messages), or Alpaca's `instruction`, `input` and `output`, a `system` before
any of these; or `ids` and `trained`, where the tokens were made elsewhere. Turns may come in any order, but a system
message comes first, no role speaks twice in a row, no answer of the assistant is empty, and none leaves its reasoning
open where the tokenizer has think tokens. Storage is four bytes for
an id and one for its flag: a million conversations are a few gigabytes of arrays, where lists of integers would be
twenty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.conversation import Conversation, Message, Role, from_plain
from megaphi.data.text.bad_records import OnBadRecords
from megaphi.data.text.documents import kind_of
from megaphi.data.text.training_records import Form, SkipReport, TooLong, read_each, reason_if_too_long, token_ids
from megaphi.errors import InputError
from megaphi.tokenizer.interface import RenderedConversation, Tokenizer, TrainOn
from megaphi.tokenizer.phi4 import Phi4Tokenizer

TOKENS = Form(("ids", "trained"), answers=("ids", "trained"), is_rendered=True)
FORMS = (
    Form(("messages",), ("system",)),
    Form(("prompt", "response"), ("system",), answers=("response",)),
    Form(("prompt", "completion"), ("system",), answers=("completion",)),
    Form(("conversations",), ("system",), answers=("conversations",)),
    Form(("instruction", "output"), ("input", "system"), answers=("output",)),
    TOKENS,
)
ROLE_OF_SHAREGPT = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversationSample:
    """One conversation and where it stands, as in "chats.jsonl:12" or "chats.parquet: row 12"."""

    rendered: RenderedConversation
    """int32 ids and boolean flags, of which at least one is set."""
    where: str


def read_conversations(
    paths: Sequence[str],
    tokenizer: Tokenizer | None,
    *,
    train_on: TrainOn,
    sequence_length: int,
    too_long: TooLong,
    bad_records: OnBadRecords = "error",
    vocabulary: int | None = None,
) -> tuple[list[RenderedConversation], SkipReport]:
    """All conversations of `paths` that fit into `sequence_length` tokens, and what was left out.

    Args:
        paths: files, folders or patterns of JSON or parquet, see `input_files.py`.
        train_on: "assistant" or "last" (of its answers); records of `ids` and `trained` say it themselves.
        too_long: "skip" counts what does not fit, "error" stops at it.
        bad_records: "error" names all records that are none of the forms above, train nothing or say nothing; "skip"
            counts them.
        tokenizer: the model's; None where it has none, and every record must hold ids.
        vocabulary: rows of the model's embedding, which records of ids must fit into.

    Raises:
        InputError: records that cannot be used (file and line named), a file is empty, or nothing is left.
    """
    report = SkipReport()
    samples = stream_conversations(
        paths,
        tokenizer,
        train_on=train_on,
        sequence_length=sequence_length,
        too_long=too_long,
        bad_records=bad_records,
        vocabulary=vocabulary,
        report=report,
    )
    return [sample.rendered for sample in samples], report


def stream_conversations(
    paths: Sequence[str],
    tokenizer: Tokenizer | None,
    *,
    train_on: TrainOn,
    sequence_length: int,
    too_long: TooLong,
    report: SkipReport,
    bad_records: OnBadRecords = "error",
    vocabulary: int | None = None,
) -> Iterator[ConversationSample]:
    """Like `read_conversations`, one at a time, each with its place; `report` is complete at the end."""

    def make(form: Form, record: dict[str, Any]) -> RenderedConversation | str:
        if form is TOKENS:
            rendered = _from_tokens(record, vocabulary=vocabulary_of(tokenizer, vocabulary))
        else:
            rendered = _from_messages(messages_of(form, record), tokenizer, train_on=train_on)
        return reason_if_too_long(len(rendered.ids), sequence_length=sequence_length, too_long=too_long) or rendered

    for where, rendered in read_each(paths, FORMS, make, report, bad_records=bad_records):
        yield ConversationSample(rendered=rendered, where=where)


def needed(tokenizer: Tokenizer | None) -> Tokenizer:
    """The tokenizer that text needs. Raises InputError if the model has none."""
    if tokenizer is None:
        raise InputError(
            "a text, and the model came without a tokenizer: name it in tokenizer.path, or give records of token ids"
        )
    return tokenizer


def vocabulary_of(tokenizer: Tokenizer | None, vocabulary: int | None) -> int:
    """Return the exclusive upper bound of token ids."""
    return vocabulary or needed(tokenizer).vocabulary_size


def as_messages(value: Any, key: str, *, speaker: Role) -> tuple[Message, ...]:
    """A text as the one message that `speaker` says, messages (or one alone) as what they are."""
    try:
        if isinstance(value, str):
            return (Message(speaker, value),)
        if isinstance(value, list | dict):
            return from_plain(_with_roles(value if isinstance(value, list) else [value])).messages
    except InputError as error:
        raise InputError(f"{key!r}: {error}") from None
    raise InputError(f"{key!r} must be a text or a list of messages, not {kind_of(value)}")


def _with_roles(messages: Any) -> Any:
    """ShareGPT's `from` and `value` under their usual names."""
    if not isinstance(messages, list):
        return messages
    return [
        {
            **{key: value for key, value in message.items() if key not in ("from", "value")},
            "role": ROLE_OF_SHAREGPT.get(message["from"], message["from"]),
            "content": message["value"],
        }
        if isinstance(message, dict) and isinstance(message.get("from"), str) and "value" in message
        else message
        for message in messages
    ]


def after_system(record: dict[str, Any], messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, after the text of a record's column `system`, if there is one."""
    system = as_text(record.get("system", ""), "system")
    if not system or messages[:1] == (Message("system", system),):
        return messages
    return (Message("system", system), *messages)


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


def check_thoughts(messages: Sequence[Message], tokenizer: Tokenizer | None) -> None:
    """Raises `InputError` for an answer whose think tokens are not in pairs: the model would learn not to end."""
    if not isinstance(tokenizer, Phi4Tokenizer) or tokenizer.think is None or not tokenizer.spells_think:
        return
    for number, message in enumerate(messages, start=1):
        fault = tokenizer.think.fault(message.content) if message.role == "assistant" else None
        if fault is not None:
            raise InputError(f"message {number}, the assistant's: {fault}")


def messages_of(form: Form, record: dict[str, Any]) -> tuple[Message, ...]:
    for key in {"messages", "conversations"} & set(form.needs):
        return after_system(record, from_plain(_with_roles(record[key])).messages)
    if "instruction" in form.needs:
        asked = [as_text(record.get(key, ""), key) for key in ("instruction", "input")]
        prompt = (Message("user", "\n\n".join(filter(None, asked))),)
    else:
        prompt = as_messages(record["prompt"], "prompt", speaker="user")
    (key,) = form.answers
    answer = as_messages(record[key], key, speaker="assistant")
    if answer[-1].role != "assistant":
        raise InputError(f"{key!r} must end with a message of the assistant")
    return after_system(record, (*prompt, *answer))


def _from_messages(
    messages: tuple[Message, ...], tokenizer: Tokenizer | None, *, train_on: TrainOn
) -> RenderedConversation:
    check_turns(messages)
    if all(message.role != "assistant" for message in messages):
        raise InputError("no message is the assistant's: there is no token to train on")
    check_thoughts(messages, tokenizer)
    rendered = needed(tokenizer).render(Conversation(messages), train_on=train_on)
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
