"""tools/convert_checkpoint.py: Megatron's option names write what `megaphi convert` writes, or are refused."""

from __future__ import annotations

import importlib.util
import re

import pytest
from safetensors.torch import load_file

from megaphi.checkpoint.format import CheckpointReader
from tests.conversion.random_models import SHAPES, random_folder, same_bytes, whole_weights
from tests.test_house import ROOT

MODEL = SHAPES["3 heads per group"]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("convert_checkpoint", ROOT / "tools" / "convert_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_and_back(tmp_path, tool):
    tensors = random_folder(tmp_path / "hf", MODEL)
    words = ["--model-type", "GPT", "--loader", "huggingface", "--load-dir", str(tmp_path / "hf")]
    words += ["--target-tensor-parallel-size", "2", "--target-pipeline-parallel-size", "2", "--max-queue-size", "9"]
    assert tool.main([*words, "--saver", "megaphi", "--save-dir", str(tmp_path / "checkpoint")]) == 0
    reader = CheckpointReader(tmp_path / "checkpoint")
    assert len([name for name in reader.manifest.files if name.startswith("rank_")]) == 4
    for name, weight in whole_weights(tensors, MODEL).items():
        assert same_bytes(reader.whole(f"model/{name}"), weight)
    words = ["--loader", "megaphi", "--load-dir", str(tmp_path / "checkpoint"), "--saver", "huggingface", "--bf16"]
    assert tool.main([*words, "--save-dir", str(tmp_path / "back")]) == 0
    for name, tensor in load_file(tmp_path / "back" / "model.safetensors").items():
        assert same_bytes(tensor, tensors[name].bfloat16())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loader", "llama", "--model-type", "BERT"], "--model-type BERT: only GPT"),
        (["--loader", "llama", "--true-vocab-size", "32000"], "--true-vocab-size is not supported: padding rows"),
        (["--loader", "core"], "--loader core: .*hf is a Hugging Face folder"),
        (["--loader", "megaphi"], "--loader megaphi: .*hf is a Hugging Face folder"),
        (["--loader", "llama", "--target-tensor-parallel-size", "4"], "layout.tensor=4 does not divide"),
        (["--loader", "llama", "--saver", "huggingface", "--target-tensor-parallel-size", "2"], "is not cut for ranks"),
    ],
)
def test_what_has_no_meaning_here_is_refused(tmp_path, tool, capsys, words, message):
    random_folder(tmp_path / "hf", MODEL)
    assert tool.main(["--load-dir", str(tmp_path / "hf"), "--save-dir", str(tmp_path / "out"), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]
