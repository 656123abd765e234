"""Ranks of the tests of decode steps: cases over one model with a cache of real keys and values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from megaphi.parallel.layout import ParallelLayout
from megaphi.sampling import Sampling
from tests.engine.inference.recorded_graph import RecordedGraphs
from tests.engine.layout_runs import TINY

BLOCKS, BLOCK = 24, 4
LARGEST = 12


def outcomes(checkpoint: str) -> dict[str, Any]:
    """Differences between padded steps and passes, and answers with and without captured steps."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model

    model = open_model(open_weights(checkpoint))
    return {"differences": _differences(model), "answers": [_answers(model, captures=one) for one in (False, True)]}


def _differences(model: Any) -> dict[int, float]:
    """By tokens of a step: the largest difference of its logits from those of an unpadded pass over the same cache."""
    from megaphi.engine.inference.decode_step import DecodeStep
    from megaphi.engine.inference.forward_only import make_cache, pass_over_cache
    from megaphi.model.forward.context import ForwardContext
    from megaphi.model.forward.paged_cache import PagedPass
    from megaphi.model.forward.targets import LogitRows

    cache = make_cache(model, blocks=BLOCKS + 1, block_size=BLOCK)
    draw = torch.Generator().manual_seed(5)
    for layer in cache.layers.values():
        for part in layer:
            part.copy_(torch.randn(part.shape, generator=draw))
    step = DecodeStep(model, cache, largest=LARGEST, capture=RecordedGraphs())
    found = {}
    for turn, tokens in enumerate((1, 2, 3, 4, 5, 8, 9, 12, 7, 1)):
        inputs = _inputs(tokens, vocabulary=model.architecture.vocabulary, seed=turn)
        numbers, tables = torch.from_numpy(inputs.numbers_4T), torch.from_numpy(inputs.tables_TM)
        attention = PagedPass(
            cache=cache,
            cache_rows_T=numbers[2],
            decodes=tokens,
            tables=tables,
            lengths=numbers[3].int(),
            prefill=None,
        )
        context = ForwardContext(
            attention=attention, positions_BS=numbers[1][None], targets=LogitRows(torch.arange(tokens))
        )
        expected = pass_over_cache(model, numbers[0].tolist(), context)
        assert expected is not None
        ours = step(inputs)
        assert ours.shape == expected.shape
        found[tokens] = max(found.get(tokens, 0.0), (ours - expected).abs().max().item())
    return found


def _inputs(tokens: int, *, vocabulary: int, seed: int) -> Any:
    """Tokens of as many sequences, each of two blocks."""
    from megaphi.engine.inference.decode_step import DecodeInputs

    generator = np.random.default_rng(seed)
    tables = generator.permutation(BLOCKS)[: 2 * tokens].reshape(tokens, 2)
    positions = generator.integers(2 * BLOCK, size=tokens)
    rows = np.take_along_axis(tables, positions[:, None] // BLOCK, axis=1)[:, 0] * BLOCK + positions % BLOCK
    ids = generator.integers(vocabulary, size=tokens)
    return DecodeInputs(numbers_4T=np.stack((ids, positions, rows, positions + 1)), tables_TM=tables.astype(np.int32))


def _answers(model: Any, *, captures: bool) -> dict[str, Any]:
    """Answers of an engine, and how often it captured and replayed a step."""
    from unittest import mock

    from megaphi.engine.inference import decode_step as module
    from megaphi.generation.decoding import inference_engine
    from megaphi.generation.decoding.generate import generate

    graphs = RecordedGraphs()

    def recorded(model: Any, cache: Any, *, largest: int, fixed: bool | None) -> Any:
        return module.DecodeStep(model, cache, largest=largest, capture=graphs) if captures else None

    generator = np.random.default_rng(1)
    prompts = [generator.integers(model.architecture.vocabulary, size=length).tolist() for length in (1, 5, 17, 30, 33)]
    rules = Sampling(max_tokens=20, temperature=1.3, top_p=0.9, seed=2)
    with mock.patch.object(inference_engine, "decode_step", recorded):
        engine = inference_engine.InferenceEngine(model, slots=4, prefill_tokens=24)
        found = generate(engine, prompts, rules, samples=2)
    answers = [[(item.tokens, item.log_probabilities) for item in items] for items in found]
    return {"answers": answers, "captured": graphs.captured, "replayed": graphs.replayed}


def asked_while_decoding() -> list[str]:
    """A step on a device that answers no question, cut over two tensor ranks; the same for a step of other tokens."""
    from megaphi.engine.inference.decode_step import DecodeStep
    from megaphi.engine.inference.forward_only import InferenceModel, make_cache
    from tests.model.question_runs import DEVICE, built, silent_device

    layout = ParallelLayout(data=1, tensor=2)
    with silent_device(layout):
        module: Any = built(layout).eval()
        world: Any = type("World", (), {"device": DEVICE, "layout": layout, "place": layout.coordinates(0)})
        model = InferenceModel(architecture=replace(TINY), world=world, module=module, context=64)
        step = DecodeStep(model, make_cache(model, blocks=BLOCKS + 1, block_size=BLOCK), largest=LARGEST, capture=None)
        shapes = []
        for tokens in (3, 4, 11):
            shapes.append(str(tuple(step(_inputs(tokens, vocabulary=TINY.vocabulary, seed=0)).shape)))
        return shapes
