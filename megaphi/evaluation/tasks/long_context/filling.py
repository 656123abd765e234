"""Filling a context: as many units (pairs, passages, examples, pieces of a document) as fit into a length.

A prompt is measured as the model will see it, rendered with all control tokens. Units are added until one more would
not leave room for the answer, so the length is never exceeded and never missed by more than one unit. Where the
answer stands is spread evenly over the items: item by item in another slice of the context, in shuffled order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megaphi.conversation import Conversation, Message
from megaphi.errors import InputError
from megaphi.evaluation.task import Item
from megaphi.evaluation.tasks.wording import filled
from megaphi.tokenizer.interface import Tokenizer

Prompt = Conversation | str


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledContext:
    """The key of a generated item: its prompt, and what answers it."""

    prompt: Prompt
    answers: tuple[str, ...]
    """Texts each of which is right."""
    relevance: Mapping[str, int] = field(default_factory=dict)
    """Grade of each document that is to be ranked, by its id in the prompt."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Tokens of the prompt, units in it, `depth` of the answer from 0 to 1; for reports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Making:
    """All that items of one task and one length are made of."""

    task: str
    chat: bool
    """False: the prompt is a text that a base model continues."""
    room: int
    """Tokens kept free for the answer."""
    wording: Mapping[str, str]
    items: Sequence[Item]
    shots: Sequence[Item]
    tokens: int
    """Prompt and answer together."""
    count: int
    seed: int
    tokenizer: Tokenizer

    def draw(self, name: str) -> random.Random:
        """Random numbers of an item, by the seed, the task, the length and its name."""
        return random.Random(f"{self.seed}/{self.task}/{self.tokens}/{name}")

    def depths(self, count: int) -> list[float]:
        """Places from 0 to 1, one in each of `count` equal slices, shuffled."""
        draw = self.draw("depths")
        places = [(number + draw.random()) / count for number in range(count)]
        draw.shuffle(places)
        return places

    def prompt(self, **values: str) -> Prompt:
        """The template filled: a user's message, or a text that ends with the cue of the answer.

        Raises:
            InputError: a user's template has no place for one of the values.
        """
        name = "chat" if self.chat else "text"
        missing = [value for value in values if f"{{{value}}}" not in self.wording[name]]
        if missing:
            raise InputError(f"task {self.task}: the template {name!r} has no place for {{{missing[0]}}}")
        text = filled(self.wording[name], **values)
        return Conversation((Message("user", text),)) if self.chat else text

    def tokens_of(self, prompt: Prompt) -> int:
        """Tokens as the model sees them."""
        if isinstance(prompt, str):
            return len(self.tokenizer.text_start) + len(self.tokenizer.encode(prompt))
        return len(self.tokenizer.render(prompt, add_generation_prompt=True).ids)

    def most_units(self, build: Callable[[int], Prompt], *, least: int, most: int, guess: int = 0) -> tuple[int, int]:
        """(units, tokens of their prompt): the largest number of units whose prompt leaves room for the answer.

        Args:
            build: the prompt with so many units; one unit more is at least one token more.
            least: units that the item cannot do without.
            most: units that there are.
            guess: where to look first, as the number of the item before.

        Raises:
            InputError: not even `least` fit.
        """
        budget = self.tokens - self.room
        low, low_tokens = least, self.tokens_of(build(least))
        if low_tokens > budget:
            raise InputError(
                f"{self.task}: {self.tokens} tokens are too short: the smallest prompt has {low_tokens}, and the "
                f"answer needs room for {self.room}. Ask for greater --lengths"
            )
        high, high_tokens, first = most + 1, 0, low_tokens
        step = 0
        while high - low > 1:
            if high_tokens:
                ahead = (high - low) * (budget - low_tokens) / (high_tokens - low_tokens)
            elif low > least:
                ahead = (budget - low_tokens) * (low - least) / max(low_tokens - first, 1)
            else:
                ahead = max(guess - low, (budget - low_tokens) / 32)
            step += 1
            number = min(max(low + max(int(ahead), 1), low + 1), high - 1)
            if high_tokens and step % 4 == 0:
                number = (low + high) // 2
            tokens = self.tokens_of(build(number))
            if tokens <= budget:
                low, low_tokens = number, tokens
            else:
                high, high_tokens = number, tokens
        return low, low_tokens

    def filled_item(self, item: Item, context: FilledContext) -> Item:
        """The item at this length. `item.cluster` or its name is the cluster: it comes at other lengths too."""
        return Item(
            name=f"{self.tokens}/{item.name}",
            question=item.question,
            gold=item.gold,
            key=context,
            cluster=item.cluster or item.name,
            group=str(self.tokens),
        )

    def too_little(self, what: str, units: int, tokens: int) -> InputError:
        return InputError(
            f"{self.task}: the files hold too little to fill {self.tokens} tokens: all {units} {what} make {tokens}, "
            f"with {self.room} more for the answer. Give more of them, or ask for shorter --lengths"
        )


def placed(needle: str, others: Sequence[str], depth: float) -> list[str]:
    """The needle among the others, `depth` of the way from the first place to the last."""
    place = int(depth * (len(others) + 1))
    return [*others[:place], needle, *others[place:]]
