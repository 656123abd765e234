"""Runs of the GPU tests of attention, each in a process of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from megaphi.sampling import Sampling


def answers(folder: str) -> dict[str, Any]:
    """(tokens, log-probabilities) in bfloat16: decode steps captured or not, prompts in one chunk or in several."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.generate import generate
    from megaphi.generation.decoding.inference_engine import InferenceEngine

    model = open_model(open_weights(folder), parameters="bfloat16")
    generator = np.random.default_rng(1)
    prompts = [generator.integers(model.architecture.vocabulary, size=length).tolist() for length in (1, 5, 17, 30, 33)]
    cases: dict[str, dict[str, Any]] = {
        "captured": {"fixed_steps": None},
        "launched": {"fixed_steps": False},
        "chunks": {"fixed_steps": False, "prefill_tokens": 8},
    }
    found = {}
    for name, settings in cases.items():
        engine = InferenceEngine(model, slots=4, **settings)
        assert (engine._decode_step is not None) == (name == "captured")
        items = generate(engine, prompts, Sampling(max_tokens=20))
        found[name] = [(item.tokens, item.log_probabilities) for (item,) in items]
    return found


def backends() -> dict[str, str]:
    """The meaning of each name of `model.attention_backend` here, for Phi-4's heads in bfloat16, or its refusal."""
    from dataclasses import replace
    from typing import get_args

    from megaphi.errors import InputError
    from megaphi.model.architecture import PHI4_14B, AttentionBackend
    from megaphi.model.layer_spec import choose_attention

    found = {}
    for name in get_args(AttentionBackend):
        model = replace(PHI4_14B, attention_backend=name)
        try:
            found[name] = choose_attention(model, device=torch.device("cuda"), parameters="bfloat16", reads=False)
        except InputError as error:
            found[name] = f"no: {error}"
    return found
