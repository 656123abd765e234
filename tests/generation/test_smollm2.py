"""SmolLM2-135M through the engine of generation against transformers: greedy, ragged, shared beginnings, any layout.

Two hundred prompts from the corpus, of one to twenty-four tokens and of three hundred. In fp32 two programs round
differently, so two logits that are closer than that may swap: such a place is looked up in transformers' own logits,
and must be a tie.
"""

from __future__ import annotations

import io
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

from megaphi.parallel.layout import ParallelLayout
from tests.gloo_world import run_in_world
from tests.smollm2_model import TENSOR_3, gguf_file, in_transformers, three_rank_checkpoint, tokenizer_of

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"
PROMPTS, TOKENS = 200, 6
BAND = 16
"""Prompts whose lengths differ by less are padded to one another."""
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
                length = 300 if number == 5 else 1 + number * 41 % 24
                ids = tokenizer(json.loads(line)["text"][:2_000])["input_ids"]
                found.append(found[-1] + ids[:3] if number % 10 == 9 else ids[:length])
    return found


def greedy(checkpoint: str, layout: ParallelLayout, prompts: list[list[int]]) -> list[list[int]]:
    """Through the engine, in a batch whose places are taken again and again."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.generate import generate
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.sampling import Sampling

    engine = InferenceEngine(
        open_model(open_weights(checkpoint), layout), slots=32, cache_bytes=256 << 20, prefill_tokens=512
    )
    found = generate(engine, prompts, Sampling(max_tokens=TOKENS))
    assert engine.scheduler.reused_tokens > 0
    return [continuation.tokens for (continuation,) in found]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_rank_checkpoint(tmp_path_factory)


@pytest.fixture(scope="module")
def answers(checkpoint: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Continuations by one process of ours."""
    (found,) = run_in_world(greedy, str(checkpoint), ParallelLayout(), prompts, processes=1)
    return found


def gaps(theirs: Any, prompts: list[list[int]], answers: list[list[int]]) -> np.ndarray:
    """By how much another token is likelier, to transformers, than each token of ours: logits, `[prompt, token]`.

    All zero means that transformers' greedy choice after the same tokens is ours everywhere, so that its whole
    continuation is: one pass over prompt and answer instead of one for every token. Padded on the left.
    """
    found = np.empty((len(prompts), TOKENS))
    lengths = [len(prompt) for prompt in prompts]
    for _, band in groupby(
        sorted(range(len(prompts)), key=lengths.__getitem__), lambda number: lengths[number] // BAND
    ):
        numbers = list(band)
        texts = [prompts[number] + answers[number] for number in numbers]
        longest = max(map(len, texts))
        ids = torch.tensor([[0] * (longest - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits_BTV = theirs(ids, attention_mask=mask, position_ids=positions, logits_to_keep=TOKENS + 1).logits
        ours_BT = logits_BTV[:, :-1].gather(2, ids[:, -TOKENS:, None])[..., 0]
        found[numbers] = (logits_BTV[:, :-1].max(dim=2).values - ours_BT).numpy()
    return found


def test_two_hundred_ragged_prompts(theirs: Any, prompts: list[list[int]], answers: list[list[int]]) -> None:
    assert len(prompts) == PROMPTS
    assert {1, 2, 300} <= {len(prompt) for prompt in prompts}
    assert {len(answer) for answer in answers} == {TOKENS}
    gaps_PT = gaps(theirs, prompts, answers)
    assert np.count_nonzero(gaps_PT.any(axis=1)) <= 2
    assert gaps_PT.max() < TIE


@pytest.mark.parametrize("layout", [TENSOR_3, ParallelLayout(pipeline=2)], ids=["TP3", "PP2"])
def test_layouts_agree(
    checkpoint: Path, prompts: list[list[int]], answers: list[list[int]], layout: ParallelLayout
) -> None:
    """All of them read the checkpoint that was written for three tensor ranks."""
    chosen = [*range(0, PROMPTS, 25), 9, 9]
    found = run_in_world(
        greedy, str(checkpoint), layout, [prompts[number] for number in chosen], processes=layout.model_ranks
    )
    for ranks_answers in found:
        same = [answer == answers[number] for answer, number in zip(ranks_answers, chosen, strict=True)]
        assert np.mean(same) > 0.8
