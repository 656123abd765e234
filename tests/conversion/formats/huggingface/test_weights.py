"""Files of a Hugging Face folder besides the weights travel with them, and what we write loads without a warning."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megaphi.checkpoint.format import CheckpointReader
from megaphi.checkpoint.manifest import Manifest, read_manifest, write_manifest
from megaphi.conversion.formats.huggingface.config import config_for, token_fields
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.model.architecture import PHI4_14B, Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.conversion.parity_runs import logits
from tests.conversion.random_models import SHAPES, random_folder, same_bytes
from tests.gloo_world import run_in_world

MODEL = SHAPES["3 heads per group"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with a tokenizer of its own, code, and other things that lie around in such folders."""
    random_folder(tmp_path / "hf", MODEL, dtype=torch.bfloat16, rope_scaling=None, unsloth_version="kept")
    export_tokenizer(load_tokenizer(MODEL.vocabulary), tmp_path / "hf", model_max_length=77)
    (tmp_path / "hf" / "generation_config.json").write_text('{"eos_token_id": [2, 7],\t"temperature": 0.5}')
    (tmp_path / "hf" / "added_tokens.json").write_text("{ }")
    return tmp_path / "hf"


def test_everything_comes_back_as_it_was(folder: Path, tmp_path: Path) -> None:
    before = files_of(folder)
    (folder / "modeling_phi3.py").write_text("raise SystemExit")
    (folder / "optimizer.pt").write_bytes(b"\x80")
    first = to_checkpoint(folder, tmp_path / "first", layout=ParallelLayout(tensor=2))
    second = to_checkpoint(first, tmp_path / "second", layout=ParallelLayout(pipeline=2))
    assert {path.name for path in (second / "huggingface").iterdir()} == before.keys()
    assert {f"huggingface/{name}" for name in before} < read_manifest(second).files.keys()
    back = to_huggingface(second, tmp_path / "back")
    assert files_of(back) == before
    original, found = (load_file(path / "model.safetensors") for path in (folder, back))
    assert all(same_bytes(found[name], tensor) for name, tensor in original.items())
    bare = to_huggingface(second, tmp_path / "bare", tokenizer=False)
    assert files_of(bare).keys() == {"config.json", "generation_config.json"}


def test_changes_show_in_the_configuration_and_nowhere_else(folder: Path, tmp_path: Path) -> None:
    checkpoint = to_checkpoint(folder, tmp_path / "checkpoint", dtype="float32")
    original = json.loads((folder / "config.json").read_text())
    written = json.loads((to_huggingface(checkpoint, tmp_path / "a") / "config.json").read_text())
    assert written == original | {"torch_dtype": "float32"}
    longer = dataclasses.replace(MODEL, rotary_base=250_000.0)
    changed = config_for(longer, dtype="bfloat16", context=128, tokens={}, original=original)
    assert changed["rope_theta"] == 250_000.0
    assert changed["max_position_embeddings"] == 128
    assert changed["unsloth_version"] == "kept"
    with_code = original | {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}}
    assert config_for(MODEL, dtype="bfloat16", context=64, tokens={}, original=with_code) == original


def test_a_damaged_copy_is_refused(folder: Path, tmp_path: Path) -> None:
    checkpoint = to_checkpoint(folder, tmp_path / "checkpoint")
    path = checkpoint / "huggingface" / "tokenizer.json"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b" ")
    with pytest.raises(InputError, match=r"huggingface/tokenizer.json is corrupted"):
        to_huggingface(checkpoint, tmp_path / "out")
    path.write_bytes(content)
    (checkpoint / "huggingface" / "merges.txt").write_text("not of this checkpoint")
    assert "merges.txt" not in files_of(to_huggingface(checkpoint, tmp_path / "out"))


