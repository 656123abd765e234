"""Fine-tuning and preference optimisation of a real model: SmolLM2-135M on exam questions.

Amateur and commercial radio licence pools (Debian packages hamexam and fccexam): multiple-choice questions with keys.
One in five, by a hash of its text, is held out. Fine-tuning: answer a question and its four options with the right one.
Preferences, from the fine-tuned model: the right answer over a wrong one of the same question, prompt without options.
Measured on held-out questions: cross-entropy before and after; how often the right answer has gained on the wrong one,
with Wilson's interval. Both runs are ordinary `megaphi train` runs of the recipes in this file; prompts are in the
model's own chat format and tokens, which records of token ids allow.

    apt-get download hamexam fccexam; for package in *.deb; do dpkg-deb -x $package pools; done
    python benchmarks/smollm2_post_training.py --pools pools --folder runs/smollm2 --write
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from results_file import append_rows
from smollm2_model import smollm2

from megaphi.checkpoint.versions import short_commit, versions
from megaphi.data.batch import BatchShape
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.reporting.metrics import read_metrics
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.run_sections import Start, TrainingLength, ValidationPasses
from megaphi.engine.task import TrainingTask
from megaphi.files import write_text
from megaphi.stages.finetune import Finetune
from megaphi.stages.prefer import Prefer

RESULTS = Path(__file__).parent / "results"
COLUMNS = "date commit torch stage steps units tokens held_out before after low high"
HELD_OUT_OF = 5
HELD_OUT_CONVERSATIONS = 200
TRAINING_PAIRS = 800
LETTERS = "ABCD"
SMOOTHED_STEPS = 20
ROWS_OF_PAIRS = 4


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a pool."""

    text: str
    options: tuple[str, ...]
    right: int

    @property
    def is_held_out(self) -> bool:
        """By its text, so that twins in several pools stay together."""
        return hashlib.sha256(self.text.lower().encode()).digest()[0] % HELD_OUT_OF == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=Path, required=True, help="where the two packages were unpacked")
    parser.add_argument("--folder", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--steps", type=int, default=200, help="of each stage")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/smollm2_post_training.csv")
    arguments = parser.parse_args()
    os.environ["SMOLLM2_FOLDER"] = str(arguments.folder)
    questions = read_pools(arguments.pools)
    print(f"{len(questions)} questions, {sum(question.is_held_out for question in questions)} held out")
    write_data(questions, arguments.folder)
    sft, dpo = arguments.folder / "sft", arguments.folder / "dpo"
    # One step of no length tells the loss of the model as it is.
    train("sft", arguments.folder / "before", ["training.steps=1", "optimizer.learning_rate=1e-12"])
    train("sft", sft, [f"training.steps={arguments.steps}"])
    train("dpo", dpo, [f"training.steps={arguments.steps}", f"start.initial_checkpoint={sft}"])
    rows = [loss_row(arguments.folder / "before", sft, arguments.folder), accuracy_row(dpo, arguments.folder)]
    plot(sft, dpo, loss_before=last_validation(arguments.folder / "before", "validation_loss"))
    if arguments.write:
        append(rows)


def read_pools(folder: Path) -> list[Question]:
    """Every question once; the ones that need a figure are left out."""
    found: dict[str, Question] = {}
    for path in sorted(folder.glob("usr/share/*exam/*/*")):
        if path.is_file() and re.fullmatch(r"[\w-]+", path.name):
            question = parse(path.read_text(encoding="utf-8", errors="replace"))
            if question is not None:
                found.setdefault(question.text.lower(), question)
    return list(found.values())


def parse(text: str) -> Question | None:
    """`T0A01 (B)` or `16C5 D`, the question, and four options on lines of their own."""
    key, *lines = [line.strip() for line in text.replace("\ufeff", "").splitlines() if line.strip()]
    letter = re.search(r"\(?([A-D])\)?(\s*\[.*\])?$", key)
    body = " ".join(lines)
    parts = re.split(r"(?:^|\s)([A-D])\.\s", body)
    if letter is None or parts[1::2] != list(LETTERS) or "Figure" in body or "figure" in body:
        return None
    options = tuple(part.strip() for part in parts[2::2])
    if not all(options) or len(set(options)) < len(options):
        return None
    return Question(text=parts[0].strip(), options=options, right=LETTERS.index(letter[1]))


def write_data(questions: Sequence[Question], folder: Path) -> None:
    """Conversations and pairs of both splits, as token ids of the model's own tokenizer."""
    from transformers import AutoTokenizer

    gguf = smollm2()
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    for split in ("train", "held_out"):
        chosen = [question for question in questions if question.is_held_out == (split == "held_out")]
        most = HELD_OUT_CONVERSATIONS if split == "held_out" else None  # the mean of 200 answers is exact enough
        write_lines(
            folder / f"conversations_{split}.jsonl", (conversation(question, ids) for question in chosen[:most])
        )
        write_lines(folder / f"pairs_{split}.jsonl", (pair(question, ids) for question in chosen[:TRAINING_PAIRS]))


def chat(user: str) -> str:
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def conversation(question: Question, ids: Any) -> dict[str, Any]:
    options = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=True))
    prompt = ids(chat(f"{question.text}\n{options}"))
    answer = ids(f"{LETTERS[question.right]}. {question.options[question.right]}<|im_end|>")
    return {"ids": prompt + answer, "trained": [0] * len(prompt) + [1] * len(answer)}


