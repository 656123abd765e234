"""Checkpoints of any layout from any source: the same weights, in the files that such ranks write, and back again."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megaphi.checkpoint.format import CheckpointReader
from megaphi.checkpoint.manifest import check_content
from megaphi.cli import main
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from tests.conversion.random_models import SHAPES, random_folder, same_bytes, whole_weights
from tests.engine.layout_runs import tiny_run, train
from tests.gloo_world import run_in_world

LAYOUTS = [
    ParallelLayout(tensor=tensor, pipeline=pipeline, virtual_pipeline=virtual)
    for tensor in (1, 2, 3, 4, 5, 8)
    for pipeline, virtual in ((1, 1), (2, 1), (2, 2))
] + [ParallelLayout(tensor=2, pipeline=2, stage_layers=(1, 3)), ParallelLayout(pipeline=2, stage_layers=(3, 1))]


def fits(model: Architecture, layout: ParallelLayout) -> bool:
    is_divided = all(size % layout.tensor == 0 for size in (model.heads, model.feed_forward))
    stages = layout.pipeline * layout.virtual_pipeline
    return is_divided and (
        sum(layout.stage_layers) == model.layers if layout.stage_layers else not model.layers % stages
    )


def test_every_number_of_tensor_ranks_is_tried() -> None:
    tried = {(layout.tensor, layout.pipeline) for layout in LAYOUTS for model in SHAPES.values() if fits(model, layout)}
    assert tried == {(tensor, pipeline) for tensor in (1, 2, 3, 4, 5, 8) for pipeline in (1, 2)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_layout_holds_the_same_and_gives_it_back(shape: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Hugging Face -> layout -> another layout -> Hugging Face, byte for byte, for every layout that fits."""
    model = SHAPES[shape]
    tensors = random_folder(tmp_path / "hf", model, dtype=dtype)
    expected = whole_weights(tensors, model)
    source: Path = tmp_path / "hf"
    for number, layout in enumerate(layout for layout in LAYOUTS if fits(model, layout)):
        source = to_checkpoint(source, tmp_path / f"checkpoint_{number}", layout=layout)
        reader = CheckpointReader(source)
        assert len(list(source.glob("rank_*.safetensors"))) == layout.tensor * layout.pipeline
        for name in reader.manifest.files:
            check_content(source, reader.manifest, name)
        assert reader.tensors.keys() == {f"model/{name}" for name in expected}
        for name, weight in expected.items():
            assert same_bytes(reader.whole(f"model/{name}"), weight), (layout, name)
        back = to_huggingface(source, tmp_path / f"back_{number}", tokenizer=False)
        found = load_file(back / "model.safetensors")
        assert found.keys() == tensors.keys()
        assert all(same_bytes(found[name], tensor) for name, tensor in tensors.items())
        assert (back / "config.json").read_bytes() == (tmp_path / "hf" / "config.json").read_bytes()


@pytest.mark.parametrize(
    "layout",
    [ParallelLayout(tensor=2), ParallelLayout(tensor=2, pipeline=2), ParallelLayout(pipeline=2, stage_layers=(1, 3))],
    ids=str,
)
def test_files_are_those_that_the_ranks_write(layout: ParallelLayout, tmp_path: Path) -> None:
    """Same files, same boxes of every weight in them as the engine's own checkpoint of this layout."""
    model = SHAPES["3 heads per group"]
    run = tiny_run(folder=str(tmp_path / "run"), layout=layout, model=model)
    run_in_world(partial(train, run, steps=1, save=True), processes=layout.model_ranks)
    written = CheckpointReader(tmp_path / "run")
    converted = CheckpointReader(
        to_checkpoint(to_checkpoint(written, tmp_path / "one"), tmp_path / "cut", layout=layout)
    )
    assert converted.state["step"] == written.state["step"] == 1
    weights = {key for key in written.tensors if key.startswith("model/")}
    assert weights == set(converted.tensors)
    for key in weights:
        assert same_bytes(written.whole(key), converted.whole(key))
        places = [
            {(piece["file"], *map(tuple, (piece["offset"], piece["shape"]))) for piece in reader.tensors[key]["pieces"]}
            for reader in (written, converted)
        ]
        assert places[0] == places[1], key