def test_a_huge_file_of_a_small_name_is_refused(folder: Path, tmp_path: Path) -> None:
    with open(folder / "tokenizer.json", "r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match=r"tokenizer.json has 1,073,741,824 bytes, expected at most"):
        to_checkpoint(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_14b_has_the_released_ids() -> None:
    config = config_for(PHI4_14B, dtype="bfloat16", context=16_384, tokens=token_fields(load_tokenizer()))
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (100_257, 100_265, 100_349)


@contextmanager
def no_warning(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails if transformers logs a warning or Python warns; sees one that is provoked."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        logging.getLogger("transformers.models").warning("provoked")
        warnings.warn("provoked", FutureWarning, stacklevel=1)
    logged = {record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING}
    assert logged == {"provoked"}
    assert [str(warning.message) for warning in caught] == ["provoked"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_loads_it_without_a_warning(
    shape: str, dtype: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder written entirely by us, for the full vocabulary of the released model."""
    model = dataclasses.replace(SHAPES[shape], vocabulary=100_352, layers=1)
    source = tmp_path / "hf"
    random_folder(source, model, dtype=torch.float32)
    checkpoint = to_checkpoint(source, tmp_path / "checkpoint", dtype=dtype)
    without_copies(checkpoint)
    reader = CheckpointReader(checkpoint)
    del reader.state["imported_from"]  # as if trained here, with Phi-4's tokenizer
    out = to_huggingface(reader, tmp_path / "out")
    with no_warning(caplog, monkeypatch):
        tokenizer, loaded = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
        prompt = tokenizer("Hello", return_tensors="pt")
        added = loaded.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert added.shape[1] > prompt["input_ids"].shape[1]
    assert type(loaded) is transformers.Phi3ForCausalLM
    assert loaded.dtype == getattr(torch, dtype)
    ids = (100_257, 100_265, 100_349)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == ids
    assert (loaded.config.bos_token_id, loaded.config.eos_token_id, loaded.config.pad_token_id) == ids
    assert loaded.config.rope_parameters["rope_theta"] == model.rotary_base
    assert loaded.generation_config.eos_token_id == [100_257, 100_265]
    assert (loaded.generation_config.bos_token_id, loaded.generation_config.pad_token_id) == (100_257, 100_349)


def without_copies(checkpoint: Path) -> None:
    """As if the weights had been trained here."""
    for path in (checkpoint / "huggingface").iterdir():
        path.unlink()
    manifest = read_manifest(checkpoint)
    files = {name: record for name, record in manifest.files.items() if not name.startswith("huggingface/")}
    write_manifest(checkpoint, Manifest(save_id=manifest.save_id, step=manifest.step, files=files))


def transformers_folder(folder: Path, config: Any) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    return folder


def phi3(**changes: Any) -> Any:
    shape: dict[str, Any] = {
        "vocab_size": 352, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return transformers.Phi3Config(**(shape | changes))


def llama(**changes: Any) -> Any:
    shape: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 3, "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return transformers.LlamaConfig(**(shape | changes))


TWINS = {
    "Phi-3 mini": phi3(num_attention_heads=32, num_key_value_heads=32, hidden_size=128, intermediate_size=256),
    "Phi-3 medium": phi3(num_attention_heads=40, num_key_value_heads=10, hidden_size=160, intermediate_size=560),
    "Llama": llama(),
    "Llama, tied": llama(tie_word_embeddings=True),
    "Phi-3, tied": phi3(tie_word_embeddings=True),
    "Llama, wide heads": llama(head_dim=12, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}),
}


@pytest.mark.parametrize("twin", TWINS)
def test_an_imported_model_is_the_same_function(twin: str, tmp_path: Path) -> None:
    """transformers' model, ours read directly from its folder, and transformers' Phi-3 from our export."""
    source = transformers_folder(tmp_path / "source", TWINS[twin])
    tokens_BS = np.random.default_rng(1).integers(TWINS[twin].vocab_size, size=(2, 20))
    (ours,) = run_in_world(logits, str(source), ParallelLayout(), tokens_BS, processes=1)
    checkpoint = to_checkpoint(source, tmp_path / "checkpoint", layout=ParallelLayout(pipeline=2))
    back = to_huggingface(checkpoint, tmp_path / "back", tokenizer=False)
    expected, again = (logits_of_transformers(path, tokens_BS) for path in (source, back))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-5)
    assert np.abs(expected).max() > 0.05
    config = json.loads((back / "config.json").read_text())
    assert config["model_type"] == "phi3"
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert config["tie_word_embeddings"] is TWINS[twin].tie_word_embeddings
    assert ("lm_head.weight" in load_file(back / "model.safetensors")) is not config["tie_word_embeddings"]


def logits_of_transformers(folder: Path, tokens_BS: np.ndarray) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens_BS)).logits.numpy()


def test_a_sliding_window_becomes_the_context(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the window's length both compute the same; one token later they do not."""
    monkeypatch.setattr(logger, "propagate", True)
    source = transformers_folder(tmp_path / "source", phi3(sliding_window=16, max_position_embeddings=64))
    reader = open_weights(source)
    assert reader.config["batch"] == {"sequence_length": 16}
    assert "sliding_window=16 is shorter than the context of 64: the context becomes 16 tokens" in caplog.text
    tokens_BS = np.random.default_rng(1).integers(352, size=(2, 20))
    (ours,) = run_in_world(logits, str(source), ParallelLayout(), tokens_BS, processes=1)
    difference = np.abs(ours - logits_of_transformers(source, tokens_BS)).max(axis=(0, 2))
    assert difference[:16].max() < 1e-5
    assert difference[16:].min() > 1e-4
    back = to_huggingface(to_checkpoint(reader, tmp_path / "checkpoint"), tmp_path / "back", tokenizer=False)
    assert (back / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_a_carried_tokenizer_needs_no_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    to_huggingface(to_checkpoint(folder, tmp_path / "checkpoint"), tmp_path / "out")
    assert caplog.text == ""


def test_without_a_tokenizer_there_are_no_ids() -> None:
    tiny = Architecture(layers=1, hidden=8, feed_forward=8, heads=2, key_value_groups=1, head_size=4, vocabulary=90)
    config = config_for(tiny, dtype="float32", context=8, tokens=token_fields(None))
    assert config["bos_token_id"] is config["eos_token_id"] is config["pad_token_id"] is None


def test_a_reader_is_a_source_too(folder: Path, tmp_path: Path) -> None:
    reader = CheckpointReader(to_checkpoint(open_weights(folder), tmp_path / "checkpoint"))
    assert reader.state["imported_from"] == "hf"
    assert files_of(to_huggingface(reader, tmp_path / "back")) == files_of(folder)
