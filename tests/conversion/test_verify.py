"""`convert --verify`: an honest conversion passes, one flipped weight is found and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megaphi.cli import main
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.conversion.verify import compare_logits, compare_weights, report
from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from tests.conversion.random_models import SHAPES, random_folder

MODEL = SHAPES["40/10 heads, as Phi-3 medium and Phi-4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_folder(tmp_path / "hf", MODEL)
    return tmp_path / "hf"


def test_an_honest_conversion_passes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", "to-checkpoint", str(folder), str(tmp_path / "checkpoint"), "--tensor", "2", "--verify"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"weights  {MODEL.parameters:,} in 27 tensors: identical" in shown
    assert "transformers and megaphi: largest difference" in shown
    words = ["convert", "to-huggingface", str(tmp_path / "checkpoint"), str(tmp_path / "out"), "--dtype", "bfloat16"]
    assert main([*words, "--no-tokenizer", "--verify"]) == 0
    assert "those of the source, rounded to the target's type" in capsys.readouterr().out


def test_a_flipped_weight_is_named(folder: Path, tmp_path: Path) -> None:
    out = to_huggingface(folder, tmp_path / "out", tokenizer=False)
    content = bytearray((out / "model.safetensors").read_bytes())
    content[-3] ^= 0x40
    (out / "model.safetensors").write_bytes(content)
    (different,) = compare_weights(open_weights(folder), open_weights(out))
    assert different.numbers == 1
    assert different.largest > 0
    is_same, lines = report(open_weights(folder), open_weights(out), logits=False)
    assert not is_same
    assert different.name in "\n".join(lines)


def test_logits_differ_where_the_function_does(folder: Path, tmp_path: Path) -> None:
    """The same weights under another rotary base are another function: weights alone would not show it."""
    checkpoint = to_checkpoint(folder, tmp_path / "checkpoint", layout=ParallelLayout(pipeline=2))
    source, target = open_weights(folder), open_weights(checkpoint)
    same = compare_logits(source, target)
    assert same is not None
    assert same.is_same
    assert same.same_choice == 1.0
    config = target.config
    config["model"]["rotary_base"] = 10_000.0  # pyright: ignore
    other = compare_logits(source, target)
    assert other is not None
    assert not other.is_same


def test_two_models_are_not_compared(folder: Path, tmp_path: Path) -> None:
    random_folder(tmp_path / "other", replace(MODEL, layers=2))
    with pytest.raises(InputError, match="they are not one model"):
        compare_weights(open_weights(folder), open_weights(tmp_path / "other"))
    with pytest.raises(InputError, match="too short"):
        compare_logits(open_weights(folder), open_weights(folder), "")
