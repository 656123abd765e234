"""Continue texts with a model, token by token, through the parallel engine.

Texts of a batch are padded on the right: attention is causal, so padding changes nothing before it. Every step runs
the whole sequence again (there is no key-value cache yet), which suits samples and tests, not serving.

Legend: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from megaphi.engine.forward_only import ReadingModel, logits_of
from megaphi.errors import InputError
from megaphi.generation.sampling import Sampling, next_tokens


def generate(
    model: ReadingModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stop_tokens: frozenset[int] = frozenset(),
    on_step: Callable[[], object] = lambda: None,
) -> list[list[int]]:
    """The tokens added to each prompt, a stop token not included. Collective; equal on every rank.

    Args:
        prompts: token ids, at least one each.
        on_step: called after each token, for a progress bar.
    """
    sampling.check()
    _check_prompts(prompts, sampling, context=model.context)
    generator = torch.Generator(device=model.world.device).manual_seed(sampling.seed)
    texts = [list(prompt) for prompt in prompts]
    running = set(range(len(texts)))
    for _ in range(sampling.max_tokens):
        for row, token in enumerate(_step(model, texts, sampling, generator)):
            if row in running and token in stop_tokens:
                running.discard(row)
            elif row in running:
                texts[row].append(token)
        on_step()
        if not running:
            break
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def _check_prompts(prompts: Sequence[Sequence[int]], sampling: Sampling, *, context: int) -> None:
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise InputError(f"prompt {number} is empty: give it at least one token")
        if len(prompt) + sampling.max_tokens > context:
            raise InputError(
                f"prompt {number} has {len(prompt)} tokens; with --max-tokens {sampling.max_tokens} it would exceed "
                f"the model's context of {context}: shorten one of them"
            )


def _step(model: ReadingModel, texts: list[list[int]], sampling: Sampling, generator: torch.Generator) -> list[int]:
    """The next token of every text."""
    lengths = [len(text) for text in texts]
    tokens_BS = np.zeros((len(texts), max(lengths)), dtype=np.int64)
    for row, text in enumerate(texts):
        tokens_BS[row, : len(text)] = text
    logits_BSV = logits_of(model, tokens_BS)
    rows = torch.arange(len(texts), device=logits_BSV.device)
    last_BV = logits_BSV[rows, torch.tensor(lengths, device=logits_BSV.device) - 1]
    return next_tokens(last_BV, sampling, generator).tolist()
