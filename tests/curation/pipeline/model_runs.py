"""A rank of the tests of models: a checkpoint that two steps of a curation ask for, and a second that is refused."""

from __future__ import annotations

from typing import Any

from megaphi.curation.pipeline.models import ModelOpener
from megaphi.errors import InputError
from megaphi.sampling import Sampling

RULES = Sampling(max_tokens=4, temperature=1.0, seed=2)
PROMPTS = ([5, 6, 7], [9, 8])


def one_checkpoint(first: str, second: str) -> dict[str, Any]:
    opener = ModelOpener(tokenizer="phi4", batch=4)
    sampler = opener(first)
    found = [[answer.tokens for answer in one] for one in sampler.sample(PROMPTS, RULES)]
    try:
        opener(second)
        refused = ""
    except InputError as error:
        refused = str(error)
    once = ModelOpener(tokenizer="phi4", batch=4)(first) is sampler
    sampler.close()  # pyright: ignore[reportAttributeAccessIssue]
    return {"found": found, "once": once, "refused": refused, "identity": bool(sampler.identity)}  # pyright: ignore[reportAttributeAccessIssue]
