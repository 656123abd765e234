"""Verification of a conversion: every number of every weight, and logits on real text, of source and target.

Weights stream in blocks of rows, so that models of any size can be compared. Logits are computed in fp32: those of a
Hugging Face folder or a GGUF file by `transformers`, if installed, which shares no code with the conversion; others by
our own inference. They need the model in memory, and are left out if it does not fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from megaphi.checkpoint.model_tokenizer import context_of, tokenizer_of
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.conversion.formats.gguf.weights import GgufWeights
from megaphi.conversion.formats.huggingface.weights import HuggingFaceWeights
from megaphi.conversion.formats.streaming import row_blocks
from megaphi.conversion.formats.weight_names import KNOWN_AND_DROPPED
from megaphi.conversion.repeated_groups import repeats
from megaphi.conversion.wrapped_reader import stored_reader
from megaphi.engine.inference.forward_only import logits_of, open_model
from megaphi.errors import InputError
from megaphi.log import logger, progress_bar
from megaphi.model.weights import weights_of

TOLERANCE = 1e-4
"""Tolerance of fp32 logits, relative to the largest: sums are rounded in another order."""
LONGEST_TOKENS = 512
TEXT = """A checkpoint is a promise: whoever loads it gets the numbers that were in memory when it was written, in the
order in which the model uses them. Between two formats that order differs. One stacks queries, keys and values; the
other keeps every group together, so that a row of ranks can share a layer. To move 29,319,014,400 bytes from one to the
other takes two minutes on a disk that writes 250 MB/s. def rows(start, end): return table[start:end] # 7 * 8 = 56"""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightDifference:
    """A weight that differs between source and target."""

    name: str
    numbers: int
    """Number of elements that differ."""
    largest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitComparison:
    """Comparison of both sides' fp32 logits on the same text."""

    tokens: int
    largest_difference: float
    largest_logit: float
    same_choice: float
    """Share of the positions at which both have the same top token."""
    cross_entropies: tuple[float, float]
    """Losses of the source and of the target, in nats per token."""
    programs: tuple[str, str]
    """The programs that computed the source and the target."""

    says_something: bool
    """True if all logits are finite and not all the same: two broken models may be equal."""
    unread: tuple[str, ...]
    """Tensors that transformers did not use or did not find: both programs might ignore the same one."""

    @property
    def is_same(self) -> bool:
        is_close = self.largest_difference <= TOLERANCE * max(self.largest_logit, 1.0)
        return self.says_something and not self.unread and is_close


def compare_weights(source: WeightReader, target: WeightReader) -> list[WeightDifference]:
    """Compare every weight of `target` with that of `source`, rounded to the target's type.

    Raises:
        InputError: the two have different shapes.
    """
    if source.architecture.parameters != target.architecture.parameters:
        raise InputError(
            f"{source.folder} has {source.architecture.parameters:,} parameters and {target.folder} "
            f"{target.architecture.parameters:,}: they are not one model"
        )
    found = []
    total = source.architecture.parameters
    with progress_bar(total=total, unit=" weights", label="compare", visible=total > 1 << 24) as bar:
        for weight in weights_of(source.architecture):
            differing, largest = 0, 0.0
            kind = target.dtype(weight.name)
            for start, end in row_blocks(0, weight.rows, columns=weight.columns):
                left, right = source.rows(weight.name, start, end).to(kind), target.rows(weight.name, start, end)
                unequal = _bits(left) != _bits(right)
                if unequal.any():
                    differing += int(unequal.sum())
                    largest = max(largest, float((left.float() - right.float()).abs().max()))
                bar.update(left.numel())
            if differing:
                found.append(WeightDifference(name=weight.name, numbers=differing, largest=largest))
    return found


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().view({2: torch.int16, 4: torch.int32}[values.dtype.itemsize])


