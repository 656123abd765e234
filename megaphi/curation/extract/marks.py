"""Marks: words that stand for formulas and code while a converter is at the rest, and their way back.

What a converter does not see it cannot change. A mark that does not come back is a loss that can be counted.
"""

from __future__ import annotations

import re


class Marks:
    """Words that stand for formulas and code while the rest is converted.

    A mark is letters and a number, so that every reader takes it for a word; its letters occur nowhere in the source.
    """

    def __init__(self, text: str) -> None:
        letters = "Xq"
        while letters in text:
            letters += "jvzk"[len(letters) % 4] + "Q"
        self.letters = letters
        self.contents: list[tuple[str, str]] = []
        self.pattern = re.compile(rf"{letters}(\d+)q")

    def add(self, kind: str, content: str) -> str:
        """The mark of a new entry; `kind` is `inline`, `display`, `code`, or `block` with a language behind a colon."""
        self.contents.append((kind, content))
        return f"{self.letters}{len(self.contents) - 1}q"


def restored(text: str, marks: Marks) -> str:
    """The text with formulas and code in the places of their marks."""
    mark = marks.pattern.pattern
    paragraph = f"{marks.letters}p"  # the end of one, until the spaces around it are gone
    around = r"(?P<open>\$\$|\$|\\\(|\\\[|`+)?" + mark + r"(?(open)(?:\$\$|\$|\\\)|\\\]|`+))"
    pattern = re.compile(
        rf"(?P<before>^[ \t>]*(?:```+[ \w]*\n[ \t>]*)?)?{around}(?P<after>\n[ \t>]*```+(?=[ \t]*$)|(?=[ \t]*$))?",
        re.MULTILINE,
    )

    def content_of(found: re.Match[str]) -> str:
        number = int(found[3])
        if number >= len(marks.contents):
            return found[0]
        kind, content = marks.contents[number]
        content = marks.pattern.sub(lambda inner: marks.contents[int(inner[1])][1], content)
        alone = found["before"] is not None and found["after"] is not None
        if kind == "display" and not alone:
            line = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
            alone = not line.lstrip().startswith("|")  # a formula that is displayed ends its paragraph, not its table
            shown = _shown(kind, content, alone=alone)
            shown = f"{paragraph}{shown}{paragraph}" if alone else shown
            return f"{found['before'] or ''}{shown}{found['after'] or ''}"
        shown = _shown(kind, content, alone=alone)
        return shown if alone and "\n" in shown else f"{found['before'] or ''}{shown}{found['after'] or ''}"

    return re.sub(rf"[ \t]*{paragraph}[ \t]*", "\n\n", pattern.sub(content_of, text))


def _shown(kind: str, content: str, *, alone: bool) -> str:
    kind, _, language = kind.partition(":")
    if kind == "inline":
        return f"${content}$"
    if kind == "display":
        return f"$$\n{content}\n$$" if alone else f"$${content}$$"
    ticks = "`" * max((len(run) + 1 for run in re.findall("`+", content)), default=1)
    if kind == "code":
        return f"{ticks}{content}{ticks}"
    fence = ticks if len(ticks) > 2 else "```"
    block = f"{fence}{language}\n{content}\n{fence}"
    return block if alone else f"\n\n{block}\n\n"
