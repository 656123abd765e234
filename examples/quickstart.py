"""The main job of megaphi, end to end, on one machine with or without GPUs: `make quickstart`.

Five sources of real text are tokenised and mixed 15/15/40/20/10; a small Phi-4 is pretrained on two processes with
tensor and sequence parallelism (on one where there is one GPU), stopped half way and resumed; it writes a sample; it is
exported to Hugging Face's format, where transformers must compute the same logits. Every step is a command that you can
run yourself, and is printed as such. What exists already is used again. The figures end up in
runs/quickstart/report.md.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megaphi.data.loading.token_frequencies import unigram_cross_entropy, weighted_token_counts
from megaphi.engine.reporting.loss_plot import plot_losses
from megaphi.engine.reporting.metrics import read_metrics
from megaphi.engine.run_config import RunConfig
from megaphi.files import read_json, write_text
from megaphi.parallel.devices import as_fields, fitting, gpus
from megaphi.recipes.quickstart import quickstart_pretrain
from megaphi.stages.pretrain import mixture_of

CORPUS = Path(__file__).parent / "corpus"
HOME = Path("runs/quickstart")
PROMPTS = ("Problem: What is 12 + 30?", "Question: What does scipy.stats", "def ")


@dataclass
class Report:
    """Figures as they come, in order."""

    title: str = "Quickstart report"
    pictures: dict[str, str] = field(default_factory=lambda: {"training and validation loss": "run/loss.png"})
    """Caption of each picture -> its path relative to the report."""
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    sample: str = ""

    @property
    def text(self) -> str:
        lines = [f"# {self.title}", "", "| what | figure |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in self.figures.items()]
        for shown, path in self.pictures.items():
            lines += ["", f"![{shown}]({path})"]
        lines += ["", "## Time", "", "| step | seconds |", "|---|---|"]
        lines += [f"| {name} | {seconds:.1f} |" for name, seconds in self.seconds.items()]
        lines += [f"| all | {sum(self.seconds.values()):.1f} |", "", "## Sample", "", "```", self.sample.strip(), "```"]
        return "\n".join(lines) + "\n"


def main() -> None:
    run = on_this_machine(quickstart_pretrain())
    report = Report()
    tokenise(run, report)
    train(run, report)
    sample(run, report)
    compare_with_unigram(run, report)
    export_and_compare(run, report)
    write_text(HOME / "report.md", report.text)
    print(f"\n{report.text}\nThis report: {HOME / 'report.md'}, the picture: {run.folder}/loss.png")


def on_this_machine(run: RunConfig) -> RunConfig:
    """The recipe with its layout cut down to the GPUs that are here; as it is on a CPU."""
    return dataclasses.replace(run, layout=fitting(run.layout, gpus=gpus()))


def start_words(run: RunConfig, recipe: RunConfig) -> list[str]:
    """The command that trains `run`, which is `recipe` but for its layout."""
    ranks = run.layout.model_ranks * (run.layout.data or 1)
    fields = as_fields(run.layout, instead_of=recipe.layout)
    return ["train", run.recipe, "--processes", str(ranks), *fields]


def command(
    name: str, arguments: Sequence[str], report: Report, *, capture: bool = False, typed: str | None = None
) -> str:
    """Run one megaphi command as its user would, who perhaps types something, and count its time under `name`."""
    print(f"\n$ megaphi {shlex.join(arguments)}", flush=True)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "megaphi", *arguments],
        stdout=subprocess.PIPE if capture else None,
        input=typed,
        text=True,
        check=False,
    )
    report.seconds[name] = report.seconds.get(name, 0.0) + time.monotonic() - began
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def tokenise(run: RunConfig, report: Report) -> None:
    """Each source's training and validation text to .bin/.idx."""
    for source in mixture_of(run).sources:
        for split, (prefix,) in (("train", source.paths), ("validation", source.validation_paths)):
            text = str(CORPUS / source.name / f"{split}.jsonl.zst")
            vocabulary = str(run.model.vocabulary)
            command("tokenise", ["tokenize", text, "--output", prefix, "--vocabulary", vocabulary], report)


