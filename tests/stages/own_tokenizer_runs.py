"""The one rank of the tests of a model with a tokenizer of its own."""

from __future__ import annotations

from megaphi.conversation import Conversation, Message
from megaphi.engine.run_config import RunConfig, check
from megaphi.errors import InputError
from megaphi.sampling import Sampling


def train_all(runs: list[RunConfig]) -> list[str | None]:
    """Train one after the other; what each was refused with."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.stages.train import train

    messages: list[str | None] = []
    for run in runs:
        try:
            train(check(run, world_size=1), open_weights=open_weights)
            messages.append(None)
        except InputError as error:
            messages.append(str(error))
    return messages


def answers(folder: str, questions: list[str], tokens: int) -> list[tuple[str, tuple[int, ...]]]:
    """Greedy answers to one question each."""
    from megaphi.checkpoint.model_tokenizer import text_tokenizer_of
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.local_sampler import LocalSampler

    reader = open_weights(folder)
    engine = InferenceEngine(open_model(reader), slots=4)
    prompts = [Conversation((Message("user", question),)) for question in questions]
    with LocalSampler([engine], text_tokenizer_of(reader), name="own") as sampler:
        found = sampler.sample(prompts, Sampling(max_tokens=tokens))
    return [(answer.text, answer.tokens) for (answer,) in found]
