"""Preference pairs: a prompt and two ways to go on, one chosen and one rejected, as token ids.

A record is `prompt`, `accepted` and `rejected` as token ids (and optionally `append_eos`), or a conversation as
`messages` with the two answers as texts, or the hub's `chosen` and `rejected` after a `prompt` (or ShareGPT's
`conversations`), or these two alone as whole conversations: their common prefix is the prompt then, as in TRL. An
answer to a conversation ends as in the chat format (Phi-4's with `<|im_end|>`); token ids are used as they are unless
an end is requested. Pivotal pairs, whose two sides are one token each, are many to a text: `group_single_tokens` finds
those whose prompts begin one another, so that one pass over the longest prompt decides all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.conversation import Conversation, Message, from_plain
from megaphi.data.packed.conversations import after_system, as_messages, as_text, check_turns, needed, vocabulary_of
from megaphi.data.text.bad_records import OnBadRecords
from megaphi.data.text.documents import kind_of
from megaphi.data.text.training_records import Form, SkipReport, TooLong, read_each, reason_if_too_long, token_ids
from megaphi.errors import InputError
from megaphi.tokenizer.interface import Tokenizer

IDS = ("prompt", "accepted", "rejected")
TOKENS = Form(IDS, ("append_eos",), answers=("accepted", "append_eos"), is_rendered=True)
MESSAGES = Form(("messages", "accepted", "rejected"), ("system",), answers=("accepted",))
FORMS = (
    TOKENS,
    MESSAGES,
    Form(("prompt", "chosen", "rejected"), ("system",), answers=("chosen",)),
    Form(("conversations", "chosen", "rejected"), ("system",), answers=("chosen",)),
    Form(("chosen", "rejected"), ("system",), answers=("chosen",)),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreferencePair:
    """Token ids, int32; none of the three is empty, and the two sides differ."""

    prompt: NDArray[np.int32]
    chosen: NDArray[np.int32]
    rejected: NDArray[np.int32]

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 of the three lists of ids: the same for the same pair, wherever it was read."""
        hashed = hashlib.sha256(f"{len(self.prompt)} {len(self.chosen)} {len(self.rejected)} ".encode())
        for ids in (self.prompt, self.chosen, self.rejected):
            hashed.update(ids.astype("<i4").tobytes())
        return hashed.hexdigest()

    @property
    def tokens(self) -> int:
        """Places of a row that the pair takes: the prompt once, and both sides."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


def read_pairs(
    paths: Sequence[str],
    tokenizer: Tokenizer | None,
    *,
    sequence_length: int,
    append_eos: bool,
    max_completion_tokens: int | None,
    too_long: TooLong,
    bad_records: OnBadRecords = "error",
    vocabulary: int | None = None,
) -> tuple[list[PreferencePair], SkipReport]:
    """All pairs of `paths` that fit into `sequence_length` tokens (prompt and both sides), and what was left out.

    Args:
        append_eos: end both sides of pairs of token ids with `<|im_end|>`, where a record does not say it itself.
        max_completion_tokens: cut both sides to this many tokens, their end included; pairs that are then equal are
            left out.
        tokenizer: the model's; None where it has none, and every record must hold ids.
        vocabulary: rows of the model's embedding, which records of ids must fit into.

    Raises:
        InputError: records are none of the forms above, a side is empty, or both are equal (file and line named), a
            file is empty, or nothing is left.
    """
    report = SkipReport()
    pairs = stream_pairs(
        paths,
        tokenizer,
        sequence_length=sequence_length,
        append_eos=append_eos,
        max_completion_tokens=max_completion_tokens,
        too_long=too_long,
        bad_records=bad_records,
        vocabulary=vocabulary,
        report=report,
    )
    return [pair for _, pair in pairs], report


def stream_pairs(
    paths: Sequence[str],
    tokenizer: Tokenizer | None,
    *,
    sequence_length: int,
    append_eos: bool,
    max_completion_tokens: int | None,
    too_long: TooLong,
    report: SkipReport,
    bad_records: OnBadRecords = "error",
    vocabulary: int | None = None,
) -> Iterator[tuple[str, PreferencePair]]:
    """Like `read_pairs`, one at a time, each after its location; `report` is complete at the end."""
    if max_completion_tokens is not None and max_completion_tokens < 1:
        raise InputError(f"max_completion_tokens={max_completion_tokens}: must be at least 1")

    def make(form: Form, record: dict[str, Any]) -> PreferencePair | str:
        if form is TOKENS:
            sides = [token_ids(record[key], key, vocabulary=vocabulary_of(tokenizer, vocabulary)) for key in IDS]
            if _true_or_false(record.get("append_eos", append_eos)):
                end = np.array([needed(tokenizer).message_end], dtype=np.int32)
                sides[1:] = [np.concatenate((side, end)) for side in sides[1:]]
        else:
            prompt, *answers = _from_messages(record) if form is MESSAGES else _from_hub(form, record)
            sides = encoded_sides(after_system(record, prompt), answers, needed(tokenizer))
        pair = _finished(*sides, at_most=max_completion_tokens)
        if pair is None:
            return f"both sides begin with the same max_completion_tokens={max_completion_tokens}"
        return reason_if_too_long(pair.tokens, sequence_length=sequence_length, too_long=too_long) or pair

    yield from read_each(paths, FORMS, make, report, bad_records=bad_records)


def shared_prefix(pair: PreferencePair) -> int:
    """Length of the sides' common prefix: it tells the sides apart no more than the prompt does, and can be moved
    there.

    It is the whole of a side if the other one continues it.
    """
    shorter = min(len(pair.chosen), len(pair.rejected))
    different = pair.chosen[:shorter] != pair.rejected[:shorter]
    return int(np.argmax(different)) if different.any() else shorter


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PivotalGroup:
    """Pairs that are each decided by one token of one text; the four arrays hold one entry for every pair."""

    tokens: NDArray[np.int32]
    """The longest prompt; every other prompt is a beginning of it."""
    places: NDArray[np.int64]
    """Index in `tokens` of the last token of the pair's prompt: decided is what follows it. Ascending."""
    chosen: NDArray[np.int32]
    rejected: NDArray[np.int32]
    members: NDArray[np.int64]
    """Index of the pair."""


