"""Judges made for tests: they read the criteria off the prompt, as a model would, and answer in its form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from megaphi.conversation import Conversation
from megaphi.sampling import Sampling

CRITERION = re.compile(r"^(\d+)\. (.+?) \(0 to (\d+)\): ", re.MULTILINE)


def criteria_in(prompt: Conversation) -> list[tuple[str, int]]:
    """(name, most points) of the criteria that a prompt lists, in its order."""
    user = prompt.messages[-1].content
    start = user.index("The criteria:\n")
    listed = user[start : user.index(" begin answer to grade ", start)]
    return [(name, int(most)) for _, name, most in CRITERION.findall(listed)]


def verdicts(points: Sequence[int]) -> str:
    """An answer with these points, in the form that the prompt asks for."""
    listed = [
        {"criterion": number, "reasons": f"because of {number}", "points": one}
        for number, one in enumerate(points, start=1)
    ]
    return json.dumps({"verdicts": listed})


class ScriptedJudge:
    """A judge that answers as `answer` says, and keeps what it was asked."""

    name = "scripted"

    def __init__(self, answer: Callable[[Conversation, Sampling], str | None]) -> None:
        self._answer = answer
        self.asked: list[tuple[Conversation, Sampling]] = []

    def answers(self, prompts: Sequence[Conversation], rules: Sampling) -> list[str | None]:
        """See `Judge`."""
        self.asked += [(prompt, rules) for prompt in prompts]
        return [self._answer(prompt, rules) for prompt in prompts]


def judge_by(points: Callable[[str, int, int], int]) -> ScriptedJudge:
    """A judge that gives `points(name, most, pass)` for each criterion; the pass is known by the seed, 0 or 1."""
    return ScriptedJudge(
        lambda prompt, rules: verdicts([points(name, most, rules.seed) for name, most in criteria_in(prompt)])
    )
