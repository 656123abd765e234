"""Initial weights are drawn where a run begins with them, in any number of threads, and not where they are loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import NumericPrecision
from megaphi.engine.run_tokenizer import RunTokenizer
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.pretrain import Pretrain
from tests.conversion.random_models import random_folder
from tests.engine.layout_runs import TINY, tiny_run
from tests.engine.start.drawing_runs import digests_of_ways_to_draw, weights_drawn
from tests.gloo_world import run_in_world
from tests.stages.test_mixture_changes import VOCABULARY, write_tokens


def test_only_a_run_that_begins_from_nothing_draws_weights(tmp_path: Path) -> None:
    """Two matrices of the vocabulary and four of each layer; none to continue, or to start from a model's folder."""
    model = replace(TINY, vocabulary=VOCABULARY)
    write_tokens(tmp_path / "data", 20_000)
    mixture = Mixture(sources=(Source(name="text", weight=1.0, paths=(str(tmp_path / "data"),)),))
    run = tiny_run(
        folder=str(tmp_path / "run"),
        task=Pretrain(mixture=mixture),
        model=model,
        saving=Saving(every=2),
        tokenizer=RunTokenizer(path="phi4"),
    )
    run = replace(run, training=replace(run.training, steps=8, stop_after=4))
    first = replace(run, training=replace(run.training, stop_after=2))
    whole = replace(run, folder=str(tmp_path / "whole"))
    random_folder(tmp_path / "hf", model, scale=0.1)
    start = replace(run.start, initial_checkpoint=str(tmp_path / "hf"))
    warm = replace(run, folder=str(tmp_path / "warm"), start=start)
    drawn, losses = zip(
        *(run_in_world(weights_drawn, one, processes=1)[0] for one in (first, run, warm, whole)), strict=True
    )
    assert drawn == (2 + 4 * 4, 0, 0, 2 + 4 * 4)
    assert losses[1] == losses[3]


@pytest.mark.parametrize("parameters", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [ParallelLayout(tensor=2), ParallelLayout(data=2)], ids=str)
def test_ways_to_draw_give_the_same_bits(layout: ParallelLayout, parameters: str) -> None:
    """While the model is built or afterwards, main weights too; one thread or three."""
    precision = NumericPrecision(parameters=parameters)  # pyright: ignore[reportArgumentType]
    for at_once, later in run_in_world(digests_of_ways_to_draw, layout, precision, processes=2):
        assert at_once == later
