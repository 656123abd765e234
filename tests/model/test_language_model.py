"""The 14B model has exactly its published size under every layout, and initial weights do not depend on the layout."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from megaphi.model.architecture import PHI4_14B
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY
from tests.gloo_world import run_in_world
from tests.model.model_runs import (
    attention_outputs,
    check_places,
    fp8_settings,
    names_of_transformer_engines_weights,
    parameters_of,
    transformer_engines_loss,
    transformer_engines_settings,
    weights_by_name,
)

LAYOUTS = [
    ParallelLayout(),
    ParallelLayout(tensor=2, pipeline=4),
    ParallelLayout(tensor=2, pipeline=2, virtual_pipeline=5, sequence_parallel=True),
    ParallelLayout(pipeline=4, stage_layers=(11, 10, 10, 9)),
    ParallelLayout(pipeline=8, context=2),
    ParallelLayout(tensor=8, pipeline=2),
    ParallelLayout(tensor=5, pipeline=2),
    ParallelLayout(tensor=10),
]


def test_every_layout_of_the_14b_model_has_its_published_size() -> None:
    (counted,) = run_in_world(partial(parameters_of, PHI4_14B, LAYOUTS), processes=1)
    assert [sum(unique for _, unique in stages) for stages in counted] == [14_659_507_200] * len(LAYOUTS)
    assert [len(stages) for stages in counted] == [layout.pipeline for layout in LAYOUTS]
    tensor_cut = counted[1]
    assert sum(local for local, _ in tensor_cut) * 2 == 14_659_507_200 + (2 * 40 + 1) * 5120  # norms are held twice
    copies = 8 * (5 + 2 * 2) - (40 + 2 * 10)  # heads of 128 rows: each rank holds 5 queries and 2 of 10 groups
    held = sum(local for local, _ in counted[5]) * 8
    assert held == 14_659_507_200 + 7 * (2 * 40 + 1) * 5120 + 40 * copies * 128 * 5120
    for layout, stages in zip(LAYOUTS[-2:], counted[-2:], strict=True):
        held = sum(local for local, _ in stages) * layout.tensor
        norms = (layout.tensor - 1) * (2 * 40 + 1) * 5120
        padding = {5: 100_480, 10: 100_480}[layout.tensor] - 100_352  # 64 x tensor divides the padded vocabulary
        assert held == 14_659_507_200 + norms + 2 * padding * 5120


def test_a_tied_embedding_counts_once_and_is_held_by_the_first_and_the_last_stage() -> None:
    tied = dataclasses.replace(PHI4_14B, tied_embeddings=True)
    embedding = 100_352 * 5120
    assert tied.parameters == 14_659_507_200 - embedding
    layouts = [ParallelLayout(), ParallelLayout(pipeline=4), ParallelLayout(pipeline=2, virtual_pipeline=2)]
    (counted,) = run_in_world(partial(parameters_of, tied, layouts), processes=1)
    for layout, stages in zip(layouts, counted, strict=True):
        assert sum(unique for _, unique in stages) == tied.parameters
        copy = embedding if layout.pipeline > 1 else 0
        assert sum(local for local, _ in stages) == tied.parameters + copy
        assert stages[-1][0] == stages[-1][1] + copy


def test_modules_of_every_rank_hold_what_the_arithmetic_says() -> None:
    """Also where a rank holds padding only (100 tokens over three ranks, two over six)."""
    six = dataclasses.replace(TINY, layers=4, heads=6, key_value_groups=6, feed_forward=96)
    interleaved = ParallelLayout(data=1, tensor=3, pipeline=2, virtual_pipeline=2)
    cases = [
        (dataclasses.replace(six, vocabulary=vocabulary), layout)
        for vocabulary, layout in (
            (2, ParallelLayout(data=1, tensor=6)),
            (100, interleaved),
            (101, ParallelLayout(data=1, pipeline=4)),
            (257, ParallelLayout(data=1, tensor=2, context=2)),
            (384, ParallelLayout(data=1, tensor=3)),
        )
    ]
    tied = dataclasses.replace(six, vocabulary=101, tied_embeddings=True)
    cases += [
        (tied, layout) for layout in (ParallelLayout(data=1, tensor=2), interleaved, ParallelLayout(data=1, pipeline=4))
    ]
    cases.append((PHI4_14B, ParallelLayout(tensor=5, pipeline=4, virtual_pipeline=2, data=1)))
    top = (2,) * 16 + (3, 2, 2, 1)
    cases.append((PHI4_14B, ParallelLayout(pipeline=4, virtual_pipeline=5, stage_layers=top, data=1)))
    cases.append((six, ParallelLayout(pipeline=3, stage_layers=(1, 2, 1), data=1)))
    (ranks,) = run_in_world(partial(check_places, cases), processes=1)
    assert ranks == sum(layout.world_size for _, layout in cases)


@pytest.mark.parametrize(
    "layout",
    [
        ParallelLayout(tensor=2, pipeline=2, stage_layers=(3, 1)),
        ParallelLayout(pipeline=2, virtual_pipeline=2),
    ],
    ids=str,
)
def test_initial_weights_do_not_depend_on_the_layout(layout: ParallelLayout) -> None:
    (whole,) = run_in_world(partial(weights_by_name, ParallelLayout()), processes=1)
    parts = run_in_world(partial(weights_by_name, layout), processes=layout.model_ranks)
    seen = set()
    for part in parts:
        for name, (offset, values) in part.items():
            box = tuple(slice(start, start + size) for start, size in zip(offset, values.shape, strict=True))
            np.testing.assert_array_equal(values, whole[name][1][box])
            seen.add(name)
    assert seen == set(whole)


def test_initial_weights_have_the_documented_spread() -> None:
    (whole,) = run_in_world(partial(weights_by_name, ParallelLayout()), processes=1)
    for name, (_, values) in whole.items():
        if values.ndim == 1:
            assert (values == 1).all()
            continue
        is_residual = name.endswith(("linear_proj.weight", "linear_fc2.weight"))
        expected = 0.02 / np.sqrt(2 * 4) if is_residual else 0.02  # 4 layers
        assert values.std() == pytest.approx(expected, rel=0.05), name


def test_transformer_engine_has_the_fusions_that_megatron_has_beside_it() -> None:
    """The work of its layers is not tested: it cannot be installed without a GPU."""
    (found,) = run_in_world(transformer_engines_settings, processes=1)
    assert set(found["fused"].values()) == {False}
    on = {name for name, value in found["transformer_engine"].items() if value}
    assert on == {
        "apply_rope_fusion",
        "bias_activation_fusion",
        "bias_dropout_fusion",
    }
    assert found["layer"] == (True, False)  # gradients are added in the products of the layers alone
    backends = [found[name] for name in ("auto", "flash", "cudnn", "math")]
    assert backends == ["auto", "flash", "fused", "unfused"]


def test_transformer_engines_layers_have_our_loss() -> None:
    (found,) = run_in_world(transformer_engines_loss, processes=1)
    assert found["largest"] > 1e-3
    assert max(found["loss"], found["gradients"] / found["largest"]) < 2e-6


def test_transformer_engines_weights_have_the_names_of_ours() -> None:
    (names,) = run_in_world(names_of_transformer_engines_weights, processes=1)
    layer = "decoder.layers.3"  # counted from the bottom of the whole model, from 0
    assert names == [
        f"{layer}.input_layernorm.weight",
        f"{layer}.pre_mlp_layernorm.weight",
        f"{layer}.mlp.linear_fc1.weight",
    ]


def test_an_fp8_recipe_reaches_megatron() -> None:
    assert run_in_world(fp8_settings, processes=1) == [("hybrid", "blockwise")]


def test_attention_equals_its_definition_with_and_without_document_isolation() -> None:
    (results,) = run_in_world(attention_outputs, processes=1)
    for ours, expected in results:
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
