"""Ranks of the engine's tests: many cases in one set of processes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.json_constraint import Constraints
from megaphi.parallel.layout import ParallelLayout
from megaphi.sampling import Sampling
from megaphi.tokenizer.phi4 import load_tokenizer

SAMPLED = Sampling(max_tokens=8, temperature=1.5, top_p=0.95, seed=7, alternatives=3)
PENALISED = Sampling(max_tokens=8, repetition_penalty=1.7, presence_penalty=0.3, frequency_penalty=0.2)
GREEDY = Sampling(max_tokens=12)
BIASED = Sampling(max_tokens=8, temperature=1.2, top_k=40, seed=3, logit_bias=((7, 6.0), (9, -100.0), (30, 2.5)))
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": [True, None]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
WITHOUT_BLANKS = tuple((token, -100.0) for token in load_tokenizer(352).encode(" \n\r\t"))
JSON = Sampling(max_tokens=24, temperature=1.5, seed=5, logit_bias=WITHOUT_BLANKS, json_schema=json.dumps(SCHEMA))
RULES = {"greedy": GREEDY, "sampled": SAMPLED, "penalised": PENALISED, "biased": BIASED}
FORCED = Sampling(max_tokens=3, temperature=1.4, top_p=0.9, seed=11)
LONE = replace(FORCED, top_k=1)
"""Rules under which nothing is left for the first prompt."""
SAMPLES = 6
SCORED = {
    "sampled": SAMPLED,
    "penalised": replace(PENALISED, temperature=0.9, min_p=0.05),
    "biased": BIASED,
    "greedy": GREEDY,
}
"""Rules under which texts are scored."""
COPIES = 3
SHORT = 4
"""So many prompts leave room for an answer of JSON."""


def prompts_of(vocabulary: int) -> list[list[int]]:
    """Ragged, some with a beginning in common, some the same."""
    generator = np.random.default_rng(3)
    beginning = generator.integers(vocabulary, size=35).tolist()
    ragged = [generator.integers(vocabulary, size=length).tolist() for length in (1, 2, 15, 16, 17, 40, 44, 3)]
    shared = [[*beginning[:length], number] for number, length in enumerate((35, 35, 20, 32, 33))]
    return [*ragged, *shared, ragged[5]]


def texts_of(prompts: list[list[int]], greedy: list[int]) -> list[tuple[list[int], list[int]]]:
    """(prompt, text to score after it); the last text is the model's own, `greedy`."""
    return [*((prompt, prompts[0] + prompts[2] + prompts[3]) for prompt in prompts[:4]), (prompts[0], greedy)]


