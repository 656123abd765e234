"""The 14B's recipes on 8, 64 and 512 GPUs of 80 GB: each starts, fits, and learns from what the recipe says."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from megaphi.engine.run_config import RunConfig, check
from megaphi.errors import InputError
from megaphi.model.language_model import count_parameters
from megaphi.planning.memory import rank_memory
from megaphi.recipes import load_recipe
from megaphi.recipes.phi4_14b_sizes import CUTS, LARGEST_BYTES, SIZES

DOCUMENTED = {
    "phi4_14b_pretrain": (68.4, 54.4, 63.0),
    "phi4_14b_midtrain": (68.0, 71.0, 68.6),
    "phi4_14b_sft": (68.0, 71.0, 35.7),
    "phi4_14b_dpo_pivotal": (68.4, 71.5, 29.2),
    "phi4_14b_dpo_judged": (68.4, 71.5, 29.2),
}
"""GB of the fullest rank, as docs/cluster.md has them."""


@cache
def parameters_of(run: RunConfig) -> list[int]:
    """Trainable numbers on a rank of every stage, counted from the real modules."""
    return [stage.local for stage in count_parameters(run.model, run.layout, sequence_length=8_192)]


def largest_rank(run: RunConfig) -> int:
    plain = replace(run.layout, data=1, context=1, sequence_parallel=False)
    counted = replace(load_recipe("phi4_14b_sft"), layout=plain)
    return max(stage.total for stage in rank_memory(run, parameters_of(counted)))


@pytest.mark.slow
def test_every_size_starts_and_fits():
    assert list(CUTS) == list(DOCUMENTED)
    for name, figures in DOCUMENTED.items():
        for gpus, figure in zip(SIZES, figures, strict=True):
            run = check(load_recipe(f"{name}@{gpus}"), world_size=gpus)
            found = largest_rank(run)
            assert found < LARGEST_BYTES
            assert found / 1e9 == pytest.approx(figure, abs=0.06), (name, gpus)


@pytest.mark.parametrize("name", CUTS)
def test_a_size_changes_nothing_that_the_model_learns_from(name):
    recipe = load_recipe(name)
    for gpus in SIZES:
        run = load_recipe(f"{name}@{gpus}")
        batch = replace(run.batch, micro_batch=recipe.batch.micro_batch)
        assert replace(run, layout=recipe.layout, batch=batch) == recipe


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "phi4_14b_sft@100",
            "unknown recipe phi4_14b_sft@100: there are phi4_14b_sft@8, phi4_14b_sft@64, phi4_14b_sft@512",
        ),
        ("phi4_14b_sft@", "unknown recipe phi4_14b_sft@: there are"),
        ("phi4_14b_sft@08", "unknown recipe phi4_14b_sft@08"),
        ("phi4_14b_sft@" + "8" * 5_000, "unknown recipe phi4_14b_sft@888"),
        ("quickstart_sft@8", "quickstart_sft@8: only phi4_14b_pretrain,"),
        ("phi4_14b_sfd@8", "unknown recipe 'phi4_14b_sfd'. Did you mean 'phi4_14b_sft'?"),
    ],
)
def test_a_size_that_is_not_there_is_refused(name, message):
    with pytest.raises(InputError) as refused:
        load_recipe(name)
    assert message in str(refused.value)
