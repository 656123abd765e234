"""Prompts from a file of records (JSON lines, Parquet, compressed or not): what is asked, and what may be known of it.

A record has `prompt` (a text, or messages), or `messages`, or `question`; it may have an `id`, and a `reference`: the
right answer as a text, which a judge is shown. The last message is the user's. Questions with a key for the grader are
`grading.question_file.read_questions`' business, and become prompts by `of_questions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.conversation import Conversation, Message, says_nothing, to_plain
from megaphi.data.packed.conversations import as_messages, as_text, check_turns
from megaphi.data.text.documents import read_records
from megaphi.data.text.input_files import files_by_input
from megaphi.data.text.training_records import CHANGES_WHAT_IS_SAID
from megaphi.errors import InputError
from megaphi.grading.question import Question

FIELDS = ("prompt", "messages", "question")


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedPrompt:
    """One prompt."""

    name: str
    """Its `id`, or its place in the file."""
    conversation: Conversation
    """Its last message is the user's."""
    reference: str = ""
    """The right answer, if the file says it."""

    def answered(self, text: str) -> list[dict[str, str]]:
        """The conversation with an answer, as plain messages."""
        return to_plain(Conversation((*self.conversation.messages, Message("assistant", text))))


def read_prompts(path: str) -> list[AskedPrompt]:
    """All prompts of a file, in order.

    Raises:
        InputError: there is no such file, it is empty, a record is no prompt, or two have one `id`; with the place.
    """
    found: dict[str, AskedPrompt] = {}
    for files in files_by_input([path], texts=False).values():
        for file in files:
            for where, record in read_records(Path(file)):
                try:
                    prompt = prompt_of(record, otherwise_named=where)
                except InputError as error:
                    raise InputError(f"{where}: {error}") from None
                if prompt.name in found:
                    raise InputError(f"{where}: the id {prompt.name!r} is that of an earlier record too")
                found[prompt.name] = prompt
    if not found:
        raise InputError(f"{path} is empty: it holds no prompt")
    return list(found.values())


def prompt_of(record: dict[str, Any], *, otherwise_named: str) -> AskedPrompt:
    """Raises InputError that names the field."""
    fields = {key: value for key, value in record.items() if value is not None}
    present = [key for key in FIELDS if key in fields]
    if len(present) != 1:
        raise InputError(
            f"'{present[0]}' and '{present[1]}' are both prompts: leave one out"
            if present
            else f"no prompt: a record has one of {', '.join(FIELDS)}"
        )
    for key in CHANGES_WHAT_IS_SAID:
        if key in fields and not says_nothing(fields[key], key):
            raise InputError(f"the column {key!r} would change what is asked, and is not understood: leave it out")
    name = fields.get("id", otherwise_named)
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise InputError("'id' must be a text or a whole number")
    conversation = asked(as_messages(fields[present[0]], present[0], speaker="user"), present[0])
    reference = as_text(fields.get("reference", ""), "reference")
    return AskedPrompt(name=str(name), conversation=conversation, reference=reference)


def asked(messages: Sequence[Message], key: str) -> Conversation:
    """The conversation of a prompt. Raises InputError if nothing is asked in the end."""
    check_turns(messages)
    if messages[-1].role != "user" or not messages[-1].content.strip():
        raise InputError(f"{key!r} must end with a message of the user that is not empty")
    return Conversation(tuple(messages))


def of_questions(questions: Sequence[Question]) -> list[AskedPrompt]:
    """Prompts of questions with keys. Raises InputError for one whose prompt does not end with the user."""
    prompts = []
    for question in questions:
        given = question.prompt
        messages = given.messages if isinstance(given, Conversation) else (Message("user", given),)
        try:
            prompts.append(AskedPrompt(name=question.name, conversation=asked(messages, "prompt")))
        except InputError as error:
            raise InputError(f"question {question.name}: {error}") from None
    return prompts
