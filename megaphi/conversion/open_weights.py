"""Open any model's weights as a `WeightReader`, by the contents of the path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megaphi.checkpoint.format import CheckpointReader
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.conversion.formats.gguf.weights import GgufWeights, is_gguf
from megaphi.conversion.formats.huggingface.weights import HuggingFaceWeights
from megaphi.conversion.formats.megatron.weights import MegatronWeights, is_megatron
from megaphi.conversion.formats.side_files import CONFIG
from megaphi.conversion.wrapped_reader import stored_reader
from megaphi.errors import InputError
from megaphi.files import read_json
from megaphi.model.weights import weights_of

ADAPTER = "adapter_config.json"
MODEL = "model/"
"""Prefix of the weights' keys in a checkpoint."""


def open_weights(path: str | Path, fields: Sequence[str] = ()) -> WeightReader:
    """Open a checkpoint, a run folder (its newest checkpoint), or a model of another project.

    Hugging Face folders, GGUF files, and Megatron-LM's torch_dist checkpoints are recognised by their contents.

    Args:
        path: what to open.
        fields: `field=value` of the architecture, for formats that do not store all of it.

    Raises:
        InputError: no known format is there, the files are corrupted, or the format takes no `fields`.
    """
    path = Path(path)
    if is_megatron(path):
        return MegatronWeights(path, fields)
    reader = _open(path)
    if fields:
        raise InputError(f"{path} says itself what its architecture is: leave out {' '.join(fields)}")
    return reader


def _open(path: Path) -> WeightReader:
    if is_gguf(path):
        return GgufWeights(path)
    if (path / ADAPTER).is_file() and not (path / CONFIG).is_file():
        raise InputError(f"{path} is an adapter, not a model ({ADAPTER}): merge it into its model first")
    return HuggingFaceWeights(path) if _is_huggingface(path) else CheckpointReader(path)


def _is_huggingface(path: Path) -> bool:
    """Return whether a folder is Hugging Face's; a run folder has a config.json too, but without `model_type`."""
    if not (path / CONFIG).is_file():
        return False
    described = read_json(path / CONFIG, what="configuration")
    return isinstance(described, dict) and "model_type" in described


def refuse_unlisted_weights(reader: WeightReader) -> None:
    """Refuse a checkpoint with weights that its architecture does not have: they would be lost. Raises InputError.

    Readers of other formats check for such tensors themselves.
    """
    checkpoint = stored_reader(reader)
    if not isinstance(checkpoint, CheckpointReader):
        return
    stored = {key.removeprefix(MODEL) for key in checkpoint.tensors if key.startswith(MODEL)}
    unlisted = sorted(stored - {weight.name for weight in weights_of(checkpoint.architecture)})
    if unlisted:
        raise InputError(f"{checkpoint.folder} holds {', '.join(unlisted[:3])}, which its architecture does not have")
