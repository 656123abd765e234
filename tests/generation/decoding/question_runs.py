"""The rank of test_questions.py: an engine that decodes, and what each of its steps asks the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from megaphi.sampling import Sampling
from tests.conversion.random_models import SHAPES, random_folder
from tests.generation.decoding.questions import asked_by

RULES = (
    Sampling(max_tokens=8),
    Sampling(max_tokens=7, temperature=1.1, seed=3, alternatives=2),
    Sampling(max_tokens=8, temperature=0.9, top_k=20, seed=5),
)


def asked_by_steps() -> dict[str, list[dict[str, int]]]:
    """Questions of every step, those that read prompts among them, with and without steps of fixed shape."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.decoding.interface import Request

    with TemporaryDirectory() as folder:
        random_folder(Path(folder) / "model", replace(SHAPES["3 heads per group"], layers=2), scale=0.6)
        model = open_model(open_weights(str(Path(folder) / "model")))
    found = {}
    for fixed in (False, True):
        engine = InferenceEngine(model, slots=5, prefill_tokens=24, fixed_steps=fixed)
        for number, rules in enumerate(RULES * 2):
            prompt = tuple(range(1, 12 + 9 * (number % 3)))
            engine.add(Request(name=str(number), prompt=prompt, sampling=rules, family="one", sample=number))
        found["fixed" if fixed else "free"] = steps = []
        while not engine.is_idle:
            steps.append(asked_by(engine.step))
    return found
