"""Continuous batching: waiting requests, running sequences, their cache blocks, and what each forward pass computes.

A request takes a slot as soon as one is free, in order of arrival, with whatever prefix the cache holds already; it
waits while a running sequence is about to compute more of that prefix. Full blocks of a prefix are shared, and what a
running sequence has of the block after them is copied: samples of one prompt compute its last token only.

A pass computes one token of every sequence that is being decoded, with a draft of what follows it where there is one,
and up to `prefill_tokens` prompt tokens in prefill chunks. What a wrong draft leaves in the cache is overwritten before
anything reads it. When blocks run out, the sequence that came last is preempted: it frees its blocks, waits, and later
continues from its tokens with the same result, because a draw depends on its position only. So is one whose turn is
over (`suspend`), until it is resumed. Every rank decides the same from the same tokens: nothing here is communicated.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from megaphi.generation.decoding.cache_blocks import BlockPool, Key, block_keys
from megaphi.generation.decoding.drafts import Drafter
from megaphi.generation.decoding.interface import Request, Score
from megaphi.generation.decoding.json_constraint import Constraint

WORTH_WAITING = 4
"""Tokens of a prefix that a running sequence is about to compute, for which a request waits a pass instead."""


@dataclass(slots=True, eq=False)
class SequenceState:
    """A request with its tokens so far and its blocks of the cache."""

    request: Request
    tokens: list[int]
    """Tokens of the prompt and the answer."""
    computed: int = 0
    """Tokens whose keys and values are in the cache, or will be after the current pass."""
    blocks: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    """Keys of the full blocks of all its tokens."""
    published: int = 0
    """Full blocks that other sequences can find."""
    scores: list[Score] = field(default_factory=list)
    constraint: Constraint | None = None
    """The grammar of the answer, opened when its first token is chosen."""

    @property
    def answer(self) -> list[int]:
        return self.tokens[len(self.request.prompt) :]

    @property
    def end(self) -> int:
        """Tokens that are computed: all, or all but the last of a sequence that is only scored, which nothing reads."""
        return len(self.tokens) - (1 if self.request.scored else 0)

    @property
    def first_scored(self) -> int:
        """The first position whose next token is to be scored; one past the last if none is."""
        return len(self.tokens) - (self.request.scored + 1 if self.request.scored else 0)


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Tokens [start, end) of a sequence, computed in one pass: a decoded token and its draft, or a chunk of prefill."""

    sequence: SequenceState
    start: int
    end: int
    draft: tuple[int, ...] = ()
    """Guesses of the tokens from `end` on, computed in the same pass."""

    @property
    def tokens(self) -> list[int]:
        """The tokens to compute."""
        return [*self.sequence.tokens[self.start : self.end], *self.draft]

    @property
    def positions(self) -> range:
        """Their positions in the sequence."""
        return range(self.start, self.end + len(self.draft))

    @property
    def is_prefill(self) -> bool:
        """Return whether it holds several known tokens."""
        return self.end - self.start > 1

    @property
    def logit_positions(self) -> range:
        """Positions in the sequence whose logits are needed."""
        if self.sequence.request.scored:
            return range(max(self.start, self.sequence.first_scored), self.end)
        is_whole = self.end == len(self.sequence.tokens)
        return range(self.end - 1, self.end + len(self.draft)) if is_whole else range(0)


class BlockCopy(NamedTuple):
    """The first positions of a block, copied to another before anything of a pass is stored."""

    source: int
    target: int
    positions: int


