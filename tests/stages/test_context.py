"""The context is the model's: stages and rows of other lengths leave it, in the configuration, checkpoints and exports.

What reads the model afterwards (serving, generation) takes its limit from there.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megaphi.checkpoint.model_tokenizer import context_of
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source, Stage
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.engine.run_config import RunConfig
from megaphi.files import read_json
from megaphi.stages.pretrain import Pretrain
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.gloo_world import run_in_world
from tests.stages.packed_runs import SHAPE
from tests.stages.stage_runs import base, dpo_run, sft_run, stage_here, write_conversations, write_pairs

ROWS = 4
"""Samples of a step."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("context")
    with IndexedDatasetWriter(home / "text", "uint16") as writer:
        for document in range(80):
            writer.add_document([(document + place * place) % 300 for place in range(100)])
        tokenizer = load_tokenizer(SHAPE.vocabulary)
        writer.finish({"tokenizer": tokenizer.fingerprint, "vocabulary_size": SHAPE.vocabulary})
    write_conversations(home / "train.jsonl", 12, seed=1)
    write_conversations(home / "held_out.jsonl", 4, seed=2)
    write_pairs(home / "pairs.jsonl", 12, seed=3)
    write_pairs(home / "pairs_held_out.jsonl", 4, seed=4)
    return home


def staged(home: Path, name: str, lengths: list[int], **fields: Any) -> RunConfig:
    """Two steps of each length, one stage after the other; the batch shape says 32."""
    stages = tuple(
        Stage(name=f"of_{length}_{number}", sequence_length=length, tokens=2 * ROWS * length)
        for number, length in enumerate(lengths)
    )
    run = base(home / name, None, steps=2 * len(lengths), **fields)
    source = Source(name="text", weight=1.0, paths=(str(home / "text"),))
    batch = BatchShape(sequence_length=32, global_batch=ROWS, micro_batch=2)
    return replace(run, batch=batch, task=Pretrain(mixture=Mixture(sources=(source,), stages=stages)))


def rows_of(run: RunConfig, length: int) -> RunConfig:
    return replace(run, batch=replace(run.batch, sequence_length=length))


def run_all(runs: list[RunConfig]) -> list[str | None]:
    return [stage_here(run)["message"] for run in runs]


def contexts(folder: Path, out: Path) -> tuple[int, ...]:
    """Contexts of the configuration, checkpoint, the export, what is read from that, and a converted checkpoint."""
    exported = to_huggingface(folder, out / "hf")
    config = json.loads((exported / "config.json").read_text())
    assert config["original_max_position_embeddings"] == config["max_position_embeddings"]
    again = to_checkpoint(exported, out / "again")
    return (
        read_json(folder / "config.json", what="configuration")["model"]["context"],
        context_of(open_weights(folder)),
        config["max_position_embeddings"],
        context_of(open_weights(exported)),
        context_of(open_weights(again)),
    )


def test_the_longest_stage_decides_wherever_it_stands(home: Path, tmp_path: Path) -> None:
    orders = {"falling": [256, 128], "rising": [128, 256], "between": [64, 256, 32], "short": [16, 8]}
    runs = [staged(home, name, lengths) for name, lengths in orders.items()]
    given = staged(home, "given", [64, 32])
    runs.append(replace(given, model=replace(given.model, context=512)))
    assert run_in_world(run_all, runs, processes=1) == [[None] * 5]
    expected = {"falling": 256, "rising": 256, "between": 256, "short": 16, "given": 512}
    for name, context in expected.items():
        assert contexts(home / name, tmp_path / name) == (context,) * 5, name


def test_resuming_in_another_stage_or_with_other_rows_keeps_it(home: Path, tmp_path: Path) -> None:
    """Stopped behind the long rows, and continued with shorter ones than were planned; a run over rows of 64, of 48."""
    whole = staged(home, "resumed", [128, 64])
    first = replace(whole, training=replace(whole.training, stop_after=2))
    shorter = staged(home, "resumed", [128, 16], accept_changed_data=True)
    start = home / "start_long"
    chats = sft_run(home / "sft_resumed", home, start, steps=4, stop_after=2)
    again = sft_run(home / "sft_resumed", home, start, steps=4, accept_changed_data=True)
    runs = [first, shorter, staged(home, "start_long", [256, 128]), rows_of(chats, 64), rows_of(again, 48)]
    assert run_in_world(run_all, runs, processes=1) == [[None] * 5]
    assert contexts(home / "resumed", tmp_path / "resumed") == (128,) * 5
    assert contexts(home / "sft_resumed", tmp_path / "sft") == (256,) * 5


def test_tuning_with_shorter_rows_keeps_it_and_with_longer_ones_raises_it(home: Path, tmp_path: Path) -> None:
    start = home / "start"
    runs = [
        staged(home, "start", [96, 64]),
        rows_of(sft_run(home / "sft", home, start, steps=3), 48),
        rows_of(dpo_run(home / "dpo", home, home / "sft", steps=3), 64),
        rows_of(sft_run(home / "longer", home, home / "dpo", steps=3), 160),
    ]
    assert run_in_world(run_all, runs, processes=1) == [[None] * 4]
    for name, context in (("start", 96), ("sft", 96), ("dpo", 96), ("longer", 160)):
        assert contexts(home / name, tmp_path / name) == (context,) * 5, name
