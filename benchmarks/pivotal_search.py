"""Pivotal token search on a real model: precision and recall against brute force, and tokens generated.

Answers of a trained model to real questions are searched by every method, each paying for its own rollouts. The truth
is brute force with random numbers of its own: for every token that the bound |change| <= 1 - probability leaves
possible, some hundred rollouts after the token and some hundred after another one in its place. By default model and
questions are those of `make story`: a small model that has half learned short sums.

    make story
    python benchmarks/pivotal_search.py --write
    python benchmarks/pivotal_search.py --model runs/sft --questions gsm8k.jsonl --max-tokens 400
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from machine import machine
from results_file import append_rows

from megaphi.checkpoint.model_tokenizer import text_tokenizer_of
from megaphi.checkpoint.versions import short_commit
from megaphi.conversion.open_weights import open_weights
from megaphi.engine.inference.forward_only import open_model
from megaphi.generation.decoding.inference_engine import InferenceEngine
from megaphi.generation.local_sampler import LocalSampler
from megaphi.generation.text import render_prompt
from megaphi.grading.grader import Grader
from megaphi.grading.question import Question
from megaphi.grading.question_file import read_questions
from megaphi.pivotal.methods.backward import backward
from megaphi.pivotal.methods.baselines import two_arm
from megaphi.pivotal.methods.bisection import bisection, bounded_bisection
from megaphi.pivotal.methods.findings import Findings, Spent
from megaphi.pivotal.methods.method import Method
from megaphi.pivotal.methods.rollout import Draw
from megaphi.pivotal.methods.settings import Settings
from megaphi.pivotal.methods.statistics.discovery import discoveries
from megaphi.pivotal.methods.statistics.effects import counted
from megaphi.pivotal.methods.statistics.intervals import middle
from megaphi.pivotal.methods.trace import Trace
from megaphi.pivotal.rollouts.local_source import LocalSource
from megaphi.pivotal.rollouts.prefix_reuse import QuestionRollouts
from megaphi.pivotal.rollouts.runner import Draws, RolloutRunner, Search
from megaphi.pivotal.rollouts.store import RolloutStore
from megaphi.pivotal.search import QuestionPlan, search_question
from megaphi.sampling import Sampling

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "date commit machine model traces candidates pivotal method rollouts_per_trace tokens_per_trace reported "
    "precision near_precision recall seconds"
)
S = Settings()
RUNS: dict[str, tuple[Method, Settings]] = {
    "backward, at most 100": (backward, replace(S, most_rollouts=100, confirm=32)),
    "backward, at most 200": (backward, replace(S, most_rollouts=200, confirm=48)),
    "backward": (backward, S),
    "bisection 10": (bisection, replace(S, rollouts=10, confirm=0)),
    "bisection 50": (bisection, replace(S, rollouts=50, confirm=0)),
    "bisection 200": (bisection, replace(S, rollouts=200, confirm=0)),
    "bisection 50, bound, confirmed": (bounded_bisection, replace(S, rollouts=50)),
    "two-arm 50": (two_arm, replace(S, rollouts=50)),
}
NEAR = 0.05
"""A reported token whose true change is short of the gap by no more than this is a near miss, not a mistake."""


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """One answer to search, and by brute force how much each of its candidates changes the success probability."""

    question: Question
    trace: Trace
    changes: dict[int, float]


class Bench:
    """One model with its questions."""

    def __init__(self, model: str, questions: Sequence[Question], rules: Sampling, *, slots: int) -> None:
        reader = open_weights(model)
        self.tokenizer: Any = text_tokenizer_of(reader)
        self.questions = {question.name: question for question in questions}
        self.prompts = {one.name: tuple(render_prompt(one.prompt, self.tokenizer)) for one in questions}
        self._rules = rules
        self._sampler = LocalSampler([InferenceEngine(open_model(reader), slots=slots)], self.tokenizer, name=model)
        self._grader = Grader()

    def run(self, searches: Callable[[QuestionRollouts], Search], names: Sequence[str], label: str) -> tuple[dict, Any]:
        """Results by question, and the costs; `label` gives the rollouts random numbers of their own."""
        source = LocalSource(self._sampler.service, facts={"sampler": self._sampler.name})
        with tempfile.TemporaryDirectory() as folder:
            store = RolloutStore(Path(folder) / "rollouts.jsonl", source.facts)
            runner = RolloutRunner(source, store, self._grader.grade, self.tokenizer, self._rules)
            found = {
                question.name: result
                for question, _, result in runner.run(self._work(searches, names, label), in_flight=64)
            }
            store.close()
        return found, runner.tally

    def _work(
        self, searches: Callable[[QuestionRollouts], Search], names: Sequence[str], label: str
    ) -> Iterator[tuple[Question, QuestionRollouts, Search]]:
        for name in names:
            rollouts = QuestionRollouts(f"{label}/{name}", self.prompts[name])
            yield self.questions[name], rollouts, searches(rollouts)

    def close(self) -> None:
        self._sampler.close()
        self._grader.__exit__()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/story/sums")
    parser.add_argument("--questions", default="runs/story/sums_questions.jsonl")
    parser.add_argument("--traces", type=int, default=24, help="answers, one of each question that is in the band")
    parser.add_argument("--truth", type=int, default=400, help="rollouts on each side of each candidate")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/pivotal_search.csv, plot")
    arguments = parser.parse_args()
    rules = Sampling(temperature=1.0, max_tokens=arguments.max_tokens)
    bench = Bench(arguments.model, read_questions(arguments.questions), rules, slots=arguments.slots)
    known = known_answers(bench, arguments.traces, arguments.truth)
    pivotal = sum(abs(change) >= S.gap for one in known for change in one.changes.values())
    candidates = sum(len(one.changes) for one in known)
    print(f"{len(known)} answers, {candidates} candidates, {pivotal} truly pivotal", flush=True)
    rows = []
    for name, (method, settings) in RUNS.items():
        rows.append({**measured(bench, known, name, method, settings), "candidates": candidates, "pivotal": pivotal})
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    bench.close()
    if arguments.write:
        append(rows, model=Path(arguments.model).name)
        plot(rows)


def known_answers(bench: Bench, traces: int, rollouts: int) -> list[KnownAnswer]:
    """Answers to questions in the band, with the truth about them."""
    plan = QuestionPlan()

    def only_traces(trace: Trace, settings: Settings) -> Any:
        """A method that asks for nothing."""
        return Findings(method="", selected=(), tokens=(), curve=(), spent=Spent(), martingale=None)
        yield

    first, _ = bench.run(
        lambda one: search_question(one, plan, only_traces, S, has_probabilities=True), list(bench.questions), "first"
    )
    chosen = [(name, result.answers[0].trace) for name, result in first.items() if result.answers][:traces]
    print(f"{len(chosen)} of {len(first)} questions are in the band and searched", flush=True)
    traces_of = dict(chosen)
    found, tally = bench.run(
        lambda one: brute_force(traces_of[one.question.removeprefix("truth/")], rollouts), list(traces_of), "truth"
    )
    print(f"truth: {tally.generated_rollouts:,} rollouts, {tally.generated_tokens:,} tokens", flush=True)
    return [KnownAnswer(bench.questions[name], trace, found[name]) for name, trace in chosen]


def brute_force(trace: Trace, rollouts: int) -> Search:
    """Returns position -> (1 - probability) (p after the token - p with another one) of every candidate."""
    candidates = [i for i, probability in enumerate(trace.probabilities) if 1 - probability >= S.gap]
    draws: list[Draw] = []
    for i in candidates:
        draws.append(Draw(position=i, count=rollouts, excluded=trace.tokens[i], purpose="confirm"))
        if i + 1 < len(trace.tokens):
            draws.append(Draw(position=i + 1, count=rollouts, purpose="confirm"))
    replies = dict(zip(draws, (yield Draws(trace.tokens, tuple(draws))), strict=True)) if draws else {}
    changes = {}
    for i in candidates:
        forced = Draw(position=i, count=rollouts, excluded=trace.tokens[i], purpose="confirm")
        plain = Draw(position=i + 1, count=rollouts, purpose="confirm")
        after = middle(counted(replies[plain])) if plain in replies else float(trace.success)
        changes[i] = (1 - trace.probabilities[i]) * (after - middle(counted(replies[forced])))
    return changes


def measured(
    bench: Bench, known: Sequence[KnownAnswer], name: str, method: Method, settings: Settings
) -> dict[str, Any]:
    """One method on all answers, against the truth."""
    traces = {one.question.name: one.trace for one in known}
    began = time.perf_counter()

    def one_search(rollouts: QuestionRollouts) -> Search:
        trace = traces[rollouts.question.removeprefix(f"{name}/")]
        search = method(trace, settings)
        try:
            draws = next(search)
            while True:
                draws = search.send((yield Draws(trace.tokens, tuple(draws))))
        except StopIteration as end:
            return end.value

    found, tally = bench.run(one_search, list(traces), name)
    seconds = time.perf_counter() - began
    effects = discoveries([found[one.question.name] for one in known], gap=settings.gap)
    reported = [
        one.changes.get(effect.position, 0.0) for one, some in zip(known, effects, strict=True) for effect in some
    ]
    true = sum(abs(change) >= settings.gap for change in reported)
    near = sum(abs(change) >= settings.gap - NEAR for change in reported)
    pivotal = sum(abs(change) >= settings.gap for one in known for change in one.changes.values())
    return {
        "method": name,
        "traces": len(known),
        "rollouts_per_trace": round(tally.generated_rollouts / len(known), 1),
        "tokens_per_trace": round(tally.generated_tokens / len(known)),
        "reported": len(reported),
        "precision": round(true / max(1, len(reported)), 4),
        "near_precision": round(near / max(1, len(reported)), 4),
        "recall": round(true / max(1, pivotal), 4),
        "seconds": round(seconds, 1),
    }


def append(rows: Sequence[dict[str, Any]], *, model: str) -> None:
    path = RESULTS / "pivotal_search.csv"
    facts = {"date": date.today(), "commit": short_commit(), "machine": machine(), "model": model}
    append_rows(path, COLUMNS.split(), ({**facts, **one} for one in rows))


COLOURS = {"backward": "#D55E00", "bisection": "#0072B2", "two-arm": "#009E73"}


def plot(rows: Sequence[dict[str, Any]]) -> None:
    """Recall and precision against generated tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharex=True), ("recall", "precision"), strict=True):
        for one in rows:
            method = next(known for known in COLOURS if one["method"].startswith(known))
            axes.scatter(one["tokens_per_trace"], one[name], color=COLOURS[method])
            place = (one["tokens_per_trace"], one[name])
            axes.annotate(one["method"], place, textcoords="offset points", xytext=(5, 4), fontsize=7)
        axes.set(xscale="log", xlabel="generated tokens per answer", title=name, ylim=(0, 1.05))
        axes.grid(alpha=0.25)
    figure.savefig(RESULTS / "pivotal_search.png")


if __name__ == "__main__":
    main()