def pair(question: Question, ids: Any) -> dict[str, Any]:
    """A preference pair; the rejected option is a function of the question."""
    wrong = [number for number in range(4) if number != question.right]
    chosen = wrong[hashlib.sha256(question.text.encode()).digest()[1] % 3]
    sides = [ids(f"{question.options[number]}<|im_end|>") for number in (question.right, chosen)]
    return {"prompt": ids(chat(question.text)), "accepted": sides[0], "rejected": sides[1]}


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def base_run(name: str, task: TrainingTask) -> RunConfig:
    from megaphi.conversion.formats.gguf.weights import GgufWeights

    gguf = smollm2()
    return RunConfig(
        recipe=name,
        folder="unused",
        training=TrainingLength(steps=200),
        validation=ValidationPasses(every=100),
        start=Start(initial_checkpoint=str(gguf)),
        saving=Saving(every=10_000, verify=False),
        model=GgufWeights(gguf).architecture,
        batch=BatchShape(sequence_length=192, global_batch=1, micro_batch=1),
        task=task,
        optimizer=Optimizer(learning_rate=3e-5, warmup_steps=0, weight_decay=0.0, final_fraction=0.1),
        precision=NumericPrecision(parameters="float32"),
    )


def sft() -> RunConfig:
    """Answer with the right option."""
    folder = os.environ["SMOLLM2_FOLDER"]
    files = Finetune(
        paths=(f"{folder}/conversations_train.jsonl",), validation_paths=(f"{folder}/conversations_held_out.jsonl",)
    )
    return base_run("smollm2_sft", files)


def dpo() -> RunConfig:
    """Prefer the right answer."""
    from dataclasses import replace

    folder = os.environ["SMOLLM2_FOLDER"]
    files = Prefer(paths=(f"{folder}/pairs_train.jsonl",), validation_paths=(f"{folder}/pairs_held_out.jsonl",))
    run = base_run("smollm2_dpo", files)
    # A row holds about four pairs: of one row alone the gradient is mostly noise.
    batch = replace(run.batch, global_batch=ROWS_OF_PAIRS)
    return replace(run, batch=batch, optimizer=replace(run.optimizer, learning_rate=1e-5))


def train(recipe: str, folder: Path, fields: Sequence[str]) -> None:
    """Run a recipe of this file, as a user would."""
    command = [sys.executable, "-m", "megaphi", "train", f"{Path(__file__)}:{recipe}", f"folder={folder}", *fields]
    subprocess.run(command, check=True)


def last_validation(folder: Path, name: str) -> float:
    return [record[name] for record in read_metrics(folder / "metrics.jsonl") if name in record][-1]


def loss_row(before: Path, after: Path, folder: Path) -> list[Any]:
    """Held-out cross-entropy of answers, nats per token."""
    losses = [last_validation(run, "validation_loss") for run in (before, after)]
    print(f"held-out loss: {losses[0]:.4f} before, {losses[1]:.4f} after fine-tuning")
    return ["sft", *sizes(after, folder, "conversations"), *(round(loss, 4) for loss in losses), "", ""]


def accuracy_row(run: Path, folder: Path) -> list[Any]:
    """Share of questions on which the right answer gained on the wrong one, with Wilson's 95 % interval."""
    accuracy = last_validation(run, "validation_accuracy")
    row = sizes(run, folder, "pairs")
    low, high = wilson(accuracy, row[-1])
    print(f"held-out preference accuracy: {accuracy:.4f}, 95 % interval {low:.4f} to {high:.4f}, of {row[-1]} pairs")
    return ["dpo", *row, 0.5, round(accuracy, 4), round(low, 4), round(high, 4)]


def sizes(run: Path, folder: Path, kind: str) -> list[Any]:
    """Steps, training units, tokens of the rows that were trained on, held-out units."""
    last = read_metrics(run / "metrics.jsonl")[-1]
    count = [len((folder / f"{kind}_{split}.jsonl").read_text().splitlines()) for split in ("train", "held_out")]
    return [last["step"], count[0], last["tokens"], count[1]]


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927)."""
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return centre - half, centre + half


def plot(sft_run: Path, dpo_run: Path, *, loss_before: float) -> None:
    """Both curves beside each other, into benchmarks/results/smollm2_post_training.png."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    tuned, preferred = (read_metrics(run / "metrics.jsonl") for run in (sft_run, dpo_run))
    draw(left, tuned, "loss", before=loss_before, title="fine-tuning: cross-entropy of answers, nats per token")
    draw(right, preferred, "accuracy", before=0.5, title="preferences: share of pairs won")
    right.axhline(0.5, color="#555555", linestyle="--", linewidth=1)
    figure.savefig(RESULTS / "smollm2_post_training.png")


def draw(axes: Any, records: list[dict[str, Any]], name: str, *, before: float, title: str) -> None:
    """A step trains a few answers only: what is drawn of training is the mean of SMOOTHED_STEPS of them."""
    values = [record[name] for record in records]
    means = [
        sum(values[max(0, end - SMOOTHED_STEPS) : end]) / min(end, SMOOTHED_STEPS) for end in range(1, len(values) + 1)
    ]
    label = f"training, mean of {SMOOTHED_STEPS} steps"
    axes.plot([record["step"] for record in records], means, color="#7aa6d6", linewidth=1.2, label=label)
    held_out = f"validation_{name}"
    checked = [(0, before), *((record["step"], record[held_out]) for record in records if held_out in record)]
    axes.plot(*zip(*checked, strict=True), color="#c0392b", marker="o", label="held out")
    axes.set(xlabel="step", title=title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def append(rows: list[list[Any]]) -> None:
    known = versions()
    path = RESULTS / "smollm2_post_training.csv"
    append_rows(path, COLUMNS.split(), ([date.today(), short_commit(), known["torch"], *row] for row in rows))


if __name__ == "__main__":
    main()