def group_single_tokens(pairs: Sequence[PreferencePair]) -> list[PivotalGroup]:
    """The pairs whose sides are one token each, in the fewest groups; groups in the order of their first members.

    Sorted, a text stands right before those that it begins. So going backwards, a prompt belongs to the group of the
    one after it, if it begins that group's longest prompt, and else to no group that there is yet.
    """
    keys = {
        number: pair.prompt.astype(">u4").tobytes()  # bytes that sort, and begin one another, as the lists of ids do
        for number, pair in enumerate(pairs)
        if len(pair.chosen) == len(pair.rejected) == 1
    }
    groups: list[list[int]] = []
    for number in sorted(keys, key=lambda number: (keys[number], number), reverse=True):
        if groups and keys[groups[-1][0]].startswith(keys[number]):
            groups[-1].append(number)
        else:
            groups.append([number])
    return [_pivotal_group(pairs, members) for members in sorted(groups, key=min)]


def _pivotal_group(pairs: Sequence[PreferencePair], members: list[int]) -> PivotalGroup:
    """`members` from the longest prompt to the shortest."""
    ordered = [pairs[member] for member in reversed(members)]
    return PivotalGroup(
        tokens=ordered[-1].prompt,
        places=np.array([len(pair.prompt) - 1 for pair in ordered], dtype=np.int64),
        chosen=np.concatenate([pair.chosen for pair in ordered]),
        rejected=np.concatenate([pair.rejected for pair in ordered]),
        members=np.array(members[::-1], dtype=np.int64),
    )


Sides = tuple[tuple[Message, ...], str, str]
"""The messages before the answers, the chosen answer, the rejected one."""


def _from_messages(record: dict[str, Any]) -> Sides:
    chosen, rejected = (as_text(record[key], key) for key in ("accepted", "rejected"))
    return from_plain(record["messages"]).messages, chosen, rejected


def _from_hub(form: Form, record: dict[str, Any]) -> Sides:
    """`chosen` and `rejected` may each be a text, one answer, or the whole conversation with the prompt within."""
    asked = next((key for key in ("prompt", "conversations") if key in form.needs), None)
    prompt = as_messages(record[asked], asked, speaker="user") if asked else ()
    if not asked and isinstance(record["chosen"], str) and isinstance(record["rejected"], str):
        raise InputError("'chosen' and 'rejected' are texts, and there is no 'prompt': what was asked is not known")
    before: list[tuple[Message, ...]] = []
    answers: list[str] = []
    for key in ("chosen", "rejected"):
        messages = as_messages(record[key], key, speaker="assistant")
        if messages == prompt or messages[-1].role != "assistant":
            raise InputError(f"{key!r} must end with a message of the assistant that answers the prompt")
        before.append(messages[:-1] if _holds(messages[:-1], prompt) else (*prompt, *messages[:-1]))
        answers.append(messages[-1].content)
    if before[0] != before[1]:
        raise InputError("'chosen' and 'rejected' must differ in their last message only")
    if not before[0]:
        raise InputError("no message comes before the answers: what was asked is not known")
    return before[0], answers[0], answers[1]


def _holds(messages: tuple[Message, ...], part: tuple[Message, ...]) -> bool:
    """Return whether `messages` contain `part` as it is: at the start, or after a system message or earlier turns."""
    return any(messages[start : start + len(part)] == part for start in range(len(messages) - len(part) + 1))


def encoded_sides(prompt: tuple[Message, ...], answers: Sequence[str], tokenizer: Tokenizer) -> list[NDArray[np.int32]]:
    """Ids of the prompt, up to where the assistant begins, and of both answers with their end.

    The whole conversation is rendered with either answer, as in fine-tuning; the prompt is everything before the
    targets. A token that a tokenizer makes across that border belongs to the answers.
    """
    for name, answer in zip(("accepted", "rejected"), answers, strict=True):
        if not answer.strip():
            raise InputError(f"the {name} answer is empty")
    check_turns((*prompt, Message("assistant", answers[0])))
    whole = []
    for answer in answers:
        rendered = tokenizer.render(Conversation((*prompt, Message("assistant", answer))), train_on="last")
        trained_T = np.flatnonzero(rendered.trained)
        whole.append((np.array(rendered.ids, dtype=np.int32), int(trained_T[0]), int(trained_T[-1]) + 1))
    (left_T, left_start, left_end), (right_T, right_start, right_end) = whole
    shorter = min(left_start, right_start)
    different_T = left_T[:shorter] != right_T[:shorter]
    start = int(np.argmax(different_T)) if different_T.any() else shorter
    return [left_T[:start], left_T[start:left_end], right_T[start:right_end]]


def _finished(
    prompt: NDArray[np.int32],
    chosen: NDArray[np.int32],
    rejected: NDArray[np.int32],
    *,
    at_most: int | None,
) -> PreferencePair | None:
    """The pair, cut; None if nothing that differs is left."""
    if np.array_equal(chosen, rejected):
        raise InputError("the chosen and the rejected side are the same: there is nothing to prefer")
    chosen, rejected = chosen[:at_most], rejected[:at_most]
    if np.array_equal(chosen, rejected):
        return None
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected)


def _true_or_false(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"'append_eos' must be true or false, not {kind_of(value)}")
    return value
