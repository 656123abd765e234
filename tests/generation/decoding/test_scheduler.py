"""The scheduler and its blocks without a model: a cache that remembers tokens instead of keys and values.

What a sequence becomes is a hash of all its tokens as the cache shows them, so a block that is shared wrongly,
overwritten too early or read before it was written changes an answer. The brute force has no cache and no neighbours.
"""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.generation.decoding.cache_blocks import BlockPool, block_keys
from megaphi.generation.decoding.interface import Request
from megaphi.generation.decoding.scheduler import Scheduler
from megaphi.sampling import Sampling

SIZE = 4


def next_token(tokens):
    return blake2b(bytes(tokens), digest_size=1).digest()[0] % 7


def alone(prompt, max_tokens):
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class RememberingCache:
    """Runs passes of a scheduler; what stands in the cache is what the model would have seen."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.stored = {}
        self.answers = {}
        self.computed = 0

    def address(self, sequence, position):
        """(block, offset in it)."""
        return sequence.blocks[position // SIZE], position % SIZE

    def run_pass(self):
        chunks = self.scheduler.next_pass()
        assert chunks
        copied = {}
        for source, target, positions in self.scheduler.copies:
            copied |= {(target, place): self.stored[source, place] for place in range(positions)}
        self.stored |= copied
        for chunk in chunks:  # every layer stores all tokens of a pass before it attends
            for position in range(chunk.start, chunk.end):
                self.stored[self.address(chunk.sequence, position)] = chunk.sequence.tokens[position]
        for chunk in chunks:
            self.computed += chunk.end - chunk.start
            seen = [self.stored[self.address(chunk.sequence, position)] for position in range(chunk.end)]
            assert seen == chunk.sequence.tokens[: chunk.end]
            if chunk.logit_positions and not chunk.sequence.request.scored:
                self.advance(chunk.sequence, next_token(seen))
            elif chunk.sequence.request.scored:
                chunk.sequence.scores += [chunk.sequence.tokens[position + 1] for position in chunk.logit_positions]
                if len(chunk.sequence.scores) == chunk.sequence.request.scored:
                    self.scheduler.finish(chunk.sequence)
                    self.answers[chunk.sequence.request.name] = chunk.sequence.scores

    def advance(self, sequence, token):
        self.scheduler.append(sequence, token)
        if len(sequence.answer) == sequence.request.sampling.max_tokens:
            self.scheduler.finish(sequence)
            self.answers[sequence.request.name] = sequence.answer

    def run(self):
        passes = 0
        while self.scheduler.running or self.scheduler.waiting:
            self.run_pass()
            passes += 1
            assert passes < 10_000
        return self.answers


PROMPTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 14), st.integers(1, 9), st.booleans()), min_size=1, max_size=12
)


@given(prompts=PROMPTS, slots=st.integers(1, 5), prefill_tokens=st.integers(1, 20), blocks=st.integers(6, 30))
@settings(max_examples=300)
def test_no_sequence_depends_on_another(prompts, slots, prefill_tokens, blocks):
    """Prompts with beginnings in common, answers of many lengths, passes that cut prompts, and too few blocks."""
    pool = BlockPool(blocks, size=SIZE)
    scheduler = Scheduler(pool, slots=slots, prefill_tokens=prefill_tokens, scored_tokens=3)
    expected = {}
    for number, (beginning, length, max_tokens, is_scored) in enumerate(prompts):
        prompt = ([beginning] * 9 + [number % 2] * 9)[:length] if number % 3 else [number % 5] * length
        scored = min(max_tokens, length - 1) if is_scored else 0
        sampling = Sampling(max_tokens=max_tokens)
        scheduler.add(Request(name=str(number), prompt=tuple(prompt), sampling=sampling, scored=scored))
        expected[str(number)] = prompt[length - scored :] if scored else alone(prompt, max_tokens)
    assert RememberingCache(scheduler).run() == expected
    assert pool.free == blocks


def test_samples_of_one_prompt_compute_it_once():
    scheduler = Scheduler(BlockPool(200, size=SIZE), slots=16, prefill_tokens=1_000, scored_tokens=8)
    prompt = tuple(number % 7 for number in range(100))
    for sample in range(16):
        scheduler.add(Request(name=str(sample), prompt=prompt, sampling=Sampling(max_tokens=3), sample=sample))
    cache = RememberingCache(scheduler)
    cache.run()
    assert scheduler.reused_tokens == 15 * 99  # all but the last token, whose logits are needed
    assert cache.computed == 100 + 15 + 16 * 2


def test_a_block_that_is_shared_in_part_is_copied_up_to_where_texts_part():
    scheduler = Scheduler(BlockPool(50, size=SIZE), slots=4, prefill_tokens=100, scored_tokens=8)
    cache = RememberingCache(scheduler)
    prompts = {"first": (1, 2, 3, 4, 5, 6, 0), "parts": (1, 2, 3, 4, 5, 0, 6), "scored": (1, 2, 3, 4, 5, 6, 0, 3)}
    scheduler.add(Request(name="first", prompt=prompts["first"], sampling=Sampling(max_tokens=9)))
    cache.run_pass()
    scheduler.add(Request(name="parts", prompt=prompts["parts"], sampling=Sampling(max_tokens=2)))
    scheduler.add(Request(name="scored", prompt=prompts["scored"], scored=2))
    cache.run_pass()
    assert [copy.positions for copy in scheduler.copies] == [1, 1]  # the logits of position 5 are needed
    assert scheduler.reused_tokens == 2 * (4 + 1)
    answers = cache.run()
    assert answers["parts"] == alone(prompts["parts"], 2)
    assert answers["scored"] == [0, 3]
    assert scheduler.pool.free == 50


def test_a_sequence_that_waits_for_a_prefix_is_not_held_up_when_its_owner_leaves():
    scheduler = Scheduler(BlockPool(50, size=SIZE), slots=4, prefill_tokens=8, scored_tokens=8)
    prompt = tuple(range(32))
    for name in ("first", "second"):
        scheduler.add(Request(name=name, prompt=prompt, sampling=Sampling(max_tokens=2)))
    cache = RememberingCache(scheduler)
    cache.run_pass()
    assert [sequence.request.name for sequence in scheduler.waiting] == ["second"]
    assert scheduler.remove("first") is not None
    assert cache.run() == {"second": alone(prompt, 2)}
    assert scheduler.reused_tokens == 8


def test_the_oldest_content_is_forgotten_first():
    pool = BlockPool(3, size=SIZE)
    keys = list(block_keys(range(12), size=SIZE))
    blocks = [pool.take() for _ in keys]
    for block, key in zip(blocks, keys, strict=True):
        pool.publish(block, key)
    pool.give_back(blocks)
    assert pool.find(keys) == blocks
    assert pool.take() == blocks[2]  # the end of the sequence went first
    assert pool.find(keys) == blocks[:2]
    pool.hold(blocks[:1])
    assert (pool.take(), pool.free) == (blocks[1], 0)


@given(tokens=st.lists(st.integers(0, 5), max_size=40))
def test_keys_of_a_sequence_that_grows_are_those_of_the_whole(tokens):
    scheduler = Scheduler(BlockPool(50, size=SIZE), slots=1, prefill_tokens=8, scored_tokens=8)
    scheduler.add(Request(name="text", prompt=(1,)))
    (sequence,) = scheduler.waiting
    for token in tokens:
        scheduler.append(sequence, token)
    assert sequence.keys == list(block_keys([1, *tokens], size=SIZE))


@pytest.mark.parametrize("other", [[0, 1, 2, 4, 4, 5, 6, 7], [4, 5, 6, 7, 0, 1, 2, 3]])
def test_a_key_speaks_for_everything_before_it(other):
    first, second = list(block_keys(range(8), size=SIZE)), list(block_keys(other, size=SIZE))
    assert not set(first) & set(second)