def train(run: RunConfig, report: Report) -> None:
    """Half of the run, stop, and the other half from the checkpoint."""
    half = run.training.steps // 2
    start = start_words(run, quickstart_pretrain())
    if steps_done(run) < half:
        command("train, first half", [*start, f"training.stop_after={half}"], report)
    resumed_at = steps_done(run)
    command("train, resumed", start, report)
    records = read_metrics(Path(run.folder) / "metrics.jsonl")
    speed = statistics.median(record["tokens_per_second"] for record in records)
    report.figures["model"] = f"{run.model.parameters:,} parameters, vocabulary {run.model.vocabulary:,}"
    report.figures["layout"] = str(run.layout.for_world(run.layout.model_ranks))
    report.figures["training"] = f"{records[-1]['step']} steps, {records[-1]['tokens']:,} tokens, fp32"
    report.figures["resumed from step"] = f"{min(resumed_at, half)}"
    report.figures["time in training steps"] = f"{sum(record['seconds'] for record in records):.0f} s"
    report.figures["speed (median)"] = f"{speed:,.0f} tokens/s"
    report.figures["training loss at the end"] = f"{records[-1]['loss']:.4f} nats per token"
    report.figures["validation loss"] = f"{records[-1]['validation_loss']:.4f} nats per token"


def steps_done(run: RunConfig) -> int:
    latest = Path(run.folder) / "checkpoints" / "latest"
    return int(latest.read_text().strip().removeprefix("step_")) if latest.is_file() else 0


def sample(run: RunConfig, report: Report) -> None:
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    options = ["--max-tokens", "60", "--temperature", "0.7", "--top-p", "0.9", "--seed", "1"]
    report.sample = command("sample", ["generate", run.folder, *prompts, *options], report, capture=True)
    print(report.sample)


def compare_with_unigram(run: RunConfig, report: Report) -> None:
    """The loss of the best model that knows no context, on the same validation tokens."""
    from megaphi.stages.pretrain import open_data

    began = time.monotonic()
    training, validation = open_data(run)
    assert validation is not None
    counts_V = weighted_token_counts(training, vocabulary_size=run.model.vocabulary)
    labels = validation.batch(np.arange(run.validation.samples)).labels_BS
    unigram = unigram_cross_entropy(counts_V, labels)
    report.figures["best unigram model, same tokens"] = f"{unigram:.4f} nats per token"
    taken = training.tokens_by_source(training.order.end_sample)
    report.figures["tokens by source"] = ", ".join(f"{name} {count:,}" for name, count in taken.items())
    folder = Path(run.folder)
    records = read_metrics(folder / "metrics.jsonl")
    plot_losses(records, folder / "loss.png", title=run.recipe, marks={"best unigram model": unigram})
    report.seconds["unigram model and plot"] = time.monotonic() - began
    command("page of the run", ["report", run.folder], report)
    report.figures["charts, events and configuration of the run"] = "[report.html](run/report.html)"


def export_and_compare(run: RunConfig, report: Report) -> None:
    """Export to Hugging Face's format, and compare logits with transformers on validation text."""
    out = HOME / "huggingface"
    shutil.rmtree(out, ignore_errors=True)
    command("export", ["convert", "to-huggingface", run.folder, str(out)], report)
    began = time.monotonic()
    difference, largest = logit_difference(run, out)
    report.figures["logits, ours against transformers"] = (
        f"largest difference {difference:.1e} (of up to {largest:.1f})"
    )
    report.seconds["compare with transformers"] = time.monotonic() - began
    if difference > 1e-4:
        sys.exit(f"the exported model computes other logits than ours: they differ by {difference}")


def logit_difference(run: RunConfig, exported: Path) -> tuple[float, float]:
    """(largest absolute difference, largest absolute logit) over four validation samples."""
    import torch
    from transformers import Phi3ForCausalLM

    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import logits_of, open_model
    from megaphi.stages.pretrain import open_data

    _, validation = open_data(run)
    assert validation is not None
    tokens_BS = validation.batch(np.arange(4)).tokens_BS
    ours: Any = logits_of(open_model(open_weights(run.folder)), tokens_BS)
    theirs = Phi3ForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens_BS)).logits
    assert read_json(exported / "config.json", what="exported configuration")["vocab_size"] == run.model.vocabulary
    return (ours - expected).abs().max().item(), expected.abs().max().item()


if __name__ == "__main__":
    main()
