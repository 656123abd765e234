"""Batches against a brute force: every token where the definition says, for any number of replicas, in any process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets.gpt_dataset import _get_ltor_masks_and_position_ids

from megaphi.data.batch import NO_SAMPLE
from megaphi.data.loading.loader import OpenMixture, batch_sample_numbers, open_mixture
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.errors import InputError
from megaphi.files import read_json, write_json
from tests.data.order import order_reference as reference
from tests.test_house import ROOT

END = 1
VOCABULARY = 1_000
WEIGHTS = {"web": 15.0, "rewrites": 15.0, "synthetic": 40.0, "code": 20.0, "acquired": 10.0}
SEQUENCE_LENGTH = 12


def write_dataset(prefix, documents, *, tokenizer="ours"):
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        for document in documents:
            writer.add_document(document)
        writer.finish({"tokenizer": tokenizer, "vocabulary_size": VOCABULARY})
    return str(prefix)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """{source: (prefixes, all its tokens)}: one to three datasets each, of documents of zero to thirty tokens."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(3)
    made = {}
    for number, name in enumerate(WEIGHTS):
        prefixes, stream = [], []
        for part in range(1 + number % 3):
            documents = [[*draw.integers(2, VOCABULARY, draw.integers(0, 30)).tolist(), END] for _ in range(20)]
            prefixes.append(write_dataset(folder / f"{name}_{part}", documents))
            stream += [token for document in documents for token in document]
        made[name] = (prefixes, stream)
    return made


def mixture_of(corpus, **fields):
    sources = [
        Source(name=name, weight=weight, paths=tuple(corpus[name][0]), validation_paths=tuple(corpus[name][0][:1]))
        for name, weight in WEIGHTS.items()
    ]
    return Mixture(sources=tuple(sources), **fields)


def open_corpus(corpus, *, fields=None, **changes) -> OpenMixture:
    settings = {"sequence_length": SEQUENCE_LENGTH, "seed": 5, "tokenizer_fingerprint": "ours"}
    settings |= {"vocabulary_size": VOCABULARY, **changes}
    return open_mixture(mixture_of(corpus, **(fields or {})), **settings)


def rows_by_brute_force(corpus, numbers):
    """S + 1 tokens of each sample, from the reference order and plain lists."""
    streams = [corpus[name][1] for name in WEIGHTS]
    placements = reference.periodic_blend(list(WEIGHTS.values()), max(numbers) + 1)
    places = reference.locate(
        list(WEIGHTS),
        [len(stream) for stream in streams],
        [placements[number] for number in numbers],
        sequence_length=SEQUENCE_LENGTH,
        seed=5,
        split="training",
    )
    return [
        [streams[source][(start + i) % len(streams[source])] for i in range(SEQUENCE_LENGTH + 1)]
        for source, _, _, start in places
    ]


def test_every_token_is_where_the_definition_says(corpus):
    numbers = np.random.default_rng(0).permutation(700)
    batch = open_corpus(corpus).batch(numbers)
    rows = np.array(rows_by_brute_force(corpus, numbers.tolist()))
    assert (batch.tokens_BS == rows[:, :-1]).all()
    assert (batch.labels_BS == rows[:, 1:]).all()
    assert (batch.loss_mask_BS == 1).all()
    assert batch.document_ids_BS is None
    assert (batch.sample_numbers_B == numbers).all()


def test_document_ids_count_the_documents_of_a_row(corpus):
    """By the pointers; our documents end with a token of their own, so counting those must give the same."""
    batch = open_corpus(corpus, fields={"isolate_documents": True}).batch(np.arange(300))
    for tokens, ids in zip(batch.tokens_BS.tolist(), batch.document_ids_BS.tolist(), strict=True):
        assert ids == [tokens[:place].count(END) for place in range(len(tokens))]
    assert batch.positions_BS is None
    assert (batch.loss_mask_BS == 1).all()


