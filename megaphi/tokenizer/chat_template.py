"""A chat template (Jinja, as in Hugging Face's files), and the positions of the messages' contents in its text.

The environment is the one that transformers renders templates in, bounded (template_environment.py), so that the text
is the same. Contents are located by rendering a second time with marks around each of them: without the marks that text
must equal the first one, else the template alters contents, and is refused. A template may trim contents (the marks are
then within the white space), and may leave a message out; a message that is to be trained must be there.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from megaphi.conversation import Conversation, Message, to_plain
from megaphi.errors import InputError
from megaphi.foreign.files import DAMAGE

if TYPE_CHECKING:
    from jinja2 import Template

_NONCE = secrets.token_hex(8)
"""A mark that no real text contains."""
_MARK = re.compile(rf"<{_NONCE}:(begin|end):(\d+)>")

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LocatedText:
    """A conversation as text."""

    text: str
    spans: tuple[Span | None, ...]
    """Span of each message's content; None for a message that is left out or empty."""


class ChatTemplate:
    """A template and the special tokens that it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, Any], *, where: str) -> None:
        """`special_tokens` as in bos_token -> "<s>"; `where` names the template in messages."""
        self.source, self.where = source, where
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False) -> str:
        """Render the text. Raises InputError with the template's objection to the conversation."""
        from jinja2 import TemplateError

        from megaphi.tokenizer.template_environment import begin_rendering

        begin_rendering()
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (TemplateError, *DAMAGE) as error:
            raise InputError(f"{self.where} does not take this conversation: {error}") from None

    def locate(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> LocatedText:
        """Render the text and locate each content in it. Raises InputError if that is impossible."""
        messages = to_plain(conversation)
        text = self.render(messages, add_generation_prompt=add_generation_prompt)
        for trimmed in (False, True):
            marked = [_marked(message, number, trimmed=trimmed) for number, message in enumerate(messages)]
            try:
                with_marks = self.render(marked, add_generation_prompt=add_generation_prompt)
            except InputError:
                continue
            spans = _spans(with_marks, text, len(messages))
            if spans is not None:
                return LocatedText(text, spans)
        raise InputError(
            f"{self.where} does more to the contents of this conversation than put a frame around them,"
            " so what is to be trained, and what may be a special token, cannot be determined"
        )

    @cached_property
    def asks(self) -> bool:
        """Return whether the template writes the beginning of a generated answer; some leave it to the model."""
        talk = to_plain(Conversation((Message("user", "a"),)))
        try:
            return self.render(talk) != self.render(talk, add_generation_prompt=True)
        except InputError:
            return True

    @cached_property
    def _template(self) -> Template:
        from jinja2 import TemplateError

        from megaphi.tokenizer.template_environment import BoundedEnvironment

        try:
            return BoundedEnvironment().from_string(self.source)
        except (TemplateError, *DAMAGE) as error:
            raise InputError(f"{self.where} is no template: {error}") from None


def _marked(message: Mapping[str, str], number: int, *, trimmed: bool) -> dict[str, str]:
    content = message["content"]
    core = content.strip()
    if not core:
        return dict(message)
    before, after = content.split(core, 1) if trimmed else ("", "")
    marked = f"{before}<{_NONCE}:begin:{number}>{core if trimmed else content}<{_NONCE}:end:{number}>{after}"
    return {**message, "content": marked}


def _spans(with_marks: str, text: str, messages: int) -> tuple[Span | None, ...] | None:
    """Find the marks in `text`; None if it is not `with_marks` without them, or they are not in pairs."""
    begins: dict[int, int] = {}
    spans: dict[int, Span] = {}
    parts, copied, removed = [], 0, 0
    for mark in _MARK.finditer(with_marks):
        kind, number, place = mark[1], int(mark[2]), mark.start() - removed
        parts.append(with_marks[copied : mark.start()])
        copied, removed = mark.end(), removed + len(mark[0])
        if kind == "begin":
            if number in begins:
                return None
            begins[number] = place
        elif number in begins and number not in spans:
            spans[number] = (begins[number], place)
        else:
            return None
    parts.append(with_marks[copied:])
    if begins.keys() != spans.keys() or "".join(parts) != text:
        return None
    return tuple(spans.get(number) for number in range(messages))
