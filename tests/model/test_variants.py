"""Variants of the model, each one file as a fork would write it: norms of heads, partial rotary positions, GEGLU.

Independent are transformers' Qwen 3, Phi-4-mini's rotary positions and Gemma's activation: they train in plain PyTorch
from exported weights, and generate.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.errors import InputError
from megaphi.model.variants import variant_of
from megaphi.model.weights import weights_of
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY as USUAL
from tests.engine.layout_runs import contents, tiny_run
from tests.engine.test_plain_torch import plain_torch
from tests.gloo_world import run_in_new_world, run_in_world
from tests.model.variant_runs import greedy, installed_variants, refusal_of, train_variant

STEPS = 4
TINY = replace(USUAL, initial_std=0.1)
"""Weights so large that the variants differ from Phi-4 by far more than rounding."""
VARIANTS = ("qk_norm", "partial_rotary", "geglu")
LAYOUTS = [
    ParallelLayout(),
    ParallelLayout(tensor=2, sequence_parallel=True),
    ParallelLayout(tensor=2, pipeline=2),
    ParallelLayout(context=2),
]


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    with installed_variants():
        yield


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(variant: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(variant)


@pytest.fixture(scope="module")
def curve(variant: str, folder: Path) -> np.ndarray:
    """(loss, gradient norm) of each step in plain PyTorch; leaves the exported initial model in `hf`."""
    run = tiny_run(folder=str(folder / "run"), model=replace(TINY, variant=variant))
    return plain_torch(run, folder / "hf", steps=STEPS, train=train_variant)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_a_variant_trains_as_in_plain_pytorch(
    variant: str, curve: np.ndarray, layout: ParallelLayout, kernels: Any
) -> None:
    model = replace(TINY, variant=variant, kernels=kernels)
    run = partial(train_variant, tiny_run(layout=layout, model=model), steps=STEPS)
    ours = run_in_world(run, processes=layout.model_ranks * layout.context)[0]
    np.testing.assert_allclose(np.stack((ours["losses"], ours["norms"]), axis=1), curve, rtol=1e-5, atol=1e-5)


def test_another_model_than_phi4_is_trained(variant: str, curve: np.ndarray) -> None:
    """The comparison above would say nothing of a variant that changes nothing."""
    plain = run_in_world(partial(train_variant, tiny_run(model=TINY), steps=STEPS), processes=1)[0]
    assert np.abs(curve[:, 0] - plain["losses"]).max() > 1e-3


def test_a_variant_is_saved_and_resumed_in_another_layout(variant: str, tmp_path: Path) -> None:
    model = replace(TINY, variant=variant)
    wide = tiny_run(folder=str(tmp_path / "wide"), model=model, layout=ParallelLayout(tensor=2, pipeline=2))
    alone = tiny_run(folder=str(tmp_path / "alone"), model=model)
    straight = run_in_world(partial(train_variant, alone, steps=4), processes=1)[0]
    first = run_in_world(partial(train_variant, wide, steps=2, save=True), processes=4)[0]
    rest = run_in_world(partial(train_variant, alone, steps=2, load=wide.folder, save=True), processes=1)[0]
    np.testing.assert_allclose(first["losses"] + rest["losses"], straight["losses"], rtol=2e-6)
    assert any("q_layernorm" in name for name in contents(rest["checkpoint"])) is (variant == "qk_norm")


def test_every_weight_is_counted(variant: str, folder: Path, curve: np.ndarray) -> None:
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder / "hf")
    assert replace(TINY, variant=variant).parameters == theirs.num_parameters()


def test_the_export_is_read_as_the_variant_that_it_is(variant: str, folder: Path, curve: np.ndarray) -> None:
    back, ours = open_weights(folder / "hf"), open_weights(folder / "run")
    assert back.architecture.variant == variant
    for weight in weights_of(ours.architecture):
        rows = [reader.rows(weight.name, 0, weight.rows) for reader in (back, ours)]
        assert torch.equal(*rows), weight.name


def test_an_imported_variant_generates_as_transformers(variant: str, folder: Path, curve: np.ndarray) -> None:
    prompts = [[5, 9, 200, 31, 8], [77] * 20]
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    with torch.no_grad():  # larger weights, so that the most likely token is one
        for parameter in theirs.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.5)
    theirs.save_pretrained(folder / "larger")
    (ours,) = run_in_world(greedy, str(folder / "larger"), prompts, 12, processes=1)
    for prompt, found in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        rules: Any = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        whole = theirs.generate(ids, attention_mask=torch.ones_like(ids), **rules)
        assert found == whole[0, len(prompt) :].tolist()


def test_a_checkpoint_of_a_variant_that_is_not_here_is_refused(folder: Path, curve: np.ndarray) -> None:
    config = next((folder / "run").glob("checkpoints/step_*/config.json"))
    assert json.loads(config.read_text())["model"]["variant"] in VARIANTS
    with pytest.raises(InputError, match=r"model\.variant=qk_norms: .* Did you mean 'qk_norm'"):
        variant_of("qk_norms")
    for name in ("../variants/phi4", "os", "phi4.py", ""):
        with pytest.raises(InputError, match="there is no variant of this name"):
            variant_of(name)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "no row",
            "hold the weight decoder.layers.*.self_attention.q_layernorm.weight, of which the variant has no row",
        ),
        ("no module", "no module holds decoder.layers.*.mlp.scale.weight, of which the variant has a row"),
        ("another shape", "numbers of decoder.layers.*.input_layernorm.weight, whose row has the shape (5,)"),
        ("no form", ""),
    ],
)
def test_rows_and_modules_must_agree(row: str, message: str, tmp_path: Path) -> None:
    source = {
        "no row": "    def megatron_fields(self, model):\n"
        "        return super().megatron_fields(model) | {'qk_layernorm': True}\n",
        "no module": "    def layer_weights(self, model):\n"
        "        return [*super().layer_weights(model), Weight(name='mlp.scale.weight', shape=(3,))]\n",
        "another shape": "    def layer_weights(self, model):\n"
        "        norm, *rest = super().layer_weights(model)\n"
        "        return [replace(norm, shape=(5,)), *rest]\n",
        "no form": "    rotary_fraction = 0.5\n",
    }[row]
    name = f"wrong_{row.replace(' ', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "from dataclasses import replace\n\nfrom megaphi.model.variants.phi4 import Phi4\n"
        f"from megaphi.model.rows.weight_row import Weight\n\n\nclass Variant(Phi4):\n{source}"
    )
    run = tiny_run(folder=str(tmp_path / "run"), model=replace(TINY, variant=name))
    if message:
        (said,) = run_in_new_world(refusal_of, run, tmp_path, processes=1)
        assert message in said
        return
    run_in_new_world(partial(train_variant, run, files=tmp_path, steps=0, save=True), processes=1)
    with (
        installed_variants(tmp_path),
        pytest.raises(InputError, match=r"names no form of Hugging Face's \(`huggingface`\)"),
    ):
        to_huggingface(run.folder, tmp_path / "hf", tokenizer=False)


def test_transformer_engines_layers_refuse_what_they_would_pass_over() -> None:
    from megaphi.model.honoured import BY_VARIANT

    assert not {"qk_layernorm", "activation_func"} & set(BY_VARIANT["transformer_engine"])
