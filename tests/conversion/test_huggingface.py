"""Our model and `Phi3ForCausalLM` are the same function, and weights travel both ways without losing a bit.

The shapes are odd on purpose: heads that are not four times the groups, widths that are no power of two, head sizes
that do not divide the width. Checkpoints come from training steps under several layouts.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

from megaphi.checkpoint.format import CheckpointReader
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.conversion.parity_runs import greedy, logits
from tests.engine.layout_runs import tiny_run, train
from tests.gloo_world import run_in_world

SHAPES = {
    "3 heads per group": Architecture(
        layers=4, hidden=60, feed_forward=52, heads=6, key_value_groups=2, head_size=14, vocabulary=352
    ),
    "one head per group": Architecture(
        layers=2, hidden=40, feed_forward=108, heads=4, key_value_groups=4, head_size=10, vocabulary=400
    ),
    "40/10 heads as in the 14B": Architecture(
        layers=2, hidden=80, feed_forward=280, heads=40, key_value_groups=10, head_size=2, vocabulary=362,
        rotary_base=250_000.0,
    ),
}  # fmt: skip
LAYOUTS = {
    "one process": ParallelLayout(),
    "tensor 2": ParallelLayout(tensor=2),
    "pipeline 2": ParallelLayout(pipeline=2),
}


def trained_checkpoint(folder: Path, shape: Architecture, layout: ParallelLayout) -> Path:
    """Two steps of training, so that norms are not ones and no two weights alike."""
    run = tiny_run(folder=str(folder), layout=layout, model=shape)
    run_in_world(partial(train, run, steps=2, save=True), processes=layout.model_ranks)
    return folder


def transformers_logits(folder: Path, tokens_BS: np.ndarray) -> np.ndarray:
    model = Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens_BS)).logits.numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_exported_logits_equal_ours(shape: str, layout: str, tmp_path: Path) -> None:
    model = SHAPES[shape]
    checkpoint = trained_checkpoint(tmp_path / "run", model, LAYOUTS[layout])
    exported = to_huggingface(checkpoint, tmp_path / "hf")
    tokens_BS = np.random.default_rng(0).integers(model.vocabulary, size=(2, 33))
    expected = transformers_logits(exported, tokens_BS)
    for ours in run_in_world(
        partial(logits, str(checkpoint), LAYOUTS[layout], tokens_BS), processes=LAYOUTS[layout].model_ranks
    ):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    assert np.abs(expected).max() > 0.05  # not a comparison of zeros


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_importing_gives_back_the_same_bytes(dtype: torch.dtype, tmp_path: Path) -> None:
    original = transformers_folder(tmp_path / "original", dtype=dtype)
    to_checkpoint(original, tmp_path / "checkpoint")
    back = to_huggingface(tmp_path / "checkpoint", tmp_path / "back", tokenizer=False)
    before, after = load_file(original / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert weight.dtype == after[name].dtype == dtype
        assert torch.equal(weight.view(torch.uint8), after[name].view(torch.uint8)), name


def transformers_folder(folder: Path, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A random model as transformers writes it."""
    shape: dict[str, Any] = {
        "vocab_size": 352, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    Phi3ForCausalLM(Phi3Config(**(shape | changes))).to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("vocabulary", [300, 352])
def test_an_imported_model_without_a_tokenizer_is_exported_without_one(
    vocabulary: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("INFO", "megaphi")
    to_checkpoint(transformers_folder(tmp_path / "original", vocab_size=vocabulary), tmp_path / "checkpoint")
    out = to_huggingface(tmp_path / "checkpoint", tmp_path / "out")
    assert "came without a tokenizer: it is exported without one" in caplog.text
    assert {path.name for path in out.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}


def test_sharded_files_hold_the_same_weights(tmp_path: Path) -> None:
    to_checkpoint(transformers_folder(tmp_path / "original"), tmp_path / "checkpoint")
    sharded = to_huggingface(tmp_path / "checkpoint", tmp_path / "sharded", tokenizer=False, shard_bytes=50_000)
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    to_checkpoint(sharded, tmp_path / "again")
    first, second = CheckpointReader(tmp_path / "checkpoint"), CheckpointReader(tmp_path / "again")
    for key in first.tensors:
        assert torch.equal(first.whole(key), second.whole(key)), key


def test_greedy_text_equals_transformers(tmp_path: Path) -> None:
    checkpoint = trained_checkpoint(tmp_path / "run", SHAPES["3 heads per group"], ParallelLayout())
    exported = to_huggingface(checkpoint, tmp_path / "hf")
    prompts = [[1, 2, 3], [5] * 9, [7, 300, 20, 11]]
    layout = ParallelLayout(tensor=2, pipeline=2)
    ranks = run_in_world(partial(greedy, str(checkpoint), layout, prompts, 8), processes=4)
    model = Phi3ForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    expected = [
        model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None)[0, len(prompt) :]
        for prompt in prompts
    ]
    assert all(rank == [text.tolist() for text in expected] for rank in ranks)


def test_the_exported_tokenizer_is_ours(tmp_path: Path) -> None:
    checkpoint = trained_checkpoint(tmp_path / "run", SHAPES["3 heads per group"], ParallelLayout())
    theirs = AutoTokenizer.from_pretrained(to_huggingface(checkpoint, tmp_path / "hf"))
    ours = load_tokenizer(352)
    for text in ("Hello, world! 12345", "  def f(x):\n\treturn x\n\n\n", "Grüße, 世界 🙂"):
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    assert theirs.eos_token == "<|im_end|>"
    assert theirs.pad_token_id not in ours.stop_tokens


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    folder = transformers_folder(tmp_path / "original")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("kept")
    with pytest.raises(InputError, match="exists already"):
        to_checkpoint(folder, tmp_path / "out")
    assert (tmp_path / "out" / "precious").read_text() == "kept"
    shutil.rmtree(tmp_path / "out")
    to_checkpoint(folder, tmp_path / "out")