def continuations(checkpoint: str, layout: ParallelLayout, tops: list[int]) -> dict[str, Any]:
    """Every way to ask, as plain values; `tops` are the most probable tokens after the prompts."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.generate import generate, score_continuations
    from megaphi.generation.decoding.inference_engine import InferenceEngine

    model = open_model(open_weights(checkpoint), layout)
    prompts = prompts_of(model.architecture.vocabulary)
    found: dict[str, Any] = {"cache blocks": InferenceEngine(model, cache_bytes=40_000).usage.cache_blocks}
    for name, rules in RULES.items():
        engine = InferenceEngine(model, slots=4, prefill_tokens=24)
        found[name] = [plain(item) for (item,) in generate(engine, prompts, rules)]
    fixed = InferenceEngine(model, slots=4, prefill_tokens=24, fixed_steps=True)
    assert (fixed._decode_step is None) == (layout.pipeline > 1)
    found["fixed"] = [plain(item) for (item,) in generate(fixed, prompts, SAMPLED)]
    found["json"] = json_answers(model, prompts[:SHORT])
    small = InferenceEngine(
        model, slots=6, cache_bytes=7 * 16 * bytes_per_token(model)
    )  # fewer blocks than six texts need
    found["sampled, small cache"] = [plain(item) for (item,) in generate(small, prompts, SAMPLED)]
    engine = InferenceEngine(model, slots=16)
    several = generate(engine, prompts[5:7], SAMPLED, samples=8)
    found["samples"] = [[plain(item) for item in items] for items in several]
    found["reused"] = engine.scheduler.reused_tokens
    stop = frozenset({found["greedy"][0]["tokens"][5]})
    found["stopped"] = plain(generate(InferenceEngine(model), prompts[:1], GREEDY, stop_tokens=stop)[0][0])
    texts = texts_of(prompts, found["greedy"][0]["tokens"])
    scores = score_continuations(InferenceEngine(model, slots=3, prefill_tokens=20, scored_tokens=5), texts)
    found["scores"] = [[tuple(score)[:3] for score in item] for item in scores]
    found |= sampled_scores(model, texts)
    found["forced"] = forced(model, prompts, tops)
    found["families"] = [drafted(model, prompts, speculates=speculates) for speculates in (True, False)]
    return found


def sampled_scores(model: Any, texts: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """Probabilities under sampling rules, whose chunks are cut at other places than the scores' of one pass."""
    from megaphi.generation.decoding.generate import complete_everywhere
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.decoding.interface import Request

    engine = InferenceEngine(model, slots=3, prefill_tokens=20, scored_tokens=5)
    requests = [
        Request(name=f"{name}/{place}", prompt=(*prompt, *text), sampling=rules, scored=len(text))
        for name, rules in SCORED.items()
        for place, (prompt, text) in enumerate(texts)
    ]
    found = complete_everywhere(engine, requests)
    return {
        f"{name}, sampled": [
            [score.sampled_probability for score in found[f"{name}/{place}"].scores] for place in range(len(texts))
        ]
        for name in SCORED
    }


def drafted(model: Any, prompts: list[list[int]], *, speculates: bool) -> dict[str, Any]:
    """Each request three times, and JSON beside it, in a cache that is too small for all: later ones are drafted."""
    from megaphi.generation.decoding.drafts import Speculation
    from megaphi.generation.decoding.generate import complete_everywhere
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.decoding.interface import Request

    tokenizer = load_tokenizer(352)
    requests = [
        Request(
            name=f"{name} {place} {copy}",
            prompt=tuple(prompts[place]),
            sampling=rules,
            family=f"{place}",
            stop_tokens=tokenizer.stop_tokens if name == "json" else frozenset(),
        )
        for copy in range(COPIES)
        for name, rules in (*RULES.items(), ("json", JSON))
        for place in range(SHORT)
    ]
    engine = InferenceEngine(
        model,
        slots=6,
        cache_bytes=8 * 16 * bytes_per_token(model),
        constraints=Constraints(tokenizer),
        speculation=Speculation(pass_rows=1e6, longest_draft=5) if speculates else None,
    )
    found = complete_everywhere(engine, requests)
    usage = engine.usage
    answers = {request.name: plain(found[request.name]) for request in requests}
    return {"answers": answers, "drafted": usage.drafted_tokens, "accepted": usage.accepted_tokens}


def forced(model: Any, prompts: list[list[int]], tops: list[int]) -> list[list[dict[str, Any]]]:
    """Samples of every prompt that do not begin with its most probable token."""
    from megaphi.generation.decoding.generate import complete_everywhere
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.decoding.interface import Request

    requests = [
        Request(
            name=f"{place}/{sample}",
            prompt=tuple(prompt),
            sampling=FORCED if place else LONE,
            sample=sample,
            excluded_first=frozenset({tops[place]}),
        )
        for place, prompt in enumerate(prompts)
        for sample in range(SAMPLES)
    ]
    found = complete_everywhere(InferenceEngine(model, slots=6), requests)
    return [[plain(found[f"{place}/{sample}"]) for sample in range(SAMPLES)] for place in range(len(prompts))]


