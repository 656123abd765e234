"""A small run in bf16 as a user would start it: tokenise, train on isolated documents, stop, resume, generate.

All of it in one process, through the command line's own entry, so that an import is paid for once. It fails if a
command does, if the loss does not fall, or if the two halves are not all steps, each once.

    python -m tests.gpu.bf16_run [--steps 40]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from megaphi.cli import main as megaphi

ROOT = Path(__file__).parents[2]
SIZES = "layers=4 hidden=256 feed_forward=768 heads=8 key_value_groups=2 head_size=32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        train_and_generate(Path(folder) / "web", Path(folder) / "run", steps=options.steps)


def train_and_generate(data: Path, run: Path, *, steps: int) -> None:
    text = data.with_name("text.jsonl")
    pages = sorted((ROOT / "docs").rglob("*.md"))
    text.write_text("".join(json.dumps({"text": page.read_text()}) + "\n" for page in pages))
    command("tokenize", str(text), "--output", str(data), "--vocabulary", "4096")
    train = training(data, run, steps=steps)
    command(*train, f"training.stop_after={steps // 2}")
    command(*train)
    command("generate", str(run), "--prompt", "The ", "--max-tokens", "16")
    losses = read_losses(run)
    if [step for step, _ in losses] != list(range(1, steps + 1)):
        sys.exit(f"steps that were trained: {[step for step, _ in losses]}, not 1 to {steps}")
    first, last = losses[0][1], losses[-1][1]
    if not last < first - 0.05:
        sys.exit(f"the loss does not fall: {first:.4f} at step 1, {last:.4f} at step {steps}")
    print(f"loss {first:.4f} at step 1, {last:.4f} at step {steps}, resumed after {steps // 2}")


def training(data: Path, run: Path, *, steps: int) -> list[str]:
    """The words of the command that trains, or resumes."""
    source = {"name": "web", "weight": 1, "paths": [str(data)]}
    return [
        *("train", "quickstart_pretrain", f"folder={run}", f"task.mixture.sources={json.dumps([source])}"),
        *("task.mixture.isolate_documents=true", "precision.parameters=bfloat16"),
        *("layout.tensor=1", "layout.pipeline=1", "layout.sequence_parallel=false"),
        *(f"model.{size}" for size in SIZES.split()),
        *("batch.sequence_length=256", "batch.global_batch=8", "batch.micro_batch=4"),
        *(f"training.steps={steps}", "optimizer.warmup_steps=5", "validation.every=0"),
    ]


def command(*words: str) -> None:
    print(f"$ megaphi {' '.join(words)}", flush=True)
    code = megaphi(list(words))
    if code:
        sys.exit(f"megaphi {words[0]} ended with {code}")


def read_losses(run: Path) -> list[tuple[int, float]]:
    """(step, loss) of each update."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


if __name__ == "__main__":
    main()
