"""A judge that says whether two expressions are the same answer, in the published way and in ours.

The published judge reads the answer as it stands inside its prompt, so that an answer can address it; it is sampled at
temperature 0.5; and it must write `yes` and nothing else: "Yes." is a no. Each of these is a switch. What our reading
cannot take for yes or no is `judge failed`, and so is a prompt that the judge refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from megaphi.conversation import Conversation, Message
from megaphi.evaluation.task import GradingTools, Switch
from megaphi.evaluation.tasks.quirks import JUDGE_READS_IT_RAW, JUDGE_SAMPLES
from megaphi.evaluation.tasks.wording import filled
from megaphi.judging.fence import make_fence
from megaphi.sampling import Sampling

YES_EXACTLY = Switch(
    name="yes-exactly",
    on="Only `yes`, in any case of letters, means equal: `Yes.` and `**Yes**` mean different.",
    off="The first word decides, whatever surrounds it; what is neither yes nor no is a failure of the judge.",
    changes="grading",
)
JUDGE_QUIRKS = (JUDGE_READS_IT_RAW, JUDGE_SAMPLES, YES_EXACTLY)
EQUALITY = """\
You compare two answers to a mathematical problem. Decide whether they mean the same. Simplify only where it is obvious.

    First: $a - b$
    Second: $-b + a$

Yes

    First: 7/4
    Second: 1.75

Yes

    First: $n^2 - 1$
    Second: $m^2 - 1$

No

    First: $(x - 1)(x + 1)$
    Second: $x^2 - 1$

Yes

    First: 2874/6
    Second: 479

No
(equal, but that takes a calculation)

    First: $-\\frac{5}{8}$
    Second: 5/(-8)

Yes

    First: 15
    Second: 15 miles per hour

Yes
(a unit that only one of them has is no difference)

Now your pair. Write one word, Yes or No, and no reason.

    First: {first}
    Second: {second}"""


def judged_equal(
    pairs: Sequence[tuple[str, str, str]], wording: Mapping[str, str], on: frozenset[str], tools: GradingTools
) -> list[tuple[bool | None, str]]:
    """(equal, what the judge wrote) for each (item's name, key, answer); None for a judge that failed.

    Raises:
        RunFailed: the judge does not answer at all.
    """
    if tools.judge is None:
        raise AssertionError("a task that needs a judge is refused before anything is asked")
    prompts = [_prompt(*pair, wording, on, tools.seed) for pair in pairs]
    if JUDGE_SAMPLES.name in on:
        rules = Sampling(max_tokens=1_024, temperature=0.5, seed=tools.seed)
        said = tools.judge.answers(prompts, rules)
    else:
        unique = list(dict.fromkeys(prompts))
        answers = dict(zip(unique, tools.judge.answers(unique, Sampling(max_tokens=1_024)), strict=True))
        said = [answers[prompt] for prompt in prompts]
    return [(_verdict(one, on), "the judge refused" if one is None else one) for one in said]


def _prompt(
    name: str, key: str, answer: str, wording: Mapping[str, str], on: frozenset[str], seed: int
) -> Conversation:
    if JUDGE_READS_IT_RAW.name in on:
        return Conversation((Message("user", filled(wording["equality"], first=key, second=answer)),))
    fence = make_fence(seed=seed, name=name, texts=(key, answer))
    quoted = (f"\n{fence.quote(label, text)}" for label, text in (("first", key), ("second", answer)))
    asked = filled(wording["equality"], **dict(zip(("first", "second"), quoted, strict=True)))
    return Conversation((Message("user", f"{fence.rule}\n\n{asked}"),))


def _verdict(said: str | None, on: frozenset[str]) -> bool | None:
    if said is None:
        return None
    if YES_EXACTLY.name in on:
        return said.lower().strip() == "yes"
    first = re.match(r"[\W_]*(yes|no)\b", said, re.IGNORECASE)
    return first[1].lower() == "yes" if first else None
