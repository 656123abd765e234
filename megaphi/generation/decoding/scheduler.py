"""Who runs next: waiting requests, running texts, their blocks of the cache, and what one pass computes of each.

A text takes a place as soon as one is free, in order of arrival (continuous batching), with whatever prefix of it the
cache holds already. It waits if a text before it is about to compute more of its prefix. A pass takes one token of
every text that is being continued and up to `pass_tokens` tokens of prompts. When blocks run out, the text that came
last gives its own back and waits; it goes on from its tokens as if nothing had happened, because a draw depends on its
place only. Every rank decides the same from the same tokens, so nothing of this is communicated.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from megaphi.generation.decoding.cache_blocks import BlockPool, Key, block_keys
from megaphi.generation.decoding.interface import Request, Score
from megaphi.generation.decoding.json_constraint import Constraint


@dataclass(slots=True, eq=False)
class Text:
    """A request with what has become of it."""

    request: Request
    tokens: list[int]
    """Prompt and answer."""
    computed: int = 0
    """Tokens whose keys and values are in the cache, or will be after the pass that is being made."""
    blocks: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    """Of the full blocks of all its tokens."""
    published: int = 0
    """Full blocks that others can find."""
    scores: list[Score] = field(default_factory=list)
    constraint: Constraint | None = None
    """What the answer must be, once that was asked."""

    @property
    def answer(self) -> list[int]:
        return self.tokens[len(self.request.prompt) :]

    @property
    def first_scored(self) -> int:
        """The first place whose next token is to be scored; one past the last if none is."""
        return len(self.tokens) - (self.request.scored + 1 if self.request.scored else 0)


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens [start, end) of a text, to be computed in one pass."""

    text: Text
    start: int
    end: int

    @property
    def wanted(self) -> range:
        """Places in the text after which logits are wanted."""
        if self.text.request.scored:  # nothing follows the last token of a text that is only scored
            return range(max(self.start, self.text.first_scored), min(self.end, len(self.text.tokens) - 1))
        return range(self.end - 1, self.end) if self.end == len(self.text.tokens) else range(0)


class Schedule:
    """`rows`: texts that run at once; `pass_tokens`: tokens of prompts in one pass; `scored_rows`: logits in one."""

    def __init__(self, pool: BlockPool, *, rows: int, pass_tokens: int, scored_rows: int) -> None:
        self.pool, self.rows = pool, rows
        self.pass_tokens, self.scored_rows = pass_tokens, scored_rows
        self.waiting: deque[Text] = deque()
        self.running: list[Text] = []
        self.reused_tokens = 0
        """Tokens of prompts that were in the cache already."""
        self.put_back = 0
        """How often a text gave its blocks up."""

    def add(self, request: Request) -> None:
        text = Text(request, list(request.prompt))
        text.keys = list(block_keys(text.tokens, size=self.pool.size))
        self.waiting.append(text)

    def remove(self, name: str) -> Text | None:
        """Take a request out, wherever it is."""
        for queue in (self.running, self.waiting):
            for text in queue:
                if text.request.name == name:
                    queue.remove(text)
                    self._release(text)
                    return text
        return None

    def finish(self, text: Text) -> None:
        self.running.remove(text)
        self._release(text)

    def append(self, text: Text, token: int) -> None:
        """A new token of a running text."""
        text.tokens.append(token)
        full = len(text.tokens) // self.pool.size
        if full > len(text.keys):
            after = text.keys[-1] if text.keys else b""
            text.keys += block_keys(text.tokens, size=self.pool.size, after=after, start=(full - 1) * self.pool.size)

    def next_pass(self) -> list[Part]:
        """What to compute now; the texts of single tokens first. Empty only if nothing waits or runs."""
        self._admit()
        parts, room, wanted = [], self.pass_tokens, self.scored_rows
        for text in list(self.running):
            if text not in self.running:  # it has just given its blocks up
                continue
            pending = len(text.tokens) - text.computed
            count = min(pending, room) if pending > 1 else pending
            if text.request.scored:
                count = min(count, max(text.first_scored - text.computed, 0) + wanted)
            if count < 1 or not self._reserve(text, text.computed + count):
                continue
            part = Part(text, text.computed, text.computed + count)
            parts.append(part)
            room -= count if count > 1 else 0
            wanted -= len(part.wanted) if text.request.scored else 0
            text.computed += count
            self._publish(text)
        return sorted(parts, key=lambda part: part.end - part.start > 1)

    def _admit(self) -> None:
        about_to_come = {key for text in self.running for key in text.keys[text.published :]}
        skipped: list[Text] = []
        while self.waiting and len(self.running) < self.rows:
            text = self.waiting.popleft()
            # The last token is computed in any case: what follows it is what is asked for.
            usable = min(len(text.tokens) - 1, text.first_scored) // self.pool.size
            found = self.pool.find(text.keys[:usable])
            if len(found) < usable and text.keys[len(found)] in about_to_come:
                skipped.append(text)
                continue
            self.pool.hold(found)
            if self.running and self.pool.free < self.pool.needed(len(text.tokens) + 1) - len(found):
                self.pool.give_back(found)
                skipped.append(text)
                break
            text.blocks, text.published = found, len(found)
            text.computed = len(found) * self.pool.size
            self.reused_tokens += text.computed
            self.running.append(text)
            about_to_come |= set(text.keys[text.published :])
        self.waiting.extendleft(reversed(skipped))

    def _reserve(self, text: Text, tokens: int) -> bool:
        """Blocks for so many tokens; texts that came later give theirs up for it."""
        while len(text.blocks) < self.pool.needed(tokens):
            if not self.pool.free:
                last = self.running[-1]
                self._put_back(last)
                if last is text:
                    return False
                continue
            text.blocks.append(self.pool.take())
        return True

    def _put_back(self, text: Text) -> None:
        self.running.remove(text)
        self._release(text)
        self.put_back += 1
        text.scores.clear()
        self.waiting.appendleft(text)

    def _publish(self, text: Text) -> None:
        for place in range(text.published, text.computed // self.pool.size):
            self.pool.publish(text.blocks[place], text.keys[place])
            text.published = place + 1

    def _release(self, text: Text) -> None:
        self.pool.give_back(text.blocks)
        text.blocks, text.computed, text.published = [], 0, 0