class Scheduler:
    """Decides what each pass computes.

    Args:
        slots: sequences that run at once.
        prefill_tokens: prompt tokens in one pass.
        scored_tokens: tokens scored in one pass, and guessed ones: each needs the logits of the whole vocabulary.
        drafter: guesses the next tokens of sequences that have a family; None guesses none.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        slots: int,
        prefill_tokens: int,
        scored_tokens: int,
        drafter: Drafter | None = None,
    ) -> None:
        self.pool, self.slots, self.drafter = pool, slots, drafter
        self.prefill_tokens, self.scored_tokens = prefill_tokens, scored_tokens
        self.waiting: deque[SequenceState] = deque()
        self.running: list[SequenceState] = []
        self.suspended: dict[str, SequenceState] = {}
        """By name, sequences that hold nothing and wait for `resume`."""
        self.copies: list[BlockCopy] = []
        """Copies that the pass scheduled last begins with."""
        self.reused_tokens = 0
        """Prompt tokens that were in the cache already."""
        self.preemptions = 0
        """Number of times that a running sequence was preempted, or suspended."""
        self.drafted_tokens = 0
        """Tokens that were guessed and computed."""
        self.accepted_tokens = 0
        """Those of them that were right."""

    def add(self, request: Request) -> None:
        sequence = SequenceState(request, list(request.prompt))
        sequence.keys = list(block_keys(sequence.tokens, size=self.pool.size))
        if self.drafter is not None and request.family and not request.scored:
            self.drafter.add_prompt(request.family, request.prompt)
        self.waiting.append(sequence)

    def remove(self, name: str) -> SequenceState | None:
        """Take a request out, running, waiting or suspended; None for an unknown name."""
        for queue in (self.running, self.waiting):
            for sequence in queue:
                if sequence.request.name == name:
                    queue.remove(sequence)
                    self._release(sequence)
                    return sequence
        return self.suspended.pop(name, None)

    def suspend(self, name: str) -> None:
        """Preempt a request until `resume`; unknown names are ignored."""
        was_running = any(sequence.request.name == name for sequence in self.running)
        if name not in self.suspended and (sequence := self.remove(name)) is not None:
            sequence.scores.clear()
            self.suspended[name] = sequence
            self.preemptions += was_running

    def resume(self, name: str) -> None:
        """Let a suspended request wait for a slot, behind the others; unknown names are ignored."""
        if (sequence := self.suspended.pop(name, None)) is not None:
            self.waiting.append(sequence)

    def finish(self, sequence: SequenceState) -> None:
        self.running.remove(sequence)
        self._release(sequence)

    def accept_draft(self, sequence: SequenceState) -> None:
        """The last token of a running sequence was guessed in this pass: its keys and values are in the cache."""
        self.accepted_tokens += 1
        sequence.computed += 1
        self._publish(sequence)

    def observe(self, sequence: SequenceState, token: int) -> None:
        """Let others of the family guess a token that was chosen for a sequence, and is not appended yet."""
        if self.drafter is not None and sequence.request.family:
            self.drafter.observe(sequence.request.family, sequence.tokens, token)

    def append(self, sequence: SequenceState, token: int) -> None:
        """Append a token to a running sequence."""
        sequence.tokens.append(token)
        full = len(sequence.tokens) // self.pool.size
        if full > len(sequence.keys):
            after = sequence.keys[-1] if sequence.keys else b""
            sequence.keys += block_keys(
                sequence.tokens, size=self.pool.size, after=after, start=(full - 1) * self.pool.size
            )

    def next_pass(self) -> list[ScheduledChunk]:
        """Schedule the next pass: decodes first, then prefill chunks. Empty only if nothing waits or runs."""
        self.copies = []
        self._admit()
        chunks, prefill_left, scored_left = [], self.prefill_tokens, self.scored_tokens
        for sequence in list(self.running):
            if sequence not in self.running:  # it has just been preempted
                continue
            pending = sequence.end - sequence.computed
            count = min(pending, prefill_left) if pending > 1 else pending
            if sequence.request.scored:
                count = min(count, max(sequence.first_scored - sequence.computed, 0) + scored_left)
            if count < 1 or not self._reserve(sequence, sequence.computed + count):
                continue
            draft = self._draft(sequence, scored_left) if pending == 1 else ()
            chunk = ScheduledChunk(sequence, sequence.computed, sequence.computed + count, draft)
            chunks.append(chunk)
            prefill_left -= count if count > 1 else 0
            scored_left -= len(chunk.logit_positions) if sequence.request.scored else len(draft)
            sequence.computed += count
            self._publish(sequence)
        return sorted(chunks, key=lambda chunk: chunk.is_prefill)

    def _draft(self, sequence: SequenceState, most: int) -> tuple[int, ...]:
        """Guess what follows the last token of a sequence, and allocate blocks for it: none that others may need."""
        request = sequence.request
        if self.drafter is None or not request.family or request.scored or request.sampling.json_schema is not None:
            return ()
        spare = max(self.pool.free - len(self.running), 0)
        room = (len(sequence.blocks) + spare) * self.pool.size - len(sequence.tokens)
        wanted = len(request.prompt) + request.sampling.max_tokens - len(sequence.tokens) - 1
        draft = self.drafter.draft(
            request.family,
            sequence.tokens,
            longest=min(most, room, wanted),
            running=len(self.running),
            stop_tokens=request.stop_tokens,
        )
        while len(sequence.blocks) < self.pool.needed(len(sequence.tokens) + len(draft)):
            sequence.blocks.append(self.pool.take())
        self.drafted_tokens += len(draft)
        return tuple(draft)

    def _admit(self) -> None:
        being_computed = {key for sequence in self.running for key in sequence.keys[sequence.published :]}
        computed = list(self.running)
        skipped: list[SequenceState] = []
        while self.waiting and len(self.running) < self.slots:
            sequence = self.waiting.popleft()
            # The last token is always computed: its logits are needed.
            limit = min(len(sequence.tokens) - 1, sequence.first_scored)
            usable = limit // self.pool.size
            found = self.pool.find(sequence.keys[:usable])
            begun = self._begun_block(sequence, found, computed, limit=limit)
            is_awaited = len(found) < usable and sequence.keys[len(found)] in being_computed
            if is_awaited or self._is_begun_soon(sequence, found, begun, limit=limit):
                skipped.append(sequence)
                continue
            self.pool.hold(found)
            if self.running and self.pool.free < self.pool.needed(len(sequence.tokens) + 1) - len(found):
                self.pool.give_back(found)
                skipped.append(sequence)
                break
            sequence.blocks, sequence.published = found, len(found)
            sequence.computed = len(found) * self.pool.size
            if begun is not None:
                self._copy(sequence, *begun)
            self.reused_tokens += sequence.computed
            self.running.append(sequence)
            being_computed |= set(sequence.keys[sequence.published :])
        self.waiting.extendleft(reversed(skipped))

    def _begun_block(
        self, sequence: SequenceState, found: list[int], others: list[SequenceState], *, limit: int
    ) -> tuple[int, int] | None:
        """(block, positions): the most that another sequence has computed of the block after `found`, up to `limit`."""
        best = None
        for other in others:
            positions = self._shared(sequence, other, len(found), limit=min(limit, other.computed))
            if positions > (best[1] if best else 0):
                best = other.blocks[len(found)], positions
        return best

    def _is_begun_soon(
        self, sequence: SequenceState, found: list[int], begun: tuple[int, int] | None, *, limit: int
    ) -> bool:
        """Return whether a running sequence is about to compute so much more of that block that waiting pays."""
        least = (begun[1] if begun else 0) + WORTH_WAITING
        return any(self._shared(sequence, other, len(found), limit=limit) >= least for other in self.running)

    def _shared(self, sequence: SequenceState, other: SequenceState, number: int, *, limit: int) -> int:
        """Tokens of block `number` that two sequences have in common, from its first, up to token `limit`."""
        if number and (len(other.keys) < number or other.keys[number - 1] != sequence.keys[number - 1]):
            return 0
        first = number * self.pool.size
        end = min(limit, first + self.pool.size)
        pairs = zip(sequence.tokens[first:end], other.tokens[first:end], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _copy(self, sequence: SequenceState, source: int, positions: int) -> None:
        """Begin the next block of a sequence with what `source` holds; the caller has made sure that one is free."""
        target = self.pool.take()
        self.copies.append(BlockCopy(source, target, positions))
        sequence.blocks.append(target)
        sequence.computed += positions

    def _reserve(self, sequence: SequenceState, tokens: int) -> bool:
        """Allocate blocks for this many tokens, preempting sequences that came later; False if this one was
        preempted.
        """
        while len(sequence.blocks) < self.pool.needed(tokens):
            if not self.pool.free:
                last = self.running[-1]
                self._preempt(last)
                if last is sequence:
                    return False
                continue
            sequence.blocks.append(self.pool.take())
        return True

    def _preempt(self, sequence: SequenceState) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        self.preemptions += 1
        sequence.scores.clear()
        self.waiting.appendleft(sequence)

    def _publish(self, sequence: SequenceState) -> None:
        for number in range(sequence.published, sequence.computed // self.pool.size):
            self.pool.publish(sequence.blocks[number], sequence.keys[number])
            sequence.published = number + 1

    def _release(self, sequence: SequenceState) -> None:
        self.pool.give_back(sequence.blocks)
        sequence.blocks, sequence.computed, sequence.published = [], 0, 0
