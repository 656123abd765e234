"""page.html of an evaluation: one file that needs nothing else, in which one browses every graded response.

The responses lie in it as gzip blocks of a hundred, unpacked when they are looked at, so that 50,000 of them open as
fast as ten. The policy of the page allows its one script, by hash, and no loading; text of models is never markup.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from megaphi.evaluation.report.markdown import contamination_rows, not_scanned, points, published_cells, quirk_ends
from megaphi.evaluation.report.summary import TaskSummary
from megaphi.evaluation.results import Evaluation

TEMPLATE, SCRIPT = Path(__file__).with_name("page.html"), Path(__file__).with_name("page.js")
BLOCK = 100
"""Responses in a block; page.js knows it too."""
QUESTION = 160
"""Characters of a question in the list."""


def render_page(evaluation: Evaluation, summaries: Sequence[TaskSummary]) -> str:
    from markupsafe import Markup

    script = SCRIPT.read_text()
    facts = {"protocol": evaluation.protocol, "judge": evaluation.judge or "none", "version": evaluation.version}
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        title=f"{evaluation.model}: evaluation",
        facts=", ".join(f"{name} {value}" for name, value in facts.items()),
        rows=[_row(one, evaluation.protocol) for one in summaries],
        quirks=_bars(summaries),
        contamination=list(contamination_rows(summaries)),
        not_scanned=", ".join(not_scanned(summaries)),
        blocks=list(_blocks(summaries)),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def _row(one: TaskSummary, protocol: str) -> dict[str, str]:
    published, against = published_cells(one, protocol)
    return {
        "task": f"{one.result.task}: {one.result.scores[0]}",
        "asked": f"{one.items:,}",
        "answers": f"{one.graded.answers:,}",
        "score": points(one.score),
        "as_wrong": points(one.as_wrong),
        "left_out": points(one.left_out),
        "published": published,
        "against": against,
    }


def _bars(summaries: Sequence[TaskSummary]) -> list[dict[str, Any]]:
    """Points that each quirk is worth, and the length of its bar as a share of the longest."""
    worths = [(one, name, worth) for one in summaries for name, worth in one.result.quirks.items()]
    longest = max((abs(worth) for *_, worth in worths), default=0) or 1
    return [
        {
            "name": f"{one.result.task}: {name}",
            "points": f"{worth:+.2f}",
            "ends": quirk_ends(one, name),
            "length": f"{abs(worth) / longest:.4f}",
            "lowers": worth < 0,
        }
        for one, name, worth in worths
    ]


def _blocks(summaries: Sequence[TaskSummary]) -> Iterator[dict[str, str]]:
    yield _packed("overview", [one.result.task for one in summaries])
    for number, one in enumerate(summaries):
        headline, responses = one.result.scores[0], one.result.responses
        listed = [
            [
                answer.item,
                answer.repeat,
                answer.group,
                answer.scores[headline],
                answer.problem,
                " ".join(answer.question[: 2 * QUESTION].split())[:QUESTION],
            ]
            for answer in responses
        ]
        yield _packed(f"i{number}", listed)
        for start in range(0, len(responses), BLOCK):
            full = [
                {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
                for answer in responses[start : start + BLOCK]
            ]
            yield _packed(f"d{number}-{start // BLOCK}", full)


def _packed(name: str, value: Any) -> dict[str, str]:
    """ASCII JSON, as a lone surrogate of a model's text is no UTF-8; without a time stamp, so that pages are equal."""
    try:
        text = json.dumps(value, allow_nan=False, default=dict)
    except ValueError:  # no JSON of a browser has numbers that are none
        text = json.dumps(_without_nan(value))
    return {"name": name, "content": base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()}


def _without_nan(value: Any) -> Any:
    """The value with numbers that are not finite as words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _without_nan(one) for key, one in value.items()}
    return [_without_nan(one) for one in value] if isinstance(value, list | tuple) else value


@cache
def _template() -> Any:
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text())
