"""Ranks of the tests of variants; the variants themselves are files of `variant_files`, one each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megaphi.engine.run_config import RunConfig
from megaphi.errors import InputError
from megaphi.model import variants
from megaphi.model.megatron_config import variant_fields
from megaphi.sampling import Sampling
from tests.engine.layout_runs import train

FILES = Path(__file__).parent / "variant_files"


def install_variants(files: Path = FILES) -> None:
    """Make this process, which is a rank of a test, find the files as if they lay in megaphi/model/variants."""
    if str(files) not in variants.__path__:
        variants.__path__.append(str(files))


def train_variant(run: RunConfig, *, files: Path = FILES, **how: Any) -> dict[str, Any]:
    """`layout_runs.train` of a model of a variant."""
    install_variants(files)
    return train(run, **how)


def refusal_of(run: RunConfig, files: Path) -> str:
    """The message of a model that cannot be built."""
    install_variants(files)
    try:
        train(run, steps=0)
    except InputError as error:
        return str(error)
    return ""


def greedy(checkpoint: str, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Greedy continuations through the paged cache."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.generate import generate
    from megaphi.generation.decoding.inference_engine import InferenceEngine

    install_variants()
    engine = InferenceEngine(open_model(open_weights(checkpoint)), slots=2)
    return [list(answer.tokens) for (answer,) in generate(engine, prompts, Sampling(max_tokens=tokens))]


@contextmanager
def installed_variants(files: Path = FILES) -> Iterator[None]:
    """The same for a while, in a process that runs other tests too."""
    install_variants(files)
    try:
        yield
    finally:
        variants.__path__.remove(str(files))
        variants.variant_of.cache_clear()
        variant_fields.cache_clear()
        for file in files.glob("*.py"):
            sys.modules.pop(f"{variants.__name__}.{file.stem}", None)
