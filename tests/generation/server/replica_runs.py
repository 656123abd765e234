"""Ranks of the replicas' tests: rank 0 serves through all of them, the others follow."""

from __future__ import annotations

import asyncio
from typing import Any

from megaphi.parallel.layout import ParallelLayout
from tests.generation.engine_runs import GREEDY, SAMPLED, prompts_of


def through_replicas(checkpoint: str, layout: ParallelLayout) -> dict[str, Any] | None:
    """Tokens of every prompt by the rules, asked for at once by clients who take short turns; on rank 0."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation import fair_queue
    from megaphi.generation.decoding.driver import drive, follow
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.decoding.interface import Request
    from megaphi.generation.workers import GenerationService

    fair_queue.TURN_TOKENS = 2

    model = open_model(open_weights(checkpoint), layout)
    engine = InferenceEngine(model, slots=3)
    if not model.world.is_main:
        follow(engine)
        return None
    generators: list[Any] = drive(engine)
    service = GenerationService(*generators)
    prompts = prompts_of(model.architecture.vocabulary)
    requests = [
        Request(name=f"{rules.seed}/{place}", prompt=tuple(prompt), sampling=rules)
        for rules in (GREEDY, SAMPLED)
        for place, prompt in enumerate(prompts)
    ]

    async def answer(request: Request) -> list[int]:
        submission = service.submit([request], client=request.name)
        return [output.token async for output in submission if output.token is not None]

    async def everybody() -> list[list[int]]:
        cancelled = service.submit([requests[0]])
        cancelled.cancel()
        return await asyncio.gather(*(answer(request) for request in requests))

    service.start()
    found = asyncio.run(everybody())
    usages = service.usage()
    service.close()
    for generator in generators:
        if hasattr(generator, "close"):
            generator.close()
    return {"greedy": found[: len(prompts)], "sampled": found[len(prompts) :], "usages": usages}
