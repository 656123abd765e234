"""Missing, truncated, swapped or wrong input gives one message that names it, and nothing is left behind."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megaphi.cli import main
from megaphi.conversion.formats import streaming
from megaphi.conversion.formats.huggingface.weights import HuggingFaceWeights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.errors import InputError
from tests.conversion.random_models import SHAPES, random_folder
from tests.warm_megaphi import run_megaphi

MODEL = SHAPES["3 heads per group"]
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_folder(tmp_path / "hf", MODEL, shards=3)
    return tmp_path / "hf"


def refused(folder: Path, words: str) -> None:
    """Both directions refuse the source with these words, and leave nothing."""
    for convert in (to_checkpoint, to_huggingface):
        with pytest.raises(InputError, match=words):
            convert(folder, folder.parent / "out")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["hf"]


def test_a_truncated_shard(folder: Path) -> None:
    content = (folder / SHARD).read_bytes()
    for length in (len(content) - 1, len(content) // 2, 100, 5, 0):
        (folder / SHARD).write_bytes(content[:length])
        refused(folder, rf"{SHARD} is (truncated|corrupted)")


def test_a_missing_shard(folder: Path) -> None:
    (folder / SHARD).unlink()
    refused(folder, f"{SHARD} is missing")


def change_index(folder: Path, **changes: Any) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= changes
    path.write_text(json.dumps(index))


def test_an_index_that_names_what_is_not_there(folder: Path) -> None:
    change_index(folder, **{"model.norm.weight": SHARD})
    change_index(folder, **{"model.layers.9.mlp.down_proj.weight": SHARD})
    refused(folder, rf"index.json says that {SHARD} holds model\S+, and it does not")


def test_an_index_that_leads_out_of_the_folder(folder: Path) -> None:
    change_index(folder, **{"model.norm.weight": "../elsewhere.safetensors"})
    refused(folder, r"names the file '../elsewhere.safetensors', which is not in the same folder")


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'])
def test_an_index_of_another_form(content: str, folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder, "index.json is corrupted: it has no 'weight_map'")


def one_file(folder: Path, change: Any) -> Path:
    tensors = random_folder(folder, MODEL)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), r"missing \['model.norm.weight'\], unknown none"),
        (lambda tensors: tensors.pop("lm_head.weight"), r"missing \['lm_head.weight'\], unknown none"),
        (
            lambda tensors: tensors.update({"model.layers.0.self_attn.qkv_proj.bias": torch.zeros(3)}),
            r"missing none, unknown \['model.layers.0.self_attn.qkv_proj.bias'\]",
        ),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(61)}), r"has the shape \(61,\), .* \(60,\)"),
        (
            lambda tensors: tensors.update({"lm_head.weight": torch.zeros(60, 352)}),
            r"lm_head.weight has the shape \(60, 352\), config.json says \(352, 60\)",
        ),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.zeros(60, dtype=torch.int64)}),
            "the parts of decoder.final_layernorm.weight are int64, expected one floating-point type",
        ),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.zeros(60, dtype=torch.float64)}),
            r"model.norm.weight has the type 'F64', which is none of F32, BF16",
        ),
    ],
)
def test_weights_that_do_not_fit(change: Any, words: str, tmp_path: Path) -> None:
    refused(one_file(tmp_path / "hf", change), words)


def test_parts_of_different_types(tmp_path: Path) -> None:
    tensors = random_folder(tmp_path / "hf", MODEL, naming="llama")
    tensors["model.layers.1.self_attn.k_proj.weight"] = tensors["model.layers.1.self_attn.k_proj.weight"].bfloat16()
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    refused(tmp_path / "hf", r"the parts of decoder.layers.1.self_attention.linear_qkv.weight are bfloat16, float32")


def test_computed_tensors_are_ignored(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    HuggingFaceWeights(one_file(tmp_path / "hf", lambda tensors: tensors.update({name: torch.zeros(7)})))


def test_pickled_weights_are_named(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    refused(folder, r"model.safetensors is missing: .*pytorch_model.bin is a pickle")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', expected 'phi3'"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_scaling.type='longrope': not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type='yarn': not supported"),
        ({"partial_rotary_factor": 0.75}, "partial_rotary_factor=0.75: not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu': not supported"),
        ({"attention_bias": True}, "attention_bias=True: not supported"),
        ({"num_attention_heads": 0, "head_dim": None}, "config.json: a size is not a positive whole number"),
        ({"num_attention_heads": 0}, "model.heads=0: must be from 1 to 65536"),
        ({"intermediate_size": 96}, r"has the shape .* config.json says"),
        ({"num_hidden_layers": 5}, "missing .*unknown none"),
        ({"hidden_size": "60", "head_dim": None}, "config.json: a size is not a positive whole number"),
        ({"num_hidden_layers": -1}, "model.layers=-1: must be from 1 to 10000"),
    ],
)
def test_configurations_that_cannot_be_built(change: dict[str, Any], words: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    refused(folder, words)


def test_a_file_that_shrinks_meanwhile(folder: Path) -> None:
    reader = HuggingFaceWeights(folder)
    for path in folder.glob("*.safetensors"):
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size - 8)
    with pytest.raises(InputError, match=r"safetensors ends at byte .*: it was cut off"):
        to_checkpoint(reader, folder.parent / "out")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["hf"]


def test_too_little_space_is_known_before_writing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1_000})
    monkeypatch.setattr(streaming.shutil, "disk_usage", lambda _: usage)
    refused(folder, "it takes 535,920 bytes, and the disk has 1,000 free")


SMALL_FILES = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (50_000, 50_000))


@pytest.mark.parametrize("direction", ["to-huggingface", "to-checkpoint"])
def test_a_full_disk_is_one_message_and_leaves_nothing(direction: str, folder: Path) -> None:
    result = run_megaphi("convert", direction, folder, folder.parent / "out", preexec_fn=SMALL_FILES)
    assert result.returncode == 2, result.stderr
    assert "cannot write" in result.stderr
    assert "larger than this process may write" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in folder.parent.iterdir()) == ["hf"]


SLOW = """
import sys, time
import megaphi.conversion.formats.streaming as streaming
from megaphi.checkpoint.tensor_file import TensorFileWriter
append = TensorFileWriter.append
def slowly(self, values):
    print("writing", flush=True)
    time.sleep(0.2)
    append(self, values)
