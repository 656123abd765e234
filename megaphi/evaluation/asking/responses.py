"""A model's responses to items, and a judge's answers, through any sampler.

Prompts go to the sampler in as few calls as there are rules, so that an engine is full and a server is asked many at a
time. A prompt that is refused, as one that does not fit the context, costs the others nothing and is counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from megaphi.conversation import Conversation
from megaphi.errors import AffectsAll, InputError
from megaphi.evaluation.asking.likelihoods import scorer_of
from megaphi.evaluation.task import Asked, Choose, Continue, Item, LogLikelihood, TaskResponse
from megaphi.judging.asking import sample_each
from megaphi.sampling import Answer, Prompt, Sampler, Sampling

LONGEST_REASON = 300


class SamplerJudge:
    """Implements `Judge` over any sampler."""

    def __init__(self, sampler: Sampler) -> None:
        self.name = sampler.name
        self._sampler = sampler

    def answers(self, prompts: Sequence[Conversation], rules: Sampling) -> list[str | None]:
        """See `Judge`. An answer that was cut off is None: what it would have said is not known.

        Where answers are drawn, a prompt that comes twice is drawn twice. Raises InputError if all are refused.
        """
        times: Counter[Conversation] = Counter()
        seeds = []
        for prompt in prompts:
            seeds.append(seed_of(rules, f"{prompt} {times[prompt]}"))
            times[prompt] += 1
        found = sample_each(self._sampler, prompts, rules, seeds=seeds)
        return [None if isinstance(one, InputError) or one[0].finish == "length" else one[0].text for one in found]


def seed_of(rules: Sampling, name: str) -> int:
    """The seed for one prompt among many: with one for all, they would share their draws and not be independent."""
    if rules.temperature == 0:
        return rules.seed
    return int.from_bytes(hashlib.sha256(f"{rules.seed} {name}".encode("utf-8", "backslashreplace")).digest()[:4]) >> 1


def responses_of(items: Sequence[Item], asked: Sequence[Asked], sampler: Sampler, *, seed: int) -> list[TaskResponse]:
    """The responses to all items, in order, repeats of an item together. Those that are refused say why.

    Raises:
        InputError: the sampler knows no log-probabilities where they are asked for; or what is wrong is not about a
            prompt (`AffectsAll`), as a key that is refused, or a journal that cannot be written.
        RunFailed: it does not answer.
    """
    found: dict[int, list[TaskResponse]] = {}
    groups: dict[tuple[Sampling, int], list[tuple[int, int, Prompt]]] = defaultdict(list)
    for number, one in enumerate(asked):
        if isinstance(one, Continue):
            rules = replace(one.rules, seed=seed if one.rules.temperature > 0 else 0)
            if not one.prompts:
                groups[rules, one.repeats].append((number, 0, one.prompt))
            for repeat, prompt in enumerate(one.prompts):
                groups[rules, 1].append((number, repeat, prompt))
    for (rules, repeats), members in groups.items():
        seeds = [seed_of(rules, f"{items[number].name} {repeat}") for number, repeat, _ in members]
        answers = _each(sampler, [prompt for *_, prompt in members], rules, samples=repeats, seeds=seeds)
        for (number, first, _), some in zip(members, answers, strict=True):
            each: Sequence[Answer | InputError] = [some] * repeats if isinstance(some, InputError) else some
            found.setdefault(number, []).extend(
                _response(items[number], asked[number], first + place, answer) for place, answer in enumerate(each)
            )
    found |= _scored(items, asked, sampler)
    return [response for number in range(len(items)) for response in found[number]]


def _each(
    sampler: Sampler, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1, seeds: Sequence[int]
) -> list[list[Answer] | InputError]:
    """`sample_each`, in which all prompts may be refused for one reason, as if none of them fits."""
    try:
        return sample_each(sampler, prompts, rules, samples=samples, seeds=seeds)
    except AffectsAll:
        raise
    except InputError as error:
        return [error] * len(prompts)


def _response(item: Item, asked: Asked, repeat: int, answer: Answer | InputError) -> TaskResponse:
    if isinstance(answer, InputError):
        return TaskResponse(item=item, asked=asked, repeat=repeat, refused=str(answer)[:LONGEST_REASON])
    return TaskResponse(
        item=item,
        asked=asked,
        repeat=repeat,
        text=answer.text,
        finish=answer.finish,
        tokens=len(answer.tokens),
    )


def _scored(items: Sequence[Item], asked: Sequence[Asked], sampler: Sampler) -> dict[int, list[TaskResponse]]:
    chosen = {number: one for number, one in enumerate(asked) if isinstance(one, Choose)}
    if not chosen:
        return {}
    pairs = [(one.context, continuation) for one in chosen.values() for continuation in one.continuations]
    scores = iter(scorer_of(sampler).log_likelihoods(pairs))
    found = {}
    for number, one in chosen.items():
        some = [next(scores) for _ in one.continuations]
        likelihoods = tuple(score for score in some if isinstance(score, LogLikelihood))
        refused = next((score for score in some if isinstance(score, str)), "")
        response = TaskResponse(
            item=items[number],
            asked=one,
            likelihoods=() if refused else likelihoods,
            tokens=sum(score.tokens for score in likelihoods),
            refused=refused[:LONGEST_REASON],
        )
        found[number] = [response]
    return found
