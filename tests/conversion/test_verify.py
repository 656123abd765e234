"""`convert --verify`: an honest conversion passes, one flipped weight is found and named."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from megaphi.cli import main
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.conversion.verify import LogitComparison, compare_logits, compare_weights, report
from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from tests.conversion.random_models import SHAPES, random_folder
from tests.gloo_world import run_in_world

MODEL = SHAPES["3 heads per group"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_folder(tmp_path / "hf", MODEL)
    return tmp_path / "hf"


def convert(words: list[str]) -> tuple[int, str]:
    """(exit code, what it printed), on a rank, since logits start a world"""
    with redirect_stdout(io.StringIO()) as shown:
        code = main(["convert", *words, "--verify"])
    return code, shown.getvalue()


def test_an_honest_conversion_passes(folder: Path, tmp_path: Path) -> None:
    checkpoint, out = str(tmp_path / "checkpoint"), str(tmp_path / "out")
    ((code, shown),) = run_in_world(convert, ["to-checkpoint", str(folder), checkpoint, "--tensor", "2"], processes=1)
    assert code == 0, shown
    assert f"weights  {MODEL.parameters:,} in 27 tensors: identical" in shown
    assert "transformers and megaphi: largest difference" in shown
    words = ["to-huggingface", checkpoint, out, "--dtype", "bfloat16", "--no-tokenizer"]
    ((code, shown),) = run_in_world(convert, words, processes=1)
    assert code == 0, shown
    assert "those of the source, rounded to the target's type" in shown


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


def compare_both(folder: str, checkpoint: str) -> list[LogitComparison | None]:
    """As it is, and with another rotary base in the checkpoint's configuration."""
    source, target = open_weights(folder), open_weights(checkpoint)
    same = compare_logits(source, target)
    changed = open_weights(checkpoint)
    changed.config["model"]["rotary_base"] = 500.0
    vars(changed).pop("_architecture", None)  # which was read from the configuration when the model was opened
    return [same, compare_logits(source, changed)]


def test_logits_differ_where_the_function_does(folder: Path, tmp_path: Path) -> None:
    """The same weights under another rotary base are another function: weights alone would not show it."""
    checkpoint = to_checkpoint(folder, tmp_path / "checkpoint", layout=ParallelLayout(pipeline=2))
    ((same, other),) = run_in_world(compare_both, str(folder), str(checkpoint), processes=1)
    assert same.is_same
    assert same.programs == ("transformers", "megaphi")
    assert not other.is_same


def test_two_models_are_not_compared(folder: Path, tmp_path: Path) -> None:
    random_folder(tmp_path / "other", replace(MODEL, layers=2))
    with pytest.raises(InputError, match="they are not one model"):
        compare_weights(open_weights(folder), open_weights(tmp_path / "other"))
