"""Validation: the same samples of every source under any layout, each counted once, and nothing else counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.data.batch import NO_SAMPLE, BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.run_config import RunConfig
from megaphi.engine.training.validation import _introduce, micro_batches
from megaphi.log import logger
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.pretrain import Pretrain, mixture_of
from tests.engine.layout_runs import TINY, tiny_run
from tests.engine.validation_runs import SAMPLES, validated
from tests.gloo_world import run_in_world
from tests.stages.test_mixture_changes import write_tokens

WEIGHTS = {"web": 0.5, "code": 0.3, "books": 0.2}
FOUR = {
    "data 4": {"data": 4},
    "tensor 2 x pipeline 2": {"tensor": 2, "pipeline": 2, "sequence_parallel": True},
    "pipeline 2, virtual 2 x data 2": {"pipeline": 2, "virtual_pipeline": 2, "data": 2},
    "pipeline 4": {"pipeline": 4},
    "context 2 x data 2": {"context": 2, "data": 2},
    "tensor 2 x context 2": {"tensor": 2, "context": 2, "sequence_parallel": True},
}


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    rows=st.integers(1, 4),
    replicas=st.integers(1, 6),
    least=st.integers(1, 4),
)
def test_every_sample_is_dealt_once_in_micro_batches_of_one_source(
    sizes: list[int], rows: int, replicas: int, least: int
) -> None:
    firsts = np.cumsum([0, *sizes])
    numbers = {str(source): np.arange(firsts[source], firsts[source + 1]) for source in range(len(sizes))}
    dealt = micro_batches(numbers, rows=rows, replicas=replicas, least=least)
    assert len(dealt) % replicas == 0
    assert len(dealt) >= replicas * least
    assert len(dealt) < max(sum(-(-size // rows) for size in sizes) + replicas, replicas * least + 1)
    for name, numbers_B in dealt:
        real = [number for number in numbers_B.tolist() if number != NO_SAMPLE]
        assert len(numbers_B) == rows
        assert set(real) <= set(numbers.get(str(name), ()))
        assert (name is None) == (not real)
    shares = [number for replica in range(replicas) for _, part in dealt[replica::replicas] for number in part.tolist()]
    assert sorted(number for number in shares if number != NO_SAMPLE) == list(range(sum(sizes)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Weights that matter, so that sources differ; the last label of a document is masked, so that rows differ."""
    folder = tmp_path_factory.mktemp("held_out")
    sources = []
    for seed, (name, weight) in enumerate(WEIGHTS.items()):
        write_tokens(folder / name, 700, seed=seed)
        prefix = (str(folder / name),)
        sources.append(Source(name=name, weight=weight, paths=prefix, validation_paths=prefix))
    run = tiny_run(
        model=replace(TINY, vocabulary=512, initial_std=0.3),
        batch=BatchShape(sequence_length=32, global_batch=8, micro_batch=2),
        task=Pretrain(mixture=Mixture(sources=tuple(sources), mask_document_ends=True)),
    )
    return replace(run, validation=replace(run.validation, samples=SAMPLES))


def test_every_layout_validates_the_same_samples(run: RunConfig) -> None:
    one = validated_alone([run])[0]
    means, sums = one
    shares = [7, 4, 2]  # of 13 samples by weights of 0.5, 0.3, 0.2
    counts = [part["count"] for part in sums]
    assert counts[3] == 0
    assert all(30 * share < count <= 32 * share for share, count in zip(shares, counts, strict=False))
    weighted = [means[f"validation_loss/{name}"] * count for name, count in zip(WEIGHTS, counts, strict=False)]
    assert means["validation_loss"] == pytest.approx(sum(weighted) / sum(counts), rel=1e-12)
    assert len({round(means[f"validation_loss/{name}"], 2) for name in WEIGHTS}) == 3
    layouts = [replace(run, layout=ParallelLayout(**ways)) for ways in FOUR.values()]
    for name, (found, other) in zip(FOUR, run_in_world(validated, layouts, processes=4)[0], strict=True):
        assert found == pytest.approx(means, abs=1e-5), name
        assert [part["count"] for part in other] == counts, name
        assert other[3] == {"loss": 0.0, "count": 0.0}, name


def validated_alone(runs: list[RunConfig]) -> list[tuple[dict[str, float], list[dict[str, float]]]]:
    return run_in_world(validated, runs, processes=1)[0]


def test_the_loss_of_a_source_is_that_of_a_run_that_has_only_it(run: RunConfig) -> None:
    """Also in micro-batches of other sizes, and where the others hold nothing out."""
    only = []
    for source, samples in zip(mixture_of(run).sources, (7, 4, 2), strict=True):
        alone = replace(run, task=Pretrain(mixture=replace(mixture_of(run), sources=(source,))))
        only.append(replace(alone, validation=replace(run.validation, samples=samples)))
    rows = replace(run, batch=replace(run.batch, micro_batch=4))
    bare = [replace(source, validation_paths=()) for source in mixture_of(run).sources[1:]]
    first = replace(run, task=Pretrain(mixture=replace(mixture_of(run), sources=(mixture_of(run).sources[0], *bare))))
    whole, larger, first_only, *alone = (means for means, _ in validated_alone([run, rows, first, *only]))
    assert larger == pytest.approx(whole, abs=1e-5)
    assert set(first_only) == {"validation_loss", "validation_loss/web"}
    for name, found in zip(WEIGHTS, alone, strict=True):
        assert found == {
            "validation_loss": pytest.approx(whole[f"validation_loss/{name}"], abs=1e-6),
            f"validation_loss/{name}": found["validation_loss"],
        }


def test_a_source_without_held_out_samples_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(logger, level, lambda text, *words: said.append(text % words))
    _introduce({"web": np.arange(3), "code": np.arange(0), "books": np.arange(3, 4), "wiki": np.arange(0)})
    assert said[0] == "validation: 4 held-out rows (web 3, books 1)"
    assert said[1].startswith("validation: no held-out rows of code, wiki: ")
    assert len(said) == 2
