"""Megatron-LM's torch_dist checkpoints, written by Megatron-Core itself, come in bit for bit.

A model of Megatron's local layers is saved by one process; Megatron loads it under tensor 2 x pipeline 2 and saves it
again, with norms under their own names and under Transformer Engine's. All must be the weights that the module held,
and our engine must compute the module's logits. Then the folder is corrupted in every way.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megaphi.conversion.formats.megatron.weights import MegatronWeights
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.errors import InputError
from megaphi.model.weights import EMBEDDING, OUTPUT, weights_of
from megaphi.parallel.layout import ParallelLayout
from tests.conversion.formats.megatron.megatron_runs import ARGUMENTS, ROWS, save_again, save_alone
from tests.conversion.parity_runs import logits
from tests.gloo_world import run_in_world

FOUR = ParallelLayout(tensor=2, pipeline=2)
FORMS = ("alone", "four", "four, own norms", "tied")
in_a_file_of_its_own = pytest.mark.skipif(
    version("megatron-core") >= "0.19", reason="Megatron-Core 0.19 keeps a run's arguments among the tensors"
)


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, ROWS, (2, 24))


@pytest.fixture(scope="module")
def saved(tokens: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """(folder of all forms, what the modules were): the first and the last, which is tied."""
    folder = tmp_path_factory.mktemp("megatron")
    (alone,) = run_in_world(save_alone, str(folder / "alone"), tokens, processes=1)
    run_in_world(save_again, str(folder / "alone"), str(folder / "four"), FOUR, processes=4)
    run_in_world(_with_own_norms, str(folder / "alone"), str(folder / "four, own norms"), processes=4)
    (tied,) = run_in_world(_tied, str(folder / "tied"), tokens, processes=1)
    return folder, {"alone": alone, "tied": tied}


def _with_own_norms(source: str, folder: str) -> None:
    save_again(source, folder, FOUR, own_norms=True)


def _tied(folder: str, tokens: np.ndarray) -> dict[str, Any]:
    return save_alone(folder, tokens, tied=True)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_those_of_the_module(saved: tuple[Path, dict[str, dict[str, Any]]], form: str) -> None:
    folder, modules = saved
    expected = modules["tied" if form == "tied" else "alone"]["weights"]
    reader = MegatronWeights(folder / form)
    assert reader.state["megatron_iteration"] == 7
    assert reader.config["batch"]["sequence_length"] == 64
    for weight in weights_of(reader.architecture):
        name = EMBEDDING if form == "tied" and weight.name == OUTPUT else weight.name
        found = reader.rows(weight.name, 0, weight.rows).numpy()
        assert np.array_equal(found, expected[name].reshape(found.shape)), weight.name
        middle = reader.rows(weight.name, weight.rows // 3, weight.rows // 3 + 5).numpy()
        assert np.array_equal(middle, found[weight.rows // 3 : weight.rows // 3 + 5]), weight.name


@pytest.mark.parametrize("form", ["four", "tied"])
def test_logits_are_those_of_the_module(
    saved: tuple[Path, dict[str, dict[str, Any]]], tokens: np.ndarray, form: str, tmp_path: Path
) -> None:
    """The form of four ranks goes through a checkpoint of two, the tied one straight from Megatron's folder."""
    folder, modules = saved
    expected = modules["tied" if form == "tied" else "alone"]["logits"]
    source, layout = folder / form, ParallelLayout()
    if form == "four":
        layout = ParallelLayout(tensor=2)
        source = to_checkpoint(source, tmp_path / "checkpoint", layout=layout)
    for found in run_in_world(logits, str(source), layout, tokens, processes=layout.tensor):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_the_way_to_hugging_face(saved: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path) -> None:
    folder, _ = saved
    out = to_huggingface(folder / "four", tmp_path / "out", tokenizer=False)
    there, back = open_weights(folder / "four"), open_weights(out)
    for weight in weights_of(there.architecture):
        assert torch.equal(there.rows(weight.name, 0, weight.rows), back.rows(weight.name, 0, weight.rows))