@pytest.mark.parametrize("reset_positions", [False, True])
@pytest.mark.parametrize("mask_document_ends", [False, True])
@pytest.mark.parametrize("isolate_documents", [False, True])
def test_documents_mean_what_they_mean_in_megatron(corpus, reset_positions, mask_document_ends, isolate_documents):
    fields = {"reset_positions": reset_positions, "mask_document_ends": mask_document_ends}
    batch = open_corpus(corpus, fields={**fields, "isolate_documents": isolate_documents}).batch(np.arange(40))
    positions_BS = np.tile(np.arange(SEQUENCE_LENGTH), (40, 1)) if batch.positions_BS is None else batch.positions_BS
    ids_BS = np.zeros((40, SEQUENCE_LENGTH)) if batch.document_ids_BS is None else batch.document_ids_BS
    assert (batch.positions_BS is not None, batch.document_ids_BS is not None) == (reset_positions, isolate_documents)
    for row, tokens in enumerate(batch.tokens_BS):
        hidden, loss_mask, positions = _get_ltor_masks_and_position_ids(
            torch.from_numpy(tokens), END, reset_positions, isolate_documents, mask_document_ends, True
        )
        assert batch.loss_mask_BS[row].tolist() == loss_mask.tolist()
        assert positions_BS[row].tolist() == positions.tolist()
        visible = np.tril(ids_BS[row][:, None] == ids_BS[row][None, :])
        assert (~hidden[0].numpy() == visible).all()


@given(
    replicas=st.integers(1, 6), micro_batch=st.integers(1, 4), micro_batches=st.integers(1, 4), step=st.integers(0, 9)
)
@settings(max_examples=80, deadline=None)
def test_replicas_share_a_step_exactly(replicas, micro_batch, micro_batches, step):
    size = replicas * micro_batch * micro_batches
    shares = [
        batch_sample_numbers(step, global_batch=size, replica=replica, replicas=replicas, micro_batch=micro_batch)
        for replica in range(replicas)
    ]
    assert all(share.shape == (micro_batches, micro_batch) for share in shares)
    together = np.stack(shares, axis=1)  # micro-batch, replica, sample
    assert together.ravel().tolist() == list(range(step * size, (step + 1) * size))


IN_ANOTHER_PROCESS = """
import sys
from megaphi.data.loading.loader import batch_sample_numbers, open_mixture
from megaphi.data.order.mixture import Mixture, Source
from megaphi.files import read_json, write_json
job = read_json(sys.argv[1], what="job")
mixture = Mixture(sources=tuple(Source(name=n, weight=w, paths=tuple(p)) for n, w, p in job["sources"]))
opened = open_mixture(mixture, **job["settings"])
steps = {}
for replicas in (1, 2, 4, 8):
    for step in (0, 3, 50):
        shares = []
        for replica in reversed(range(replicas)):
            numbers = batch_sample_numbers(step, global_batch=8, replica=replica, replicas=replicas, micro_batch=1)
            batch = opened.batch(numbers.ravel())
            shares += zip(batch.sample_numbers_B.tolist(), batch.tokens_BS.tolist())
        steps[f"{replicas} {step}"] = [row for _, row in sorted(shares)]
write_json(sys.argv[2], steps)
"""


def test_another_process_with_other_replicas_reads_the_same(corpus, tmp_path):
    settings = {"sequence_length": SEQUENCE_LENGTH, "seed": 5, "tokenizer_fingerprint": "ours"}
    settings["vocabulary_size"] = VOCABULARY
    sources = [[name, weight, corpus[name][0]] for name, weight in WEIGHTS.items()]
    write_json(tmp_path / "job.json", {"sources": sources, "settings": settings})
    files = [str(tmp_path / name) for name in ("job.json", "out.json")]
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, *files], check=True, cwd=ROOT, timeout=60)
    opened = open_corpus(corpus)
    for key, rows in read_json(files[1], what="result").items():
        step = int(key.split()[1])
        here = opened.batch(np.arange(8 * step, 8 * step + 8))
        assert here.tokens_BS.tolist() == rows, f"replicas and step {key}"


def test_splits_have_orders_of_their_own(corpus):
    training, validation = open_corpus(corpus), open_corpus(corpus, split="validation")
    assert training.batch([0]).tokens_BS.tolist() != validation.batch([0]).tokens_BS.tolist()
    assert len(validation.streams[2].datasets) == 1 < len(training.streams[2].datasets)


def test_the_ledger_follows_everything_that_decides_a_batch(corpus):
    """Weights, lengths, seed and data: two ledgers are equal if their runs read the same."""
    same = open_corpus(corpus).ledger(7)
    assert same == open_corpus(corpus).ledger(7)
    others = [open_corpus(corpus, **change).ledger(7) for change in ({"seed": 6}, {"sequence_length": 8})]
    others.append(open_corpus(corpus).ledger(8))
    assert all(other != same for other in others)


