"""Batches through DALI against `OpenMixture.batch`: every field of every micro-batch, and the errors, in their place.

Marked `dali`: left out where it is not installed (`make test-dali` installs it).
"""

from __future__ import annotations

import sys
from dataclasses import fields
from functools import partial
from itertools import chain, count, islice

import numpy as np
import pytest

from megaphi.data.batch import Batch
from megaphi.data.loading.dali_loader import dali_steps
from megaphi.data.loading.loader import batch_sample_numbers, open_mixture
from megaphi.data.loading.prefetch import prefetch
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.errors import InputError

END, VOCABULARY, LENGTH, GLOBAL_BATCH = 1, 1_000, 24, 16
needs_dali = pytest.mark.dali


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    draw = np.random.default_rng(0)
    for name in ("web", "code"):
        with IndexedDatasetWriter(folder / name, "uint16") as writer:
            for _ in range(60):
                writer.add_document([*draw.integers(2, VOCABULARY, draw.integers(1, 60)).tolist(), END])
            writer.finish({"tokenizer": "ours", "vocabulary_size": VOCABULARY})
    return folder


def open_in(folder, *, isolate_documents=True, vocabulary_size=VOCABULARY):
    sources = [
        Source(name=name, weight=weight, paths=(str(folder / name),)) for name, weight in (("web", 2), ("code", 1))
    ]
    return open_mixture(
        Mixture(sources=tuple(sources), isolate_documents=isolate_documents),
        sequence_length=LENGTH,
        seed=7,
        tokenizer_fingerprint="ours",
        vocabulary_size=vocabulary_size,
    )


def share(*, replica=0, replicas=1, micro_batch=4):
    return partial(
        batch_sample_numbers, global_batch=GLOBAL_BATCH, replica=replica, replicas=replicas, micro_batch=micro_batch
    )


def native_steps(mixture, numbers, *, start, stop):
    return [[mixture.batch(numbers_B) for numbers_B in numbers(step)] for step in range(start, stop)]


def assert_equal(found, expected):
    assert [len(step) for step in found] == [len(step) for step in expected]
    for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
        for field in fields(Batch):
            one, other = getattr(ours, field.name), getattr(theirs, field.name)
            assert (one is None) == (other is None), field.name
            if one is not None:
                assert (type(one), one.dtype, one.shape) == (type(other), other.dtype, other.shape), field.name
                assert one.flags.c_contiguous
                np.testing.assert_array_equal(one, other, err_msg=field.name)


@needs_dali
@pytest.mark.parametrize("isolate_documents", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_every_field_equals_the_native_loader(folder, isolate_documents, depth):
    mixture = open_in(folder, isolate_documents=isolate_documents)
    found = list(dali_steps(mixture, share(), stop=9, depth=depth))
    assert_equal(found, native_steps(mixture, share(), start=0, stop=9))


@needs_dali
@pytest.mark.parametrize(("replicas", "micro_batch"), [(2, 8), (4, 1)])
def test_every_replica_reads_its_share(folder, replicas, micro_batch):
    mixture = open_in(folder)
    seen = []
    for replica in range(replicas):
        numbers = share(replica=replica, replicas=replicas, micro_batch=micro_batch)
        found = list(dali_steps(mixture, numbers, stop=3))
        assert_equal(found, native_steps(mixture, numbers, start=0, stop=3))
        seen += [number for step in found for batch in step for number in batch.sample_numbers_B.tolist()]
    assert sorted(seen) == list(range(3 * GLOBAL_BATCH))


@needs_dali
@pytest.mark.parametrize("step", [1, 4, 7])
def test_resuming_is_the_number_of_the_step(folder, step):
    mixture = open_in(folder)
    through = list(dali_steps(mixture, share(), stop=8))
    assert_equal(list(dali_steps(open_in(folder), share(), start=step, stop=8, depth=3)), through[step:])


@needs_dali
def test_the_batch_may_change_shape_on_the_way(folder):
    """As a stage with another global batch, or a resume on another number of replicas, makes it."""
    mixture = open_in(folder)

    def numbers(step):
        return np.arange(100 * step, 100 * step + (step + 1) * 2 * (4 - step), dtype=np.int64).reshape(step + 1, -1)

    found = list(dali_steps(mixture, numbers, stop=4))
    assert [step[0].tokens_BS.shape for step in found] == [(8, LENGTH), (6, LENGTH), (4, LENGTH), (2, LENGTH)]
    assert_equal(found, native_steps(mixture, numbers, start=0, stop=4))


@needs_dali
def test_steps_that_are_kept_are_not_written_again(folder):
    mixture = open_in(folder)
    kept = list(islice(dali_steps(mixture, share(), depth=1), 30))
    assert_equal(kept, native_steps(mixture, share(), start=0, stop=30))


@needs_dali
def test_a_thread_can_read_ahead(folder):
    mixture = open_in(folder)
    with_thread = list(prefetch(dali_steps(mixture, share(), start=2, stop=6)))
    assert_equal(with_thread, native_steps(mixture, share(), start=2, stop=6))


@needs_dali
def test_nothing_to_do_is_no_step(folder):
    assert list(dali_steps(open_in(folder), share(), start=5, stop=5)) == []


@pytest.fixture
def damaged(folder, tmp_path):
    """The datasets with one token in `web` that the vocabulary does not have."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokens = np.memmap(tmp_path / "web.bin", dtype="<u2", mode="r+")
    tokens[len(tokens) // 2] = VOCABULARY + 1
    tokens.flush()
    return tmp_path


def until_error(steps):
    """The steps that come out, and the message of the InputError that ends them."""
    found = []
    try:
        found.extend(steps)
    except InputError as error:
        return found, str(error)
    raise AssertionError("no error")


@needs_dali
@pytest.mark.parametrize("depth", [1, 4])
def test_an_error_comes_where_its_step_would_have_come(damaged, depth):
    mixture, numbers = open_in(damaged), share(micro_batch=2, replicas=8)
    expected = until_error([mixture.batch(numbers_B) for numbers_B in numbers(step)] for step in count())
    found = until_error(dali_steps(mixture, numbers, depth=depth))
    assert found[1] == expected[1]
    assert len(found[0]) > 2
    assert_equal(found[0], expected[0])


def test_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(InputError, match=r"pip install 'megaphi\[dali\]'"):
        next(dali_steps(open_in(folder), share()))