def _any_ids(vocabulary: int) -> list[int]:
    return torch.randint(vocabulary, (LONGEST_TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()


def compare_logits(source: WeightReader, target: WeightReader, text: str = TEXT) -> LogitComparison | None:
    """Compare the logits of both sides on a text; None if the model does not fit into memory in fp32.

    For a model without a tokenizer, tokens are drawn from its whole vocabulary. If the target has another number
    format, the source's weights are rounded to it.
    """
    vocabulary = source.architecture.vocabulary
    own = tokenizer_of(source)
    ids = _any_ids(vocabulary) if own is None else own.encode(text)
    tokens = ids[: min(LONGEST_TOKENS, context_of(source))]
    if len(tokens) < 2:
        raise InputError("the text to compare logits on is too short: expected two tokens or more")
    if 4 * source.architecture.parameters * 1.2 > psutil.virtual_memory().available:
        return None
    tokens_BS = np.array([tokens])
    kinds = {target.dtype(weight.name) for weight in weights_of(target.architecture)}
    (left, one, missed), (right, other, unread) = (
        _logits(reader, tokens_BS, rounded=kinds.pop() if len(kinds) == 1 and reader is source else None)
        for reader in (source, target)
    )
    labels = torch.from_numpy(tokens_BS[0, 1:])
    losses = [float(cross_entropy(logits[0, :-1].double(), labels)) for logits in (left, right)]
    return LogitComparison(
        tokens=len(tokens),
        largest_difference=float((left - right).abs().max()),
        largest_logit=float(left.abs().max()),
        same_choice=float((left.argmax(-1) == right.argmax(-1)).double().mean()),
        cross_entropies=(losses[0], losses[1]),
        programs=(one, other),
        says_something=all(bool(logits.isfinite().all()) and float(logits.std()) > 0 for logits in (left, right)),
        unread=(*missed, *unread),
    )


def _logits(
    reader: WeightReader, tokens_BS: np.ndarray, *, rounded: torch.dtype | None
) -> tuple[Tensor, str, list[str]]:
    """Compute (logits `[B, S, V]`, the program that computed them, tensors that it did not use or did not find).

    Those of the model as it is stored: what was requested of the conversion must not change them.
    """
    weights = stored_reader(reader)
    if isinstance(weights, HuggingFaceWeights | GgufWeights) and find_spec("transformers") is not None:
        independent = _in_transformers(weights)
        if independent is not None:
            model, unread = independent
            _round(model, rounded)
            with torch.no_grad():
                return model(torch.from_numpy(tokens_BS)).logits, "transformers", unread
    model = open_model(weights, parameters="float32")
    _round(model.module, rounded)
    return logits_of(model, tokens_BS), "megaphi", []


@torch.no_grad()
def _round(module: torch.nn.Module, kind: torch.dtype | None) -> None:
    for parameter in module.parameters() if kind is not None else ():
        parameter.copy_(parameter.to(kind))


def _in_transformers(reader: HuggingFaceWeights | GgufWeights) -> tuple[Any, list[str]] | None:
    """Open a model by transformers: (model, tensors not used or not found), or None for a GGUF file it cannot read."""
    from transformers import AutoModelForCausalLM

    def load(folder: Path, **options: Any) -> tuple[Any, list[str]]:
        made: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **options
        )
        model, found = made
        names = (str(name) for kind in ("missing_keys", "unexpected_keys") for name in found[kind])
        return model.eval(), sorted(name for name in names if not name.endswith(KNOWN_AND_DROPPED))

    if isinstance(reader, HuggingFaceWeights):
        return load(reader.folder)
    try:
        return load(reader.folder.parent, gguf_file=reader.folder.name)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        logger.warning("transformers cannot read %s (%s): compared with our own reading", reader.folder, reason)
        return None


def report(
    source: WeightReader, target: WeightReader, *, text: str = TEXT, logits: bool = True
) -> tuple[bool, list[str]]:
    """The outcome of a verification: (True if nothing changed but what was requested, lines to print)."""
    different = compare_weights(source, target)
    total = source.architecture.parameters
    count = len(weights_of(source.architecture))
    same_types = all(source.dtype(one.name) == target.dtype(one.name) for one in weights_of(source.architecture))
    how = "identical" if same_types else "those of the source, rounded to the target's type"
    if (times := repeats(source)) > 1:
        how += f"; each key-value head {times} times"
    lines = [f"weights  {total:,} in {count} tensors: {how}"]
    if different:
        lines = [f"weights  {len(different)} of {count} tensors differ"]
        lines += [f"  {one.name}: {one.numbers:,} numbers, by {one.largest:g} at most" for one in different[:10]]
    if not logits:
        return not different, lines
    found = compare_logits(source, target, text)
    if found is None:
        return not different, [
            *lines,
            "logits   not compared: in fp32 the model does not fit into memory here",
        ]
    first, second = found.cross_entropies
    lines += [
        f"logits   {found.tokens} tokens, {found.programs[0]} and {found.programs[1]}: largest difference "
        f"{found.largest_difference:.2g} of {found.largest_logit:.3g}, the same choice in {found.same_choice:.1%}",
        f"loss     {first:.6f} and {second:.6f} nats per token"
        + ("" if math.isfinite(first + second) else ": not finite"),
    ]
    if not found.says_something:
        lines.append("the logits are not finite, or all the same: this is not a working model")
    if found.unread:
        lines.append(f"transformers did not use, or missed: {', '.join(found.unread[:5])}")
    return not different and found.is_same, lines
