"""A search on our own engine, as its ranks run it: a random model, whose answers are right if their sum is even."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megaphi.grading.question import MathAnswer, Question
from megaphi.grading.verdict import Verdict, right, wrong
from megaphi.parallel.layout import ParallelLayout
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.search import QuestionPlan
from megaphi.sampling import Sampling

RULES = Sampling(temperature=1.3, top_p=0.95, max_tokens=24, seed=2)
SETTINGS = Settings(gap=0.15, most_rollouts=120, confirm=24)
PLAN = QuestionPlan(first_rollouts=12, lowest_rate=0.1, highest_rate=0.9)
QUESTIONS = 4


class ManyStops:
    """The part of `Tokenizer` that a runner uses; so many tokens end an answer that most end in time."""

    stop_tokens = frozenset(range(40))

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))


def grade(items: Sequence[tuple[Question, str]]) -> list[Verdict]:
    return [right("even") if sum(map(int, text.split())) % 2 == 0 else wrong("odd") for _, text in items]


def search_on_engine(checkpoint: str, layout: ParallelLayout, folder: str) -> dict[str, Any] | None:
    """On rank 0: effects and counts of every searched answer, and the costs; None elsewhere."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.driver import drive, follow
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.local_sampler import LocalSampler

    model = open_model(open_weights(checkpoint), layout)
    engine = InferenceEngine(model, slots=24)
    if not model.world.is_main:
        follow(engine)
        return None
    generators = drive(engine)
    tokenizer: Any = ManyStops()
    with LocalSampler(generators, tokenizer, name="random") as sampler:
        found = _search(sampler, folder)
    for generator in generators:
        if hasattr(generator, "close"):
            generator.close()  # pyright: ignore[reportAttributeAccessIssue]
    return found


def _search(sampler: Any, folder: str) -> dict[str, Any]:
    from megaphi.pivotal.methods.backward import backward
    from megaphi.pivotal.rollouts.local_source import LocalSource
    from megaphi.pivotal.rollouts.prefix_reuse import QuestionRollouts
    from megaphi.pivotal.rollouts.runner import RolloutRunner
    from megaphi.pivotal.rollouts.store import RolloutStore
    from megaphi.pivotal.search import search_question

    source = LocalSource(sampler.service, facts={"sampler": "random"})
    store = RolloutStore(f"{folder}/rollouts.jsonl", source.facts)
    runner = RolloutRunner(source, store, grade, sampler.tokenizer, RULES)
    work = []
    for number in range(QUESTIONS):
        rollouts = QuestionRollouts(f"q{number}", (100 + number, 7, 300 - number))
        search = search_question(rollouts, PLAN, backward, SETTINGS, has_probabilities=True)
        work.append((Question(name=f"q{number}", prompt="?", key=MathAnswer("even")), rollouts, search))
    results = {question.name: result for question, _, result in runner.run(work, in_flight=QUESTIONS)}
    store.close()
    return {
        "rollouts": runner.tally.generated_rollouts,
        "first": {name: result.first for name, result in results.items()},
        "tokens": {name: [answer.trace.tokens for answer in result.answers] for name, result in results.items()},
        "effects": {
            name: [
                (effect.position, effect.token, effect.otherwise_counts, effect.after_counts, effect.effect.estimate)
                for answer in result.answers
                for effect in answer.findings.tokens
            ]
            for name, result in results.items()
        },
    }
