"""Fill in the middle as an instruction: a natural span of the seed is taken out, and a model writes what asks for it.

The answer is the seed's own text. An instruction that gives it away in its own words is rejected by the check `hidden`.
"""

from __future__ import annotations

from random import Random

from megaphi.curation.synthesize.forms.natural_spans import natural_spans
from megaphi.curation.synthesize.forms.overlap import shared_share
from megaphi.curation.synthesize.forms.work import Tools, Work, open_works

AROUND = 3_000
"""Characters shown on each side of the span."""
GAP = "[...]"
GRAM, MOST_SHARED = 4, 0.25
"""Words in a row, and the share of those of the span that its instruction may have."""


def draft_middles(works: list[Work], tools: Tools) -> list[Work]:
    for work in works:
        _choose_span(work)
    left = open_works(works)
    prompts = [tools.draft_prompt(work, document=_marked(work)) for work in left]
    for work, instruction in zip(left, tools.write(left, prompts, tokens=works[0].kind.tokens), strict=True):
        if instruction is not None:
            _show(work, instruction)
    return works


def _choose_span(work: Work) -> None:
    """A span for each work of a document, so long as there are that many."""
    text, span = work.document.text, work.kind.settings["span"]
    spans = natural_spans(text, span)
    if len(spans) <= work.number:
        work.reject("no_span", f"{len(spans)} spans of the sort {span}")
        return
    start, end = Random(len(text)).sample(spans, len(spans))[work.number]
    work.data |= {
        "prefix": text[max(0, start - AROUND) : start],
        "middle": text[start:end],
        "suffix": text[end : end + AROUND],
    }
    work.found["span"] = [start, end]


def _marked(work: Work) -> str:
    prefix, middle, suffix = (work.data[name] for name in ("prefix", "middle", "suffix"))
    return f"{prefix}\n[[HERE BEGINS THE MISSING PART]]\n{middle}\n[[HERE ENDS THE MISSING PART]]\n{suffix}"


def _show(work: Work, instruction: str) -> None:
    prefix, middle, suffix = (work.data[name] for name in ("prefix", "middle", "suffix"))
    work.data |= {"instruction": instruction, "question": instruction, "answer": middle}
    asked = f"{instruction}\n\n{prefix}{GAP}{suffix}"
    work.messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": middle}]
    work.text = f"{asked}\n\n{middle}"
    work.keeps["fill_in_the_middle"] = {"prefix": prefix, "middle": middle, "suffix": suffix}


def check_hidden(works: list[Work], tools: Tools) -> None:
    """Take out works whose instruction holds the words of the missing part."""
    for work in works:
        middle, instruction = work.data["middle"].strip(), work.data["instruction"]
        shared = 1.0 if middle in instruction else shared_share(middle, instruction, words=GRAM)
        if shared > MOST_SHARED:
            work.reject("given_away", f"{shared:.0%} of the missing part stands in the instruction")