def json_answers(model: Any, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """Some of them beside texts that may say what they like, in a cache that is too small for all."""
    from megaphi.generation.decoding.generate import complete_everywhere
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.decoding.interface import Request

    tokenizer = load_tokenizer(352)
    engine = InferenceEngine(
        model, slots=6, cache_bytes=7 * 16 * bytes_per_token(model), constraints=Constraints(tokenizer)
    )
    asked = [
        (f"{kind} {place}", prompt, rules)
        for place, prompt in enumerate(prompts)
        for kind, rules in (("json", JSON), ("free", SAMPLED))
    ]
    requests = [
        Request(name=name, prompt=tuple(prompt), sampling=rules, stop_tokens=tokenizer.stop_tokens)
        for name, prompt, rules in asked
    ]
    found = complete_everywhere(engine, requests)
    assert engine.scheduler.preemptions or model.world.replicas > 1
    return [plain(found[f"json {place}"]) for place in range(len(prompts))]


def bytes_per_token(model: Any) -> int:
    from megaphi.engine.inference.forward_only import cache_bytes_per_token

    return cache_bytes_per_token(model)


def plain(item: Completion) -> dict[str, Any]:
    return {
        "tokens": item.tokens,
        "log_probabilities": item.log_probabilities,
        "alternatives": item.alternatives,
        "finish": item.finish,
    }


def without_cache(checkpoint: str) -> dict[str, Any]:
    """The same requests one by one, each step a forward pass over the whole text."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import logits_of, open_model
    from megaphi.generation.decoding.interface import Request
    from megaphi.generation.decoding.sampling_law import Row
    from megaphi.generation.decoding.scoring import score, target_token
    from megaphi.generation.decoding.token_choice import choose
    from tests.generation.plain_law import first_by, plain_law

    model = open_model(open_weights(checkpoint))
    prompts = prompts_of(model.architecture.vocabulary)

    tokenizer = load_tokenizer(352)
    constraints = Constraints(tokenizer)

    def alone(prompt: list[int], rules: Sampling, sample: int = 0) -> dict[str, Any]:
        answer: dict[str, Any] = {"tokens": [], "log_probabilities": [], "alternatives": [], "finish": "length"}
        constraint = constraints.open(rules.json_schema) if rules.json_schema else None
        for _ in range(rules.max_tokens):
            logits_1V = logits_of(model, np.array([prompt + answer["tokens"]]))[:, -1]
            allowed = constraint.allowed(answer["tokens"], vocabulary=352) if constraint else None
            choice = choose(logits_1V, [Row(rules, sample, prompt, answer["tokens"], allowed)])
            if constraint and choice.tokens[0] in tokenizer.stop_tokens:
                return {**answer, "finish": "stop"}
            answer["log_probabilities"] += choice.log_probabilities
            answer["alternatives"] += choice.alternatives
            answer["tokens"] = answer["tokens"] + choice.tokens
        return answer

    found: dict[str, Any] = {name: [alone(prompt, rules) for prompt in prompts] for name, rules in RULES.items()}
    found["json"] = [alone(prompt, JSON) for prompt in prompts[:SHORT]]
    found["samples"] = [[alone(prompt, SAMPLED, sample) for sample in range(8)] for prompt in prompts[5:7]]
    found["scores"] = []
    for prompt, continuation in texts_of(prompts, found["greedy"][0]["tokens"]):
        logits_SV = logits_of(model, np.array([prompt + continuation]))[0]
        request = Request(name="text", prompt=(*prompt, *continuation), scored=len(continuation))
        targets = [target_token(request, position) for position in range(len(prompt), len(request.prompt))]
        scores = score(logits_SV[len(prompt) - 1 : -1], targets)
        found["scores"].append([tuple(item)[:3] for item in scores])
        for name, rules in SCORED.items():
            laws = [
                plain_law(logits_SV[len(prompt) - 1 + place], rules, prompt, continuation[:place])
                for place in range(len(continuation))
            ]
            probabilities = [law[token].item() for law, token in zip(laws, continuation, strict=True)]
            found.setdefault(f"{name}, sampled", []).append(probabilities)
    found["forced"] = []
    for place, prompt in enumerate(prompts):
        law = plain_law(logits_of(model, np.array([prompt]))[0, -1], FORCED if place else LONE, prompt, [])
        top = int(law.argmax())
        firsts = [first_by(law, FORCED, sample, excluded={top}) for sample in range(SAMPLES)]
        found["forced"].append((top, firsts))
    return found