TensorFileWriter.append = slowly
from megaphi.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_interrupted_conversion_leaves_nothing(folder: Path) -> None:
    command = [sys.executable, "-c", SLOW, "convert", "to-checkpoint", str(folder), str(folder.parent / "out")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it for jobs in the background
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in folder.parent.iterdir()) == ["hf"]


def test_a_dry_run_writes_nothing_and_says_what_would_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(folder.parent / "out")
    assert main(["convert", "to-checkpoint", str(folder), out, "--tensor", "2", "--pipeline", "2", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    weights = sum(tensor.nbytes for path in folder.glob("*.safetensors") for tensor in load_file(path).values())
    assert f"4 files of weights, {weights:,} bytes, cut tensor 2 x pipeline 2" in lines[2]
    assert [line.split()[0] for line in lines[3:]] == [f"rank_{rank:05d}.safetensors" for rank in range(4)]
    assert main(["convert", "to-huggingface", str(folder), out, "--dry-run", "--shard-size", "100 KB"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sizes = [int(line.split()[1].replace(",", "")) for line in lines[3:]]
    assert sum(sizes) == weights
    assert max(sizes) <= 100_000
    assert sorted(path.name for path in folder.parent.iterdir()) == ["hf"]
    to_checkpoint(folder, out)
    assert [path.stat().st_size > weights for path in Path(out).glob("rank_*")] == [True]
    assert main(["convert", "to-huggingface", str(folder), out + "2", "--shard-size", "0"]) == 2
    assert "--shard-size 0: expected a size such as 5GB" in capsys.readouterr().err
