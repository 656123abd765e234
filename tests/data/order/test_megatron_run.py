"""A mixture in Megatron's order through the public way: every batch is that of Megatron's own dataset, at any step."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from megaphi.data.loading.loader import open_mixture
from megaphi.data.order.mixture import Mixture, Source, Stage
from megaphi.data.order.schedule import lay_out_stages
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.errors import InputError

STEPS, BATCH, LENGTH, SEED = 12, 8, 16, 77
WEIGHTS = {"web": 0.7, "code": 0.3}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("megatron")
    draw = np.random.default_rng(0)
    for name in WEIGHTS:
        with IndexedDatasetWriter(folder / name, "uint16") as writer:
            for _ in range(60):
                writer.add_document(draw.integers(1, 900, draw.integers(1, 40)))
            writer.finish({"tokenizer": "ours", "vocabulary_size": 900})
    sources = (Source(name=name, weight=weight, paths=(str(folder / name),)) for name, weight in WEIGHTS.items())
    return Mixture(sources=tuple(sources), order="megatron")


def opened(mixture):
    return open_mixture(
        mixture,
        sequence_length=LENGTH,
        seed=SEED,
        tokenizer_fingerprint="ours",
        vocabulary_size=900,
        stages=lay_out_stages(mixture, steps=STEPS, sequence_length=LENGTH, global_batch=BATCH),
    )


def megatron_dataset(mixture):
    config = GPTDatasetConfig(
        random_seed=SEED,
        sequence_length=LENGTH,
        blend_per_split=[([source.paths[0] for source in mixture.sources], list(WEIGHTS.values())), None, None],
        tokenizer=SimpleNamespace(vocab_size=900, eod=899, pad=-1, unique_identifiers={"class": "test"}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    return BlendedMegatronDatasetBuilder(GPTDataset, [STEPS * BATCH, 0, 0], lambda: True, config).build()[0]


def test_every_batch_is_megatrons(mixture):
    ours, theirs = opened(mixture), megatron_dataset(mixture)
    for step in range(STEPS):
        position = ours.order.position_at(step)
        numbers = np.arange(position.sample, position.sample + ours.order.span_at(step).global_batch)
        batch = ours.batch(numbers)
        samples = [theirs[int(number)] for number in numbers]
        assert batch.tokens_BS.tolist() == [sample["tokens"].tolist() for sample in samples]
        assert batch.labels_BS.tolist() == [sample["labels"].tolist() for sample in samples]
    drawn = ours.tokens_by_source(ours.order.end_sample)
    assert sum(drawn.values()) == STEPS * BATCH * LENGTH
    assert ours.ledger(3).segments != opened(mixture).ledger(0).segments


def test_what_it_does_not_know_is_refused(mixture):
    with pytest.raises(InputError, match=r"task.mixture.order=megatron has no mixture stages"):
        opened(
            Mixture(sources=mixture.sources, order="megatron", stages=(Stage(name="a", tokens=256), Stage(name="b")))
        )
    both = tuple(path for source in mixture.sources for path in source.paths)
    with pytest.raises(InputError, match="in Megatron's order each has a weight of its own"):
        opened(Mixture(sources=(Source(name="all", weight=1.0, paths=both),), order="megatron"))
    with pytest.raises(ValueError, match="step 12 of a run of 12"):
        opened(mixture).order.span_at(STEPS)
