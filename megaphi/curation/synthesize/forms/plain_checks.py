"""Checks by rule, which ask nobody: length, shape, copying, repetition, and questions that need their page."""

from __future__ import annotations

import re

from megaphi.curation.synthesize.forms.overlap import repeated_share, shared_share
from megaphi.curation.synthesize.forms.work import Tools, Work

COPIED_WORDS = 8
"""Words in a row that are copied, and not a coincidence."""
REPEATED_WORDS, MOST_REPEATED = 6, 0.1
"""Words in a row, and the share of repeated ones from which a text goes in circles."""
NEEDS_ITS_PAGE = re.compile(
    r"\b(?:(?:in|from|by|to|of|per|on)\s+(?:the|this)\s+(?:above\s+|given\s+|following\s+|provided\s+)?"
    r"(?:text|passage|document|excerpt|article|author|page|snippet|paragraph|section|chapter|figure|table)\b"
    r"|(?:the|this)\s+(?:passage|excerpt|snippet|author|article|document)\b"
    r"|(?:mentioned|described|listed|shown|discussed|given)\s+(?:above|below|earlier|here)\b"
    r"|\baccording\s+to\s+the\s+(?:text|passage|document|article|author|excerpt|page))",
    re.IGNORECASE,
)
"""Words by which a question points at a page that its reader does not have."""


def check_length(works: list[Work], tools: Tools) -> None:
    for work in works:
        least, most = work.kind.settings["words"]
        count = len(re.findall(r"\w+", work.data.get("answer", work.text)))
        if count < least:
            work.reject("too_short", f"{count:,} words, fewer than {least:,}")
        elif count > most:
            work.reject("too_long", f"{count:,} words, more than {most:,}")


def check_shape(works: list[Work], tools: Tools) -> None:
    for work in works:
        pattern, least = work.kind.settings["pattern"], work.kind.settings["least"]
        count = len(re.findall(pattern, work.text, re.MULTILINE))
        if count < least:
            work.reject("shape", f"{count} places of the form {pattern}, fewer than {least}")


def check_copied(works: list[Work], tools: Tools) -> None:
    for work in works:
        shared = shared_share(work.text, work.document.text, words=COPIED_WORDS)
        work.found["copied"] = round(shared, 4)
        if shared > work.kind.settings["overlap"]:
            work.reject("copied", f"{shared:.0%} of it stands in the seed")


def check_repetitive(works: list[Work], tools: Tools) -> None:
    for work in works:
        repeated = repeated_share(work.text, words=REPEATED_WORDS)
        if repeated > MOST_REPEATED:
            work.reject("repetitive", f"{repeated:.0%} of it are repetitions")


def check_self_contained(works: list[Work], tools: Tools) -> None:
    for work in works:
        if found := NEEDS_ITS_PAGE.search(work.data["question"]):
            work.reject("not_self_contained", f"it says {found[0]!r}")
