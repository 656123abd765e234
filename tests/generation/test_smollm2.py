"""SmolLM2-135M through the engine of generation against transformers: greedy, ragged, shared beginnings, any layout.

Two hundred prompts from the corpus, from one token to three hundred. In fp32 two programs round differently, so two
logits that are closer than that may swap: such a place is looked up in transformers' own logits, and must be a tie.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.parallel.layout import ParallelLayout
from tests.gloo_world import run_in_world
from tests.smollm2_model import gguf_file, in_transformers, tokenizer_of

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"
PROMPTS, TOKENS, BATCH = 200, 8, 25
TIE = 2e-4
"""Logits of this model reach 40; they differ by up to 1e-4 between the two programs."""


@pytest.fixture(scope="module")
def gguf() -> Path:
    return gguf_file()


@pytest.fixture(scope="module")
def theirs(gguf: Path) -> Any:
    return in_transformers(gguf)


@pytest.fixture(scope="module")
def prompts(gguf: Path) -> list[list[int]]:
    """Beginnings of texts of all sources; every tenth is one that came before and a little more."""
    tokenizer = tokenizer_of(gguf)
    found: list[list[int]] = []
    for source in ("acquired", "code", "rewrites", "synthetic", "web"):
        with zstandard.open(CORPUS / source / "train.jsonl.zst", "rb") as file:
            for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8")):
                if number == PROMPTS // 5:
                    break
                length = 1 + number * 41 % 97 if number % 8 else 300
                ids = tokenizer(json.loads(line)["text"][:2_000])["input_ids"]
                found.append(found[-1] + ids[:3] if number % 10 == 9 else ids[:length])
    return found


@pytest.fixture(scope="module")
def expected(theirs: Any, prompts: list[list[int]]) -> list[list[int]]:
    """What transformers adds, in batches of prompts of about the same length, padded on the left."""
    added: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for first in range(0, len(order), BATCH):
        numbers = order[first : first + BATCH]
        longest = max(len(prompts[number]) for number in numbers)
        ids = torch.zeros(len(numbers), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, number in enumerate(numbers):
            ids[row, longest - len(prompts[number]) :] = torch.tensor(prompts[number])
            mask[row, longest - len(prompts[number]) :] = 1
        found = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        for row, number in enumerate(numbers):
            added[number] = found[row, longest:].tolist()
    return added


def greedy(checkpoint: str, layout: ParallelLayout, prompts: list[list[int]]) -> list[list[int]]:
    """Through the engine, in a batch whose places are taken again and again."""
    from megaphi.conversation import Sampling
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.forward_only import open_model
    from megaphi.generation.engine import Engine
    from megaphi.generation.generate import generate

    engine = Engine(open_model(open_weights(checkpoint), layout), rows=32, cache_bytes=256 << 20, pass_tokens=512)
    found = generate(engine, prompts, Sampling(max_tokens=TOKENS))
    assert engine.schedule.reused_tokens > 0
    return [continuation.tokens for (continuation,) in found]


def is_a_tie(theirs: Any, prompt: list[int], ours: list[int], other: list[int]) -> bool:
    """Do the two part where transformers itself holds both tokens for equally likely?"""
    place = next(place for place, (one, two) in enumerate(zip(ours, other, strict=True)) if one != two)
    with torch.no_grad():
        logits_V = theirs(torch.tensor([prompt + ours[:place]])).logits[0, -1]
    return abs(logits_V[ours[place]] - logits_V[other[place]]).item() < TIE


def test_two_hundred_ragged_prompts(
    gguf: Path, theirs: Any, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    assert len(prompts) == PROMPTS
    (found,) = run_in_world(greedy, str(gguf), ParallelLayout(), prompts, processes=1)
    different = [number for number in range(PROMPTS) if found[number] != expected[number]]
    assert len(different) <= 2
    assert all(is_a_tie(theirs, prompts[number], found[number], expected[number]) for number in different)


@pytest.mark.parametrize("layout", [ParallelLayout(tensor=3), ParallelLayout(pipeline=2)], ids=["TP3", "PP2"])
def test_layouts_agree(
    gguf: Path, prompts: list[list[int]], expected: list[list[int]], layout: ParallelLayout, tmp_path: Path
) -> None:
    checkpoint = to_checkpoint(gguf, tmp_path / "checkpoint", layout=layout)
    chosen = [*range(0, PROMPTS, 25), 9]
    found = run_in_world(
        greedy, str(checkpoint), layout, [prompts[number] for number in [*chosen, 9]], processes=layout.model_ranks
    )
    for answers in found:
        same = [answer == expected[number] for answer, number in zip(answers, [*chosen, 9], strict=True)]
        assert np.mean(same) > 0.8