def test_tokens_and_epochs_are_those_of_the_batches(corpus):
    opened = open_corpus(corpus)
    shares = {"web": 0.15, "rewrites": 0.15, "synthetic": 0.4, "code": 0.2, "acquired": 0.1}
    tokens = {name: round(share * 1_000) * SEQUENCE_LENGTH for name, share in shares.items()}
    assert opened.tokens_by_source(1_000) == tokens
    sizes = {size.name: size for size in opened.describe()}
    for name, epochs in opened.epochs(1_000).items():
        assert sizes[name].tokens == len(corpus[name][1])
        assert sizes[name].datasets == len(corpus[name][0])
        assert epochs == tokens[name] / sizes[name].tokens


def one_source(*paths, **fields):
    return Mixture(sources=(Source(name="web", weight=1, paths=paths, **fields),))


SETTINGS = {"sequence_length": 4, "seed": 0, "tokenizer_fingerprint": "ours", "vocabulary_size": 50}


def test_a_dataset_of_another_vocabulary(tmp_path):
    prefix = write_dataset(tmp_path / "d", [[5, 6, 7, 8, 9, END]], tokenizer="theirs and no other")
    with pytest.raises(InputError, match=r"another vocabulary \(of 1000 tokens, fingerprint theirs and n\)"):
        open_mixture(one_source(prefix), **SETTINGS)


def test_ids_beyond_the_vocabulary(tmp_path, caplog):
    """Without a description the range of a sample decides; with a wrong one, the batch."""
    lying = write_dataset(tmp_path / "lying", [[5, 6, 70, 8, 9, END]])
    with pytest.raises(
        InputError, match=r"source 'web': .*lying\.bin holds token 70 at token 2 \(byte 4\), but the model"
    ):
        open_mixture(one_source(lying), **SETTINGS).batch(range(8))
    (tmp_path / "lying.json").unlink()
    with pytest.raises(InputError, match=r"lying holds token 70, but the model's vocabulary is 50"):
        open_mixture(one_source(lying), **SETTINGS)
    assert open_mixture(one_source(lying), **{**SETTINGS, "vocabulary_size": 71}).batch([0]).tokens_BS.shape == (1, 4)
    assert "no .json that names a tokenizer" in caplog.text


def test_mixtures_that_cannot_be_read(tmp_path):
    good = write_dataset(tmp_path / "good", [[5, 6, 7, 8, 9, END]])
    with pytest.raises(InputError, match=r"task\.mixture\.sources\.web\.paths is empty"):
        open_mixture(one_source(), **SETTINGS)
    with pytest.raises(InputError, match="no source of the mixture has validation_paths"):
        open_mixture(one_source(good), **SETTINGS, split="validation")
    with pytest.raises(InputError, match=r"not found: .*nowhere\.idx"):
        open_mixture(one_source(str(tmp_path / "nowhere")), **SETTINGS)
    with pytest.raises(InputError, match=r"source 'web' has 6 tokens, but one sample .* needs 9"):
        open_mixture(one_source(good), **{**SETTINGS, "sequence_length": 8})
    with pytest.raises(InputError, match=r"global_batch=6 cannot be dealt out to 2 replicas .* a multiple of 4"):
        batch_sample_numbers(0, global_batch=6, replica=0, replicas=2, micro_batch=2)


def test_padding_counts_for_nothing_and_sources_share_the_samples_out(corpus):
    held_out = open_corpus(corpus, split="validation", fields={"mask_document_ends": True})
    plain, padded = held_out.batch([4, 9]), held_out.batch([4, NO_SAMPLE, 9])
    assert padded.loss_mask_BS[1].sum() == 0 < plain.loss_mask_BS.sum()
    assert np.array_equal(padded.loss_mask_BS[[0, 2]], plain.loss_mask_BS)
    assert np.array_equal(padded.tokens_BS[[0, 2]], plain.tokens_BS)
    numbers = held_out.numbers_by_source(40)
    assert {name: len(of) for name, of in numbers.items()} == {name: weight * 0.4 for name, weight in WEIGHTS.items()}
    assert sorted(np.concatenate([*numbers.values()])) == list(range(40))
    for index, of in enumerate(numbers.values()):
        assert set(held_out.order.locate(of)[0].source_B) == {index}
    sources = [replace(source, validation_paths=()) for source in held_out.mixture.sources[1:]]
    mixture = replace(held_out.mixture, sources=(held_out.mixture.sources[0], *sources))
    settings = {"sequence_length": SEQUENCE_LENGTH, "seed": 5, "tokenizer_fingerprint": "ours"}
    web = open_mixture(mixture, **settings, vocabulary_size=VOCABULARY, split="validation").numbers_by_source(3)
    assert {name: of.tolist() for name, of in web.items()} == {
        name: [0, 1, 2] if name == "web" else [] for name in WEIGHTS
    }