@pytest.mark.parametrize(("stored", "wanted"), [(torch.float32, "bfloat16"), (torch.bfloat16, "float32")])
def test_dtype_changes_every_weight(stored: torch.dtype, wanted: str, tmp_path: Path) -> None:
    model = SHAPES["30/15 heads"]
    tensors = random_folder(tmp_path / "hf", model, dtype=stored)
    kind = getattr(torch, wanted)
    reader = CheckpointReader(
        to_checkpoint(tmp_path / "hf", tmp_path / "checkpoint", layout=ParallelLayout(tensor=3), dtype=wanted)
    )
    assert reader.config["precision"] == {"parameters": wanted}
    assert reader.config["layout"] == {"tensor": 3, "pipeline": 1, "virtual_pipeline": 1, "stage_layers": []}
    for name, weight in whole_weights(tensors, model).items():
        assert same_bytes(reader.whole(f"model/{name}"), weight.to(kind))
    back = to_huggingface(tmp_path / "hf", tmp_path / "back", dtype=wanted, tokenizer=False)
    found = load_file(back / "model.safetensors")
    assert all(same_bytes(found[name], tensor.to(kind)) for name, tensor in tensors.items())
    original, written = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "hf", back))
    assert written == original | {"torch_dtype": wanted}


def test_half_precision_needs_a_word(tmp_path: Path) -> None:
    model = SHAPES["30/15 heads"]
    tensors = random_folder(tmp_path / "hf", model, dtype=torch.float16)
    with pytest.raises(InputError, match="is float16, expected float32 or bfloat16: choose one with --dtype"):
        to_checkpoint(tmp_path / "hf", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()
    reader = CheckpointReader(to_checkpoint(tmp_path / "hf", tmp_path / "checkpoint", dtype="float32"))
    for name, weight in whole_weights(tensors, model).items():
        assert same_bytes(reader.whole(f"model/{name}"), weight.float())


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (ParallelLayout(tensor=4), "layout.tensor=4 does not divide model.heads=6"),
        (ParallelLayout(pipeline=3), "layout.pipeline=3 does not divide model.layers=4"),
        (ParallelLayout(pipeline=2, stage_layers=(2, 1)), "stage_layers=2,1 adds up to 3 layers, but model.layers=4"),
        (ParallelLayout(virtual_pipeline=2), "needs layout.pipeline of at least 2"),
        (ParallelLayout(tensor=0), "layout.tensor=0: must be at least 1"),
    ],
)
def test_a_layout_that_does_not_divide_is_refused(layout: ParallelLayout, words: str, tmp_path: Path) -> None:
    random_folder(tmp_path / "hf", SHAPES["3 heads per group"])
    with pytest.raises(InputError, match=words):
        to_checkpoint(tmp_path / "hf", tmp_path / "out", layout=layout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


def test_the_command_takes_the_layers_of_every_stage(tmp_path: Path) -> None:
    random_folder(tmp_path / "hf", SHAPES["3 heads per group"])
    words = ["convert", "to-checkpoint", str(tmp_path / "hf"), str(tmp_path / "cut"), "--pipeline", "2"]
    assert main([*words, "--stage-layers", "one"]) == 2
    assert not (tmp_path / "cut").exists()
    assert main([*words, "--stage-layers", "1,3"]) == 0
    reader = CheckpointReader(tmp_path / "cut")
    assert reader.config["layout"]["stage_layers"] == [1, 3]
    files = {name: {piece["file"] for piece in entry["pieces"]} for name, entry in reader.tensors.items()}
    in_second = {name for name, holders in files.items() if "rank_00001.safetensors" in holders}
    assert {int(name.split(".")[2]) for name in in_second if ".layers." in name} == {1, 2, 3}