def test_a_padded_vocabulary_is_cut(saved: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, modules = saved
    reader = open_weights(folder / "alone", ["vocabulary=101"])
    assert reader.architecture.vocabulary == 101
    assert np.array_equal(reader.rows(OUTPUT, 0, 101).numpy(), modules["alone"]["weights"][OUTPUT][:101])
    with pytest.raises(InputError, match="vocabulary=129: the embedding has 128 rows"):
        open_weights(folder / "alone", ["vocabulary=129"])


def test_the_folder_above_names_the_iteration(saved: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path) -> None:
    shutil.copytree(saved[0] / "alone", tmp_path / "iter_0000007")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7\n")
    assert open_weights(tmp_path).folder == tmp_path / "iter_0000007"
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("8\n")
    with pytest.raises(InputError, match="names the iteration '8', which is not there"):
        open_weights(tmp_path)


@in_a_file_of_its_own
def test_what_nothing_says_must_be_given(saved: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path) -> None:
    shutil.copytree(saved[0] / "alone", tmp_path / "bare")
    (tmp_path / "bare/common.pt").unlink()
    with pytest.raises(InputError, match=r"add heads=\.\.\. rotary_base=\.\.\. norm_eps=\.\.\."):
        open_weights(tmp_path / "bare")
    told = open_weights(tmp_path / "bare", ["heads=6", "rotary_base=250000", "norm_eps=1e-5"])
    assert told.architecture == open_weights(saved[0] / "alone").architecture
    with pytest.raises(InputError, match=r"heds=6: .*Did you mean 'heads'"):
        open_weights(tmp_path / "bare", ["heds=6"])
    with pytest.raises(InputError, match="heads=six: 'six' is not a number"):
        open_weights(tmp_path / "bare", ["heads=six"])


def shorter(name: str, by: int = 1) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-by])


def changed(name: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        assert len(old) == len(new)
        (folder / name).write_bytes(content.replace(old, new))

    return change


def with_arguments(**arguments: Any) -> Callable[[Path], object]:
    common = {"args": argparse.Namespace(**{**ARGUMENTS, **arguments}), "iteration": 7}
    return lambda folder: torch.save(common, folder / "common.pt")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is missing": (lambda folder: max(folder.glob("*.distcp")).unlink(), r"__0_\d\.distcp cannot be read"),
    "a file is truncated": (shorter("__0_0.distcp", 5_000), r"__0_0\.distcp is truncated"),
    "the metadata is missing": (lambda folder: (folder / ".metadata").unlink(), "neither a checkpoint nor"),
    "the metadata is truncated": (shorter(".metadata", 100), r"\.metadata is corrupted or truncated"),
    "the metadata is empty": (lambda folder: (folder / ".metadata").write_bytes(b""), "corrupted or truncated"),
    "the metadata is another pickle": (
        lambda folder: (folder / ".metadata").write_bytes(b"\x80\x04]."),
        "not the metadata of a distributed checkpoint",
    ),
    "common.pt is truncated": (shorter("common.pt", 200), r"common\.pt is corrupted or truncated"),
    "another backend": (changed("metadata.json", b"torch_dist", b"zarr_zarr_"), "only 'torch_dist' can be read"),
    "common.pt is corrupted": (changed("common.pt", b"RMSNorm", b"RMZNorm"), r"common\.pt is corrupted or truncated"),
    "layer norms": (with_arguments(normalization="LayerNorm"), "normalization='LayerNorm' in its arguments"),
    "experts": (with_arguments(num_experts=8), "num_experts=8 in its arguments"),
    "learned positions": (
        with_arguments(position_embedding_type="learned_absolute"),
        "position_embedding_type='learned_absolute' in its arguments",
    ),
    "a window": (with_arguments(window_size=(128, 0)), r"window_size=\[128, 0\] in its arguments"),
    "a tie that is none": (
        with_arguments(untie_embeddings_and_output_weights=False),
        "untie_embeddings_and_output_weights=False in its arguments, and an output layer is stored",
    ),
    "another framework's settings": (
        lambda folder: (folder / "run_config.yaml").write_text("model: {activation_func: {_target_: torch.relu}}"),
        r"activation_func=\{'_target_': 'torch.relu'\} in its arguments",
    ),
    "other heads": (with_arguments(num_attention_heads=5), r"model\.head_size=9"),
    "biases": (changed(".metadata", b"final_layernorm.weight", b"final_layernorm_weight"), "final_layernorm.weight"),
}  # fmt: skip


@pytest.mark.parametrize(
    "damage", [pytest.param(name, marks=in_a_file_of_its_own if "common.pt" in name else ()) for name in DAMAGES]
)
def test_damage_is_one_message(saved: tuple[Path, dict[str, dict[str, Any]]], damage: str, tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    shutil.copytree(saved[0] / "alone", tmp_path / "damaged")
    change(tmp_path / "damaged")
    with pytest.raises(InputError, match=message):
        open_weights(tmp_path / "damaged")


def test_damaged_archives_are_found_when_they_are_read(
    saved: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    shutil.copytree(saved[0] / "alone", tmp_path / "damaged")
    for path in (tmp_path / "damaged").glob("*.distcp"):
        path.write_bytes(path.read_bytes().replace(b"FloatStorage", b"HalfyStorage"))
    with pytest.raises(InputError, match=r"distcp, the chunk of .* is corrupted"):
        open_weights(tmp_path / "damaged").rows(EMBEDDING, 0, 3)
