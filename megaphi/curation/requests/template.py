"""A prompt in a file: text with named fields, as in `Write a table of {{document}} for {{audience}}.`

A field is filled with a choice of the table, which is the user's own text, or with data: a document, or what a model
has written. Data is quoted within a fence (`judging/fence.py`), whose rule then stands before the prompt, so that a
page which gives orders is still a page. Single braces are text: TeX and JSON need no escapes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megaphi.conversation import Conversation, Message
from megaphi.errors import InputError
from megaphi.foreign.files import read_text
from megaphi.judging.fence import make_fence

FIELD = re.compile(r"\{\{(.*?)\}\}")
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with fields that are not filled."""

    name: str
    text: str
    fields: tuple[str, ...]
    """Each once, in the order in which they appear."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def filled(self, *, plain: Mapping[str, str], data: Mapping[str, str], seed: int, item: str) -> Conversation:
        """The prompt as a message of the user.

        Args:
            plain: fields that are put in as they are.
            data: fields that are quoted.
            seed: of the fence, together with `item`, the name of what is asked about.
        """
        quoted = [name for name in self.fields if name not in plain]
        fence = make_fence(seed=seed, name=f"{self.name}/{item}", texts=[data[name] for name in quoted])

        def value(found: re.Match[str]) -> str:
            name = found[1]
            return plain[name] if name in plain else f"\n{fence.quote(name, data[name])}\n"

        text = FIELD.sub(value, self.text)
        return Conversation((Message("user", f"{fence.rule}\n\n{text}" if quoted else text),))


def read_template(path: Path) -> Template:
    """Raises InputError that names file and line."""
    text = read_text(path).strip()
    if not text:
        raise InputError(f"{path}: the prompt is empty")
    fields: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        names = FIELD.findall(line)
        bad = [name for name in names if not NAME.fullmatch(name)]
        if bad:
            raise InputError(
                f"{path}:{number}: {{{{{bad[0]}}}}} names no field: write {{{{document}}}}, with small letters"
            )
        if "{{" in FIELD.sub("", line):
            raise InputError(f"{path}:{number}: {{{{ begins a field that does not end on this line: close it with }}}}")
        fields |= dict.fromkeys(names)
    return Template(path.stem, text, tuple(fields))
