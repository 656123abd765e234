"""Training on pivotal pairs against whole-response pairs of the same questions, and against fine-tuning.

Three ways to learn from one search of one model: pairs of single pivotal tokens; a right answer over a wrong one, both
sampled from the bare question; fine-tuning on the right answers. Every run takes the same steps on rows of one size, so
as many tokens go through the model, and is repeated with three seeds. The measure is the share of right answers to
held-out questions at temperature 1; its interval is a bootstrap over the questions.

    make story
    python benchmarks/pivotal_preferences.py --write
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from results_file import append_rows

from megaphi.checkpoint.versions import short_commit
from megaphi.config import to_plain
from megaphi.data.batch import BatchShape
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import Start, TrainingLength, ValidationPasses
from megaphi.engine.task import TrainingTask
from megaphi.files import write_json, write_text
from megaphi.pivotal.rollouts.store import prefix_digest
from megaphi.recipes.quickstart import quickstart_dpo_pivotal
from megaphi.stages.finetune import Finetune
from megaphi.stages.prefer import Prefer

RESULTS = Path(__file__).parent / "results" / "pivotal_preferences.csv"
COLUMNS = "date commit machine arm learning_rate steps seed pairs held_out answers accuracy low high"
SEEDS = (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/story/sums")
    parser.add_argument("--search", default="runs/story/pivotal", help="output of megaphi pivotal search")
    parser.add_argument("--held-out", default="runs/story/sums_held_out.jsonl")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-5, 3e-5, 1e-4])
    parser.add_argument("--samples", type=int, default=16, help="answers to each held-out question")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/pivotal_preferences.csv")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder), arguments)
    if arguments.write:
        append(rows)


def compare(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every arm at every learning rate with every seed, and the model itself."""
    arms = write_data(Path(arguments.search), folder)
    base = accuracy(arguments.model, folder / "base", arguments)
    rows = [{"arm": "none", "learning_rate": "", "steps": 0, "seed": "", "pairs": "", **base}]
    print(rows[0], flush=True)
    for arm, (task, records) in arms.items():
        for rate in arguments.learning_rates:
            for seed in SEEDS:
                run = run_of(task, folder / f"{arm}_{rate:g}_{seed}", arguments, learning_rate=rate, seed=seed)
                write_json(folder / "config.json", to_plain(run))
                megaphi("train", str(folder / "config.json"))
                found = accuracy(run.folder, folder / f"rate_{arm}_{rate:g}_{seed}", arguments)
                rows.append({"arm": arm, "learning_rate": rate, "steps": arguments.steps, "seed": seed, **found})
                rows[-1]["pairs"] = records
                print(rows[-1], flush=True)
    return rows


def write_data(search: Path, folder: Path) -> dict[str, tuple[TrainingTask, int]]:
    """The task of each arm, and how many records it has."""
    pivotal = (search / "pairs.jsonl").read_text().splitlines()
    questions = {json.loads(line)["question"] for line in pivotal}
    pairs, right = [], []
    for prompt, outcomes in whole_answers(search, questions):
        for chosen, rejected in zip(outcomes["right"], outcomes["wrong"], strict=False):
            pairs.append({"prompt": prompt, "accepted": chosen, "rejected": rejected, "append_eos": False})
        right += [
            {"ids": [*prompt, *one], "trained": [False] * len(prompt) + [True] * len(one)} for one in outcomes["right"]
        ]
    for name, records in (("pairs", pairs), ("right", right)):
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    beta = 0.3
    return {
        "pivotal pairs": (Prefer(paths=(str(search / "pairs.jsonl"),), beta=beta), len(pivotal)),
        "whole-response pairs": (Prefer(paths=(str(folder / "pairs.jsonl"),), beta=beta), len(pairs)),
        "fine-tuning": (Finetune(paths=(str(folder / "right.jsonl"),)), len(right)),
    }


def whole_answers(search: Path, questions: set[str]) -> list[tuple[list[int], dict[str, list[list[int]]]]]:
    """(prompt, outcome -> sampled answers) of the questions that pivotal pairs are of."""
    prompts = {}
    for line in (search / "values.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["answer_tokens"] == 0 and record["question"] in questions:
            prompts[record["question"]] = record["tokens"]
    rollouts: list[dict[str, Any]] = []
    found: dict[str, dict[str, list[list[int]]]] = defaultdict(lambda: defaultdict(list))
    for line in (search / "rollouts.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "tokens" in record:
            rollouts.append(record)
        elif "rollout" in record:
            rollout = rollouts[record["rollout"]]
            prompt = prompts.get(rollout["question"])
            if prompt is not None and is_whole(rollout, prompt):
                found[rollout["question"]][record["outcome"]].append(rollout["tokens"])
    return [(prompts[question], outcomes) for question, outcomes in sorted(found.items())]


def is_whole(rollout: dict[str, Any], prompt: Sequence[int]) -> bool:
    """Return whether a stored rollout began at the bare question."""
    return rollout["prefix"] == prefix_digest(prompt) and rollout["excluded"] is None


def run_of(
    task: TrainingTask, folder: Path, arguments: argparse.Namespace, *, learning_rate: float, seed: int
) -> RunConfig:
    return replace(
        quickstart_dpo_pivotal(),
        folder=str(folder),
        seed=seed,
        task=task,
        training=TrainingLength(steps=arguments.steps),
        validation=ValidationPasses(),
        start=Start(initial_checkpoint=arguments.model),
        batch=BatchShape(sequence_length=256, global_batch=4, micro_batch=4),
        optimizer=Optimizer(learning_rate=learning_rate, warmup_steps=2, weight_decay=0.0),
    )


def megaphi(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "megaphi", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)


def accuracy(model: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Share of right answers to the held-out questions; one without a verdict is not right."""
    sizes = ["--first-rollouts", str(arguments.samples), "--answers", "0", "--max-tokens", "48", "--batch", "128"]
    megaphi("pivotal", "search", arguments.held_out, "--sampler", model, "--output", str(folder), *sizes)
    counts = [json.loads(line)["first"] for line in (folder / "questions.jsonl").read_text().splitlines()]
    shares = np.array([one["successes"] / arguments.samples for one in counts])
    draws = np.random.default_rng(0).choice(shares, size=(4_000, len(shares))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return {
        "held_out": len(shares),
        "answers": len(shares) * arguments.samples,
        "accuracy": round(float(shares.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def append(rows: Sequence[dict[str, Any]]) -> None:
    facts = {"date": date.today(), "commit": short_commit(), "machine": machine()}
    append_rows(RESULTS, COLUMNS.split(), ({**facts, **one} for one in rows))


if __name__ == "__main__":
    main()
