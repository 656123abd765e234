"""`convert to-huggingface --key-value-groups`: an equal model with more key-value heads.

Its tensors are held against whole ones by `repeat_interleave`, its function against transformers' of the original.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megaphi.cli import main
from megaphi.conversion import repeated_groups
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.repeated_groups import WithRepeatedGroups
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.conversion.verify import report
from megaphi.errors import InputError
from tests.conversion.random_models import SHAPES, attentive_folder, in_transformers
from tests.conversion.test_verify import convert
from tests.gloo_world import run_in_world

MODEL = SHAPES["40/10 heads, as Phi-3 medium and Phi-4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return attentive_folder(tmp_path / "hf", MODEL)


def exported(folder: Path, groups: int, out: Path) -> Path:
    return to_huggingface(WithRepeatedGroups(open_weights(folder), groups), out, tokenizer=False)


@pytest.mark.parametrize("groups", [10, 20, 40])
@pytest.mark.parametrize("naming", ["phi3", "llama"])
def test_only_keys_and_values_are_repeated(groups: int, naming: str, tmp_path: Path) -> None:
    source = attentive_folder(tmp_path / "hf", MODEL, naming=naming)
    before = load_file(source / "model.safetensors")
    after = load_file(exported(source, groups, tmp_path / "out") / "model.safetensors")
    widths = [MODEL.query_width, MODEL.key_value_width, MODEL.key_value_width]
    for layer in range(MODEL.layers):
        name = f"model.layers.{layer}.self_attn."
        if naming == "phi3":
            query, *others = before.pop(f"{name}qkv_proj.weight").split(widths)
        else:
            query, *others = (before.pop(f"{name}{part}_proj.weight") for part in "qkv")
        heads = (part.view(10, MODEL.head_size, -1).repeat_interleave(groups // 10, 0).flatten(0, 1) for part in others)
        assert torch.equal(after.pop(f"{name}qkv_proj.weight"), torch.cat([query, *heads]))
    if naming == "phi3":
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("groups", [20, 40])
def test_transformers_computes_the_same_logits(folder: Path, groups: int, tmp_path: Path) -> None:
    tokens_BS = torch.from_numpy(np.random.default_rng(0).integers(MODEL.vocabulary, size=(2, 48)))
    with torch.no_grad():
        expected = in_transformers(folder)(tokens_BS).logits
        model = in_transformers(exported(folder, groups, tmp_path / "out"))
        found = model(tokens_BS).logits
    assert model.config.num_key_value_heads == groups
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("groups", [0, -10, 5, 15, 25, 30, 80])
def test_other_numbers_are_refused(
    folder: Path, groups: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are not a multiple of 10, or do not divide 40 heads."""
    words = ["convert", "to-huggingface", str(folder), str(tmp_path / "out"), "--key-value-groups", str(groups)]
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert f"--key-value-groups {groups}: " in shown
    assert "choose one of 10, 20, 40" in shown
    assert not (tmp_path / "out").exists()


def test_verify_compares_with_the_model_as_it_was(folder: Path, tmp_path: Path) -> None:
    words = ["to-huggingface", str(folder), str(tmp_path / "out"), "--key-value-groups", "20"]
    ((code, shown),) = run_in_world(convert, words, processes=1)
    assert code == 0, shown
    assert "identical; each key-value head 2 times" in shown
    assert "transformers and transformers: largest difference" in shown


def test_verify_fails_where_heads_meet_another_group(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are read through the same table as they were written; the logits are not."""
    right = repeated_groups._segments
    monkeypatch.setattr(repeated_groups, "_segments", lambda *rows: reversed(list(right(*rows))))
    source = WithRepeatedGroups(open_weights(folder), 20)
    target = open_weights(to_huggingface(source, tmp_path / "out", tokenizer=False))
    is_same, lines = report(source, target)
    assert not is_same
    assert "identical" in lines[0]


def test_an_export_can_be_repeated_again(folder: Path, tmp_path: Path) -> None:
    once = exported(folder, 40, tmp_path / "once")
    twice = exported(exported(folder, 20, tmp_path / "20"), 40, tmp_path / "40")
    for name in ("model.safetensors", "config.json"):
        assert (once / name).read_bytes() == (twice / name).read_bytes()


def test_a_weight_that_depends_on_the_groups_otherwise_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = repeated_groups.weights_of

    def with_a_scale(model: object) -> list[object]:
        rows = before(model)  # pyright: ignore[reportArgumentType]
        scale = rows[1].in_layer(0)
        return [*rows, type(scale)(name="scale", shape=(model.key_value_groups,))]  # pyright: ignore

    monkeypatch.setattr(repeated_groups, "weights_of", with_a_scale)
    with pytest.raises(InputError, match="scale depends on the number of key-value groups in another way"):
        WithRepeatedGroups(open_weights(folder), 20)
