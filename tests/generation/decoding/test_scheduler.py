"""The scheduler and its blocks without a model: a cache that remembers tokens instead of keys and values.

What a text becomes is a hash of all its tokens as the cache shows them, so a block that is shared wrongly, overwritten
too early or read before it was written changes an answer. The brute force has no cache and no neighbours.
"""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.generation.decoding.cache_blocks import BlockPool, block_keys
from megaphi.generation.decoding.interface import Request
from megaphi.generation.decoding.scheduler import Schedule
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
    """Runs passes of a schedule; what stands in the cache is what the model would have seen."""

    def __init__(self, schedule):
        self.schedule = schedule
        self.positions = {}
        self.answers = {}
        self.computed = 0

    def run_pass(self):
        parts = self.schedule.next_pass()
        assert parts
        for part in parts:  # every layer stores all tokens of a pass before it attends
            for place in range(part.start, part.end):
                self.positions[part.text.blocks[place // SIZE], place % SIZE] = part.text.tokens[place]
        for part in parts:
            self.computed += part.end - part.start
            seen = [self.positions[part.text.blocks[place // SIZE], place % SIZE] for place in range(part.end)]
            assert seen == part.text.tokens[: part.end]
            if part.wanted and not part.text.request.scored:
                self.advance(part.text, next_token(seen))
            elif part.text.request.scored:
                part.text.scores += [part.text.tokens[place + 1] for place in part.wanted]
                if len(part.text.scores) == part.text.request.scored:
                    self.schedule.finish(part.text)
                    self.answers[part.text.request.name] = part.text.scores

    def advance(self, text, token):
        self.schedule.append(text, token)
        if len(text.answer) == text.request.sampling.max_tokens:
            self.schedule.finish(text)
            self.answers[text.request.name] = text.answer

    def run(self):
        passes = 0
        while self.schedule.running or self.schedule.waiting:
            self.run_pass()
            passes += 1
            assert passes < 10_000
        return self.answers


PROMPTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 14), st.integers(1, 9), st.booleans()), min_size=1, max_size=12
)


@given(prompts=PROMPTS, rows=st.integers(1, 5), pass_tokens=st.integers(1, 20), blocks=st.integers(6, 30))
@settings(max_examples=300)
def test_no_text_learns_of_another(prompts, rows, pass_tokens, blocks):
    """Prompts with beginnings in common, answers of many lengths, passes that cut prompts, and too few blocks."""
    pool = BlockPool(blocks, size=SIZE)
    schedule = Schedule(pool, rows=rows, pass_tokens=pass_tokens, scored_rows=3)
    expected = {}
    for number, (beginning, length, max_tokens, is_scored) in enumerate(prompts):
        prompt = ([beginning] * 9 + [number % 2] * 9)[:length] if number % 3 else [number % 5] * length
        scored = min(max_tokens, length - 1) if is_scored else 0
        sampling = Sampling(max_tokens=max_tokens)
        schedule.add(Request(name=str(number), prompt=tuple(prompt), sampling=sampling, scored=scored))
        expected[str(number)] = prompt[length - scored :] if scored else alone(prompt, max_tokens)
    assert RememberingCache(schedule).run() == expected
    assert pool.free == blocks


def test_samples_of_one_prompt_compute_it_once():
    schedule = Schedule(BlockPool(200, size=SIZE), rows=16, pass_tokens=1_000, scored_rows=8)
    prompt = tuple(number % 7 for number in range(100))
    for sample in range(16):
        schedule.add(Request(name=str(sample), prompt=prompt, sampling=Sampling(max_tokens=3), sample=sample))
    cache = RememberingCache(schedule)
    cache.run()
    assert schedule.reused_tokens == 15 * 96  # all but the last token's block, of which 4 tokens are computed anew
    assert cache.computed == 100 + 15 * 4 + 16 * 2


def test_a_text_that_waits_for_a_prefix_is_not_held_up_when_its_owner_leaves():
    schedule = Schedule(BlockPool(50, size=SIZE), rows=4, pass_tokens=8, scored_rows=8)
    prompt = tuple(range(32))
    for name in ("first", "second"):
        schedule.add(Request(name=name, prompt=prompt, sampling=Sampling(max_tokens=2)))
    cache = RememberingCache(schedule)
    cache.run_pass()
    assert [text.request.name for text in schedule.waiting] == ["second"]
    assert schedule.remove("first") is not None
    assert cache.run() == {"second": alone(prompt, 2)}
    assert schedule.reused_tokens == 8


def test_the_oldest_content_is_forgotten_first():
    pool = BlockPool(3, size=SIZE)
    keys = list(block_keys(range(12), size=SIZE))
    blocks = [pool.take() for _ in keys]
    for block, key in zip(blocks, keys, strict=True):
        pool.publish(block, key)
    pool.give_back(blocks)
    assert pool.find(keys) == blocks
    assert pool.take() == blocks[2]  # the end of the text went first
    assert pool.find(keys) == blocks[:2]
    pool.hold(blocks[:1])
    assert (pool.take(), pool.free) == (blocks[1], 0)


@given(tokens=st.lists(st.integers(0, 5), max_size=40))
def test_keys_of_a_text_that_grows_are_those_of_the_whole(tokens):
    schedule = Schedule(BlockPool(50, size=SIZE), rows=1, pass_tokens=8, scored_rows=8)
    schedule.add(Request(name="text", prompt=(1,)))
    (text,) = schedule.waiting
    for token in tokens:
        schedule.append(text, token)
    assert text.keys == list(block_keys([1, *tokens], size=SIZE))


@pytest.mark.parametrize("other", [[0, 1, 2, 4, 4, 5, 6, 7], [4, 5, 6, 7, 0, 1, 2, 3]])
def test_a_key_speaks_for_everything_before_it(other):
    first, second = list(block_keys(range(8), size=SIZE)), list(block_keys(other, size=SIZE))
    assert not set(first) & set(second)
