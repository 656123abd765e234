"""An engine whose model is a function of the text that its cache shows: exact, and fast enough for hypothesis.

Keys and values are replaced by the tokens themselves. Logits after a text follow from its last two tokens, so that
texts repeat each other, and a little from a hash of the whole: a block that is shared wrongly, overwritten too early or
read before it was written changes an answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from megaphi.generation.decoding import inference_engine
from megaphi.generation.decoding.inference_engine import InferenceEngine

SIZE, CONTEXT = 4, 64


def logits_after(text: list[int], *, vocabulary: int, noise: float = 0.05) -> torch.Tensor:
    """[V] fp32."""
    last = np.random.default_rng(list(text[-2:])).standard_normal(vocabulary) * 2
    whole = int.from_bytes(blake2b(bytes(text), digest_size=4).digest())
    return torch.from_numpy(last + np.random.default_rng(whole).standard_normal(vocabulary) * noise).float()


class RememberingModel:
    """Takes the place of `pass_over_cache`."""

    def __init__(self, *, vocabulary: int, noise: float) -> None:
        self.vocabulary, self.noise = vocabulary, noise
        self.stored: dict[int, int] = {}

    def __call__(self, model: Any, tokens_T: list[int], context: Any) -> torch.Tensor:
        attention = context.attention
        if attention.copied_rows_2C is not None:
            sources, targets = attention.copied_rows_2C.tolist()
            self.stored |= dict(zip(targets, [self.stored[source] for source in sources], strict=True))
        self.stored |= dict(zip(attention.cache_rows_T.tolist(), tokens_T, strict=True))
        tables = [*attention.tables.tolist()]
        texts = [self.read(table, length) for table, length in zip(tables, attention.lengths.tolist(), strict=True)]
        for chunk in attention.prefill.chunks if attention.prefill else ():
            rows = attention.prefill.launch.seen_L[chunk.first_key : chunk.last_key].tolist()
            text = [self.stored[row] for row in rows]
            texts += [text[: len(text) - left] for left in reversed(range(chunk.end - chunk.start))]
        assert [len(text) - 1 for text in texts] == context.positions_BS[0].tolist()
        assert [text[-1] for text in texts] == tokens_T
        wanted = context.targets.rows_W.tolist()
        rows = [logits_after(texts[row], vocabulary=self.vocabulary, noise=self.noise) for row in wanted]
        return torch.stack(rows) if rows else torch.empty(0, self.vocabulary)

    def read(self, blocks: list[int], length: int) -> list[int]:
        return [self.stored[blocks[place // SIZE] * SIZE + place % SIZE] for place in range(length)]


@contextlib.contextmanager
def remembering(*, vocabulary: int = 12, noise: float = 0.05) -> Iterator[Any]:
    """A function that makes such engines, with `blocks` of SIZE tokens and the arguments of InferenceEngine."""
    world = SimpleNamespace(device=torch.device("cpu"), replica=0, replicas=1)
    model: Any = SimpleNamespace(context=CONTEXT, architecture=SimpleNamespace(vocabulary=vocabulary), world=world)

    def make(*, blocks: int, **arguments: Any) -> InferenceEngine:
        patch.setattr(inference_engine, "pass_over_cache", RememberingModel(vocabulary=vocabulary, noise=noise))
        return InferenceEngine(model, cache_bytes=blocks * SIZE, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference_engine, "BLOCK_SIZE", SIZE)
        patch.setattr(inference_engine, "make_cache", lambda *_, **__: None)
        patch.setattr(inference_engine, "cache_bytes_per_token", lambda _: 1)
        patch.setattr(inference_engine, "broadcast_from_last_stage", lambda _, value, _kind: value)
        yield make
