"""Two ranks that load weights which are NaN or infinite: to train, and only to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from megaphi.checkpoint.format import CheckpointReader
from megaphi.engine.inference.forward_only import open_model
from megaphi.engine.saving.saver import save_checkpoint
from megaphi.engine.saving.shards import load_checkpoint, load_weights
from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from tests.engine.saving.saving_runs import listening, start
from tests.fuzz.targets.model_files import sign

NORM, AVERAGE = "model/decoder.final_layernorm.weight", "optimizer/exp_avg/embedding.word_embeddings.weight"


def change_tensor(folder: Path, key: str, value: float) -> None:
    """Set the first number of a tensor of a checkpoint, in whichever rank's file it is, and write the manifest."""
    for path in sorted(folder.glob("rank_*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        if key in tensors:
            tensors[key].view(-1)[0] = value
            save_file(dict(sorted(tensors.items(), key=lambda item: -item[1].element_size())), path, metadata)
            break
    sign(folder)


def not_finite(folder: str) -> dict[str, Any]:
    """Messages about an infinite norm, from a run and from a reader, then about an optimizer average that is NaN."""
    model = start(folder)
    save_checkpoint(model, {"step": 1})
    checkpoint = Path(folder) / "checkpoints" / "step_00000001"
    said: dict[str, Any] = {}
    for name, key, value in (("weights", NORM, float("inf")), ("optimizer", AVERAGE, float("nan"))):
        if model.world.is_main:
            change_tensor(checkpoint, key, value)
        torch.distributed.barrier()
        for way, load in (
            ("continued", lambda: load_checkpoint(start(folder), checkpoint)),
            ("started from", lambda: load_weights(start(folder), CheckpointReader(checkpoint))),
        ):
            try:
                load()
            except InputError as error:
                said[f"{name} {way}"] = str(error)
        with listening() as lines:
            open_model(CheckpointReader(checkpoint), ParallelLayout(data=2))
        said[f"{name} read"] = [line for line in lines if "NaN" in line]
        torch.distributed.barrier()
        if model.world.is_main:
            change_tensor(checkpoint, key, 1.0)
        torch.distributed.barrier()
    return said
