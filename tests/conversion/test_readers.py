"""Any rows and any box of any reader are what whole tensors say, and the table of rows is its own inverse."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.checkpoint.box import Box
from megaphi.checkpoint.format import CheckpointReader
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.conversion.formats.huggingface.weights import HuggingFaceWeights
from megaphi.conversion.formats.weight_names import our_table, their_table
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.errors import InputError
from megaphi.model.weights import weights_of
from megaphi.parallel.layout import ParallelLayout
from tests.conversion.random_models import SHAPES, random_folder, same_bytes, whole_weights


@pytest.fixture(scope="module", params=["phi3", "llama", "tied", "sharded", "checkpoint", "cut checkpoint"])
def opened(request, tmp_path_factory) -> tuple[WeightReader, dict[str, torch.Tensor]]:
    """A reader of the same random weights in every form, and the whole weights."""
    folder: Path = tmp_path_factory.mktemp("weights")
    model = SHAPES["3 heads per group"]
    naming = "llama" if request.param in ("llama", "tied") else "phi3"
    fields = {"tie_word_embeddings": True} if request.param == "tied" else {}
    shards = 3 if request.param == "sharded" else 1
    tensors = random_folder(folder / "hf", model, naming=naming, dtype=torch.bfloat16, shards=shards, **fields)
    source = folder / "hf"
    if "checkpoint" in request.param:
        cut = ParallelLayout(tensor=2, pipeline=2) if request.param.startswith("cut") else None
        source = to_checkpoint(source, folder / "checkpoint", layout=cut)
    reader = open_weights(source)
    assert isinstance(reader, CheckpointReader if "checkpoint" in request.param else HuggingFaceWeights)
    return reader, whole_weights(tensors, model)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_rows_are_those_of_the_whole_weight(opened, data) -> None:
    reader, expected = opened
    weight = data.draw(st.sampled_from(weights_of(reader.architecture)), label="weight")
    start = data.draw(st.integers(0, weight.rows), label="start")
    end = data.draw(st.integers(start, weight.rows), label="end")
    whole = expected[weight.name]
    matrix = whole if whole.dim() == 1 else whole.reshape(weight.rows, weight.columns)
    assert reader.dtype(weight.name) == whole.dtype
    assert same_bytes(reader.rows(weight.name, start, end), matrix[start:end])


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_boxes_are_those_of_the_whole_weight(opened, data) -> None:
    reader, expected = opened
    weight = data.draw(st.sampled_from(weights_of(reader.architecture)), label="weight")
    offset = tuple(data.draw(st.integers(0, size - 1)) for size in weight.shape)
    shape = tuple(data.draw(st.integers(1, size - first)) for first, size in zip(offset, weight.shape, strict=True))
    box = Box(offset, shape)
    whole = expected[weight.name]
    wanted = whole[box.slices_within(Box((0,) * whole.dim(), tuple(whole.shape)))]
    assert same_bytes(reader.box(weight.name, box), wanted)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("naming", ["phi3", "llama"])
def test_the_table_covers_both_sides_once(shape: str, naming) -> None:
    model = SHAPES[shape]
    table = our_table(model, naming)
    assert {name: sum(part.rows for part in parts) for name, parts in table.items()} == {
        weight.name: weight.rows for weight in weights_of(model)
    }
    assert list(table) == [weight.name for weight in weights_of(model)]
    assert (
        their_table(their_table(table)).items()
        >= {name: parts for name, parts in table.items() if "linear" not in name}.items()
    )
    for tensor, parts in their_table(table).items():
        taken = [(part.tensor, row) for part in parts for row in range(part.first, part.first + part.rows)]
        assert len(set(taken)) == len(taken), tensor
    total = sum(part.rows for parts in their_table(table).values() for part in parts)
    assert total == sum(
        math.prod(weight.shape[:-1]) if len(weight.shape) > 1 else weight.rows for weight in weights_of(model)
    )


def test_what_says_everything_takes_no_fields(tmp_path: Path) -> None:
    random_folder(tmp_path / "hf", SHAPES["3 heads per group"])
    with pytest.raises(InputError, match=r"says itself what its architecture is: leave out heads=3"):
        open_weights(tmp_path / "hf", ["heads=3"])
