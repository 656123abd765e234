"""A run that is killed again and again: started, killed with SIGKILL at a random moment, looked at, started again.

Every second kill waits for a save to begin and strikes a random moment later; the others come at a random moment of the
whole life of the processes. After each one, all that has a checkpoint's name must be whole, and the next start must go
on from the newest of them. `benchmarks/killed_runs.py` does this a hundred times, the suite a few.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from megaphi.checkpoint.verification import problems_of
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.engine.reporting.metrics import read_metrics
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.pretrain import Pretrain
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.engine.layout_runs import TINY, contents, tiny_run
from tests.gloo_world import start_ranks
from tests.processes import children_of, is_running
from tests.stages.mixture_runs import pretrain_here

VOCABULARY = 512
EVERY, KEPT = 3, 2
LIFE_SECONDS = 1.5
"""About how long processes live that are killed at any moment."""
DEADLINE_SECONDS = 120.0
SECONDS_TO_END = 5.0
"""After its parent, for a child that ends by itself: a run asks git what it was built from."""


@dataclass(kw_only=True, slots=True)
class Story:
    """Events of one run."""

    kills: int = 0
    during_save: int = 0
    """Kills that left a half-written checkpoint behind."""
    largest_loss: int = 0
    """Most steps that had to be taken again."""
    largest_loss_during_save: int = 0
    damaged: list[str] = field(default_factory=list)
    """Problems of checkpoints that had their name when the processes died."""
    orphans: int = 0
    """Processes that a killed rank had started, and that outlived it."""
    leftovers: list[str] = field(default_factory=list)
    """Files that an interrupted save left and later saves did not clear away."""
    resumed: list[int] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)


def killed_run(folder: Path, *, layout: ParallelLayout, asynchronous: bool, bf16: bool) -> RunConfig:
    """A run that saves every third step and keeps two checkpoints; `steps` is for the caller to set."""
    write_tokens(folder / "tokens")
    run = tiny_run(
        folder=str(folder / "run"),
        layout=layout,
        model=replace(TINY, vocabulary=VOCABULARY),
        task=Pretrain(mixture=Mixture(sources=(Source(name="text", weight=1.0, paths=(str(folder / "tokens"),)),))),
        batch=BatchShape(sequence_length=32, global_batch=8, micro_batch=4),
        saving=Saving(every=EVERY, keep_last=KEPT, asynchronous=asynchronous),
    )
    return replace(run, precision=NumericPrecision(parameters="bfloat16")) if bf16 else run


def write_tokens(prefix: Path) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    generator = random.Random(5)
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        for _ in range(400):
            writer.add_document([generator.randrange(VOCABULARY) for _ in range(generator.randint(20, 200))])
        writer.finish({"tokenizer": load_tokenizer(VOCABULARY).fingerprint, "vocabulary_size": VOCABULARY})


def tell(run: RunConfig, *, kills: int, seed: int, during_save: int = 0) -> Story:
    """Kill `run` so many times, and on until so many kills struck during a save; then let it come to its end."""
    story, generator = Story(), random.Random(seed)
    checkpoints = Path(run.folder) / "checkpoints"
    leftovers: dict[tuple[str, int], int] = {}
    while story.kills < kills or story.during_save < during_save:
        in_save = story.kills % 2 == 0 or story.kills >= kills
        reached = _killed_once(run, story, generator, in_save=in_save)
        if reached >= run.training.steps:
            raise AssertionError(f"the run came to its end after {story.kills} kills: give it more steps")
        leftovers = _look(checkpoints, story, reached, leftovers)
    ranks, readers = start_ranks(pretrain_here, run, processes=_ranks(run))
    results = [reader.recv() for reader in readers]
    for rank in ranks:
        rank.join(20)
    assert not any(failed or result["message"] for failed, result in results), results
    hidden = [path.name for path in checkpoints.iterdir() if path.name.startswith(".")]
    story.leftovers += hidden
    story.losses = losses(run)
    story.digests = contents(checkpoints)
    return story


def losses(run: RunConfig) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in read_metrics(Path(run.folder) / "metrics.jsonl")]


def _ranks(run: RunConfig) -> int:
    return run.layout.model_ranks * (run.layout.data or 1)


def _killed_once(run: RunConfig, story: Story, generator: random.Random, *, in_save: bool) -> int:
    """Start the run, kill all its ranks at once; returns the last step that was recorded."""
    checkpoints = Path(run.folder) / "checkpoints"
    before = {path.name for path in checkpoints.glob(".step_*")} if checkpoints.is_dir() else set()
    ranks, _ = start_ranks(pretrain_here, run, processes=_ranks(run))
    deadline = time.monotonic() + DEADLINE_SECONDS
    if in_save:
        skipped = generator.randrange(3)  # saves to let pass
        while skipped >= 0 and time.monotonic() < deadline and any(rank.is_alive() for rank in ranks):
            now = {path.name for path in checkpoints.glob(".step_*.partial")} if checkpoints.is_dir() else set()
            skipped -= len(now - before)
            before |= now
            time.sleep(0.0005)
        time.sleep(generator.uniform(0, 0.03))
    else:
        time.sleep(generator.uniform(0.1, LIFE_SECONDS))
    children = [child for rank in ranks for child in children_of(rank.pid or 0)]
    for rank in ranks:
        if rank.pid is not None and rank.is_alive():
            os.kill(rank.pid, signal.SIGKILL)
    for rank in ranks:
        rank.join(20)
    story.kills += 1
    story.orphans += len(outliving(children))
    assert time.monotonic() < deadline, "no save began"
    steps = [step for step, _ in losses(run)]
    return steps[-1] if steps else 0


def outliving(children: list[int]) -> list[int]:
    """Those of a dead process's children that do not end by themselves."""
    deadline = time.monotonic() + SECONDS_TO_END
    while (running := [child for child in children if is_running(child)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return running


def _look(
    checkpoints: Path, story: Story, reached: int, leftovers: dict[tuple[str, int], int]
) -> dict[tuple[str, int], int]:
    """Judge what is on the disk after a kill; returns what lies there hidden, and since which checkpoint."""
    published = sorted(checkpoints.glob("step_*")) if checkpoints.is_dir() else []
    story.damaged += [problem for path in published for problem in problems_of(path)]
    newest = int(published[-1].name.removeprefix("step_")) if published else 0
    pointer = checkpoints / "latest"
    named = int(pointer.read_text().strip().removeprefix("step_")) if pointer.is_file() else 0
    if named and not (checkpoints / f"step_{named:08d}").is_dir():
        story.damaged.append(f"latest names step {named}, which is not there")
    hidden = list(checkpoints.glob(".*")) if checkpoints.is_dir() else []
    in_save = any(path.name.startswith(".step_") and path.name.endswith(".partial") for path in hidden)
    story.during_save += in_save
    story.resumed.append(named)
    story.largest_loss = max(story.largest_loss, reached - named)
    if in_save:
        story.largest_loss_during_save = max(story.largest_loss_during_save, reached - named)
    found = {(path.name, path.stat().st_ino): leftovers.get((path.name, path.stat().st_ino), newest) for path in hidden}
    story.leftovers += [name for (name, _), since in found.items() if newest >= since + 2 * EVERY]
    return found
