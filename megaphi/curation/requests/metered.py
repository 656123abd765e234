"""A sampler under a budget of tokens, which pays for no answer twice and knows what it has cost.

A sampler that keeps a journal (ours do) is lent the step's for each call, so that every answer is on disk as it ends.
The answers of any other are written as the call returns. Before a prompt is sent its cost is bounded: a token for every
byte of it, and the most tokens that its answers may have. A prompt that may not fit into what is left is not sent and
gets the answer `cancelled`. What an interrupted run has paid for is free, so a resumed run decides as it would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from megaphi.conversation import Conversation, to_plain
from megaphi.curation.requests.step_journal import StepJournal
from megaphi.generation.client.request_journal import request_key
from megaphi.sampling import Answer, Prompt, Sampler, Sampling, answer_from_plain, plain_answer

FRAME_TOKENS = 128
"""More than a chat format puts around the text of one conversation, a system prompt of its own included."""
CANCELLED = Answer(tokens=(), text="", log_probabilities=(), finish="cancelled", prompt_tokens=0)


@dataclass(slots=True)
class RequestCounts:
    """Counts of a step's requests in this process."""

    prompts: int = 0
    """Sent to the sampler, with one or several answers each."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    replayed: int = 0
    """Prompts whose answers were in the journal."""
    over_budget: int = 0
    """Prompts that were not sent."""


class MeteredSampler:
    """Implements `Sampler` over another one."""

    def __init__(
        self,
        sampler: Sampler,
        journal: StepJournal,
        *,
        place: str,
        budget_tokens: int | None,
        usage: RequestCounts | None = None,
    ) -> None:
        """Lend the sampler the journal.

        Args:
            place: where the sampler is, as the recipe names it: answers of another place are not taken for its own.
            budget_tokens: prompts and answers together, of all processes and runs that share the journal.
            usage: is added to.
        """
        self.name = sampler.name
        self.usage = usage if usage is not None else RequestCounts()
        self._sampler = sampler if hasattr(sampler, "journal") else _Journaled(sampler)
        self._journal, self._budget = journal, budget_tokens
        self._identity = [place, sampler.name, getattr(sampler, "identity", ""), getattr(sampler, "url", "")]

    def sample(
        self, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Answer]]:
        """See `Sampler`. The answers of prompts that do not fit into the budget are `CANCELLED`."""
        seeds = seeds if seeds is not None else [rules.seed] * len(prompts)
        keys = [self._key(prompt, rules, samples, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        found: dict[str, list[Answer]] = {}
        waiting = sorted(first.values())
        while waiting:
            self._journal.refresh()
            sent = self._that_fit(waiting, prompts, keys, samples * rules.max_tokens)
            if not sent:
                break
            chosen, own = [prompts[place] for place in sent], [seeds[place] for place in sent]
            for place, answers in zip(sent, self._ask(chosen, rules, samples, own), strict=True):
                self._settle(keys[place], answers)
                found[keys[place]] = answers
            waiting = [place for place in waiting if keys[place] not in found]
        self.usage.over_budget += len(waiting)
        return [found.get(key) or [CANCELLED] * samples for key in keys]

    def _that_fit(
        self, waiting: Sequence[int], prompts: Sequence[Prompt], keys: Sequence[str], answer_tokens: int
    ) -> list[int]:
        """Those that are paid for, and of the others as many as fit into the budget together, the first ones first."""
        if self._budget is None:
            return list(waiting)
        left, fitting = self._budget - self._journal.paid_tokens, []
        for place in waiting:
            if keys[place] not in self._journal:
                left -= prompt_tokens_at_most(prompts[place]) + answer_tokens
                if left < 0:
                    break
            fitting.append(place)
        known = [place for place in waiting if keys[place] in self._journal]
        return sorted({*fitting, *known})

    def _ask(
        self, prompts: Sequence[Prompt], rules: Sampling, samples: int, seeds: Sequence[int]
    ) -> list[list[Answer]]:
        lender = cast(Any, self._sampler)
        before, lender.journal = lender.journal, self._journal
        try:
            return self._sampler.sample(prompts, rules, samples=samples, seeds=seeds)
        finally:
            lender.journal = before

    def _settle(self, key: str, answers: Sequence[Answer]) -> None:
        """Count a prompt that was answered, and keep what it cost if it is new."""
        if key in self._journal:
            self.usage.replayed += 1
            return
        prompt_tokens, answer_tokens = answers[0].prompt_tokens, sum(len(answer.tokens) for answer in answers)
        self._journal.pay(key, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)
        self.usage.prompts += 1
        self.usage.prompt_tokens += prompt_tokens
        self.usage.answer_tokens += answer_tokens

    def _key(self, prompt: Prompt, rules: Sampling, samples: int, seed: int) -> str:
        asked = {"prompt": _plain_prompt(prompt), "rules": asdict(replace(rules, seed=seed)), "samples": samples}
        return request_key("account", [self._identity, asked])


class _Journaled:
    """Keeps the answers of a sampler that has no journal of its own."""

    def __init__(self, sampler: Sampler) -> None:
        self.name, self._sampler = sampler.name, sampler
        self.journal: StepJournal | None = None

    def sample(
        self, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Answer]]:
        assert self.journal is not None
        assert seeds is not None
        keys = [
            request_key(self.name, [_plain_prompt(prompt), asdict(replace(rules, seed=seed)), samples])
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        new = [place for place, key in enumerate(keys) if key not in self.journal]
        if new:
            chosen, own = [prompts[place] for place in new], [seeds[place] for place in new]
            answered = self._sampler.sample(chosen, rules, samples=samples, seeds=own)
            for place, answers in zip(new, answered, strict=True):
                self.journal.add(keys[place], [plain_answer(answer) for answer in answers])
        return [[answer_from_plain(plain) for plain in self.journal.get(key) or []] for key in keys]


def prompt_tokens_at_most(prompt: Prompt) -> int:
    """Tokens that a prompt has at most: a byte-level tokenizer makes no more than there are bytes."""
    if isinstance(prompt, Conversation):
        return FRAME_TOKENS + sum(_bytes(message.content) for message in prompt.messages)
    return _bytes(prompt) + FRAME_TOKENS if isinstance(prompt, str) else len(prompt)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _plain_prompt(prompt: Prompt) -> Any:
    if isinstance(prompt, Conversation):
        return to_plain(prompt)
    return prompt if isinstance(prompt, str) else list(prompt)
