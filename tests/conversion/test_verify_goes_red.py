"""`--verify` finds a conversion that does not do what it understands: every refusal switched off, one after the other.

The other program is transformers, which reads the same folder or file. All cases share one process.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from megaphi.conversion.formats.gguf import weights as gguf_weights
from megaphi.conversion.formats.huggingface import form as huggingface_form
from megaphi.conversion.formats.huggingface import weights as huggingface_weights
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.conversion.verify import report
from tests.conversion.formats.gguf.gguf_model import MODEL, write_gguf
from tests.conversion.random_models import random_folder
from tests.gloo_world import run_in_world

CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing": ("phi3", {}),
    "another activation": ("phi3", {"hidden_act": "gelu"}),
    "scaled rotary positions": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "scaled for a part of the frequencies": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "partial rotary positions": ("phi3", {"partial_rotary_factor": 0.5}),
    "a sliding window": ("phi3", {"sliding_window": 16}),
    "unread tensors": ("llama", {"attention_bias": True}),
    "tensors that both leave unread": ("llama", {"attention_bias": False}),
}  # fmt: skip
ROUNDED = "another activation, and another type"
OTHERS = (ROUNDED, "another base in a GGUF file", "another activation in the engine")


def _write(folder: Path, naming: str, change: dict[str, Any]) -> Path:
    random_folder(folder, MODEL, naming=naming, scale=0.3, **change)
    if "attention_bias" in change:
        file = folder / "model.safetensors"
        tensors, width = load_file(file), MODEL.query_width
        for layer in range(MODEL.layers):
            for part, rows in (("q", width), ("k", MODEL.key_value_width), ("v", MODEL.key_value_width), ("o", width)):
                tensors[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = torch.randn(rows)
        save_file(tensors, file, {"format": "pt"})
    return folder


def _without_refusals() -> ExitStack:
    """config.json's keys, its window, and names of tensors are not looked at."""
    off = ExitStack()
    understood = mock.Mock(refused=lambda given: [])
    off.enter_context(mock.patch.object(huggingface_form, "CONFIG_KEYS", understood))
    whole = lambda config, *, where: config["max_position_embeddings"]  # noqa: E731
    off.enter_context(mock.patch.object(huggingface_weights, "context_from", whole))
    off.enter_context(mock.patch.object(huggingface_weights, "KNOWN_AND_DROPPED", (".bias",)))
    return off


def _compared(source: Path, target: Path) -> tuple[bool, list[str]]:
    return report(open_weights(source), open_weights(target))


def _another_base(folder: Path) -> tuple[bool, list[str]]:
    """A reader that takes the usual base of the rotary positions, whatever the file says."""
    path = write_gguf(folder, header=lambda writer: None)
    number = gguf_weights.GgufWeights._number

    def usual(self: Any, key: str, kind: type, *, default: Any = None) -> Any:
        return 500.0 if key == "rope.freq_base" else number(self, key, kind, default=default)

    with mock.patch.object(gguf_weights.GgufWeights, "_number", usual):
        return _compared(path, to_checkpoint(path, folder / "checkpoint"))


def _another_activation(folder: Path) -> tuple[bool, list[str]]:
    """A fork that computes something else under the same names: the export says SiLU."""
    from megaphi.model import fused_layer

    checkpoint = to_checkpoint(_write(folder / "hf", "phi3", {}), folder / "checkpoint")
    exported = to_huggingface(checkpoint, folder / "exported")

    def gated_gelu(gate_and_up: torch.Tensor, weight: torch.Tensor, *, in_place: bool) -> torch.Tensor:
        gate, up = gate_and_up.chunk(2, -1)
        return (torch.nn.functional.gelu(gate) * up) @ weight.T

    with mock.patch.object(fused_layer, "swiglu_linear", gated_gelu):
        return _compared(checkpoint, exported)


def verify_all(folder: Path) -> dict[str, tuple[bool, list[str]]]:
    """Result of `--verify` for every faulty conversion."""
    found = {}
    with _without_refusals():
        for name, (naming, change) in CONFIGURATIONS.items():
            source = _write(folder / name, naming, change)
            found[name] = _compared(source, to_checkpoint(source, folder / f"{name}, converted"))
        source = folder / "another activation"
        found[ROUNDED] = _compared(source, to_checkpoint(source, folder / "rounded", dtype="bfloat16"))
    found[OTHERS[1]] = _another_base(folder / OTHERS[1])
    found[OTHERS[2]] = _another_activation(folder / OTHERS[2])
    return found


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bool, list[str]]]:
    (found,) = run_in_world(verify_all, tmp_path_factory.mktemp("red"), processes=1)
    return found


@pytest.mark.parametrize("fault", [*CONFIGURATIONS, *OTHERS])
def test_logits_show_what_weights_do_not(fault: str, verified: dict[str, tuple[bool, list[str]]]) -> None:
    passed, lines = verified[fault]
    assert lines[0].endswith("rounded to the target's type" if fault == ROUNDED else "identical")
    assert "transformers" in lines[1]
    assert "megaphi" in lines[1]
    assert passed is (fault == "nothing"), lines
