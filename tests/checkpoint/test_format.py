"""The checkpoint format by itself: any cut goes in, any other cut comes out, damage is named."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.checkpoint import format as format_module
from megaphi.checkpoint import manifest as manifest_module
from megaphi.checkpoint.box import Box
from megaphi.checkpoint.format import (
    CheckpointReader,
    TensorPiece,
    finish_checkpoint,
    rank_file,
    resolve,
    write_rank_file,
)
from megaphi.checkpoint.manifest import check_content, read_manifest
from megaphi.checkpoint.tensor_file import TensorFile
from megaphi.errors import InputError


def cuts_of(size: int, cuts: list[int]) -> list[tuple[int, int]]:
    """(start, length) of the parts of a line cut at `cuts`."""
    bounds = sorted({0, size, *(cut % size for cut in cuts)})
    return [(start, end - start) for start, end in pairwise(bounds)]


def write_checkpoint(folder, tensors, *, box_cuts, range_cuts):
    """Each rank holds every tensor's boxes in turn; every box is flattened and cut into ranges, one rank each."""
    folder.mkdir(parents=True)
    ranks: list[list[TensorPiece]] = []
    for key, whole in tensors.items():
        number = 0
        for parts in product(*(cuts_of(size, cuts) for size, cuts in zip(whole.shape, box_cuts, strict=False))):
            box = Box(tuple(start for start, _ in parts), tuple(length for _, length in parts))
            flat = whole[box.slices_within(Box((0,) * whole.dim(), tuple(whole.shape)))].reshape(-1)
            for start, length in cuts_of(len(flat), range_cuts):
                if number == len(ranks):
                    ranks.append([])
                values = flat[start : start + length]
                ranks[number].append(
                    TensorPiece(key=key, whole_shape=tuple(whole.shape), box=box, start=start, values=values)
                )
                number += 1
    files = {
        rank_file(rank): write_rank_file(folder, pieces, rank=rank, save_id="this", step=7)
        for rank, pieces in enumerate(ranks)
    }
    finish_checkpoint(folder, {"recipe": "none"}, {"step": 7}, files, save_id="this")
    return CheckpointReader(folder)


@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    box_cuts=st.lists(st.lists(st.integers(0, 6), max_size=2), min_size=3, max_size=3),
    range_cuts=st.lists(st.integers(0, 30), max_size=3),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_any_box_of_any_cut(tmp_path_factory, shape, box_cuts, range_cuts, data):
    whole = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
    folder = tmp_path_factory.mktemp("cut") / "step"
    reader = write_checkpoint(folder, {"model/w": whole}, box_cuts=box_cuts, range_cuts=range_cuts)
    assert torch.equal(reader.whole("model/w"), whole)
    offset = [data.draw(st.integers(0, size - 1)) for size in shape]
    extent = [data.draw(st.integers(1, size - first)) for size, first in zip(shape, offset, strict=True)]
    box = Box(tuple(offset), tuple(extent))
    start = data.draw(st.integers(0, box.numel))
    end = data.draw(st.integers(start, box.numel))
    expected = whole[box.slices_within(Box((0,) * len(shape), tuple(shape)))].reshape(-1)[start:end]
    assert torch.equal(reader.read("model/w", box, start=start, end=end), expected)


@pytest.fixture
def reader(tmp_path):
    tensors = {"model/a": torch.randn(6, 4), "model/b": torch.randn(5).bfloat16()}
    return write_checkpoint(tmp_path / "run/checkpoints/step_00000007", tensors, box_cuts=[[3], []], range_cuts=[2])


def test_number_formats_are_kept(reader):
    assert reader.whole("model/a").dtype == torch.float32
    assert reader.whole("model/b").dtype == torch.bfloat16
    assert reader.tensors["model/b"]["dtype"] == "bfloat16"


def test_every_way_to_name_a_checkpoint(reader, tmp_path):
    (tmp_path / "run/checkpoints/latest").write_text("step_00000007\n")
    for name in ("run", "run/checkpoints", "run/checkpoints/latest", "run/checkpoints/step_00000007"):
        assert resolve(tmp_path / name) == reader.folder


@pytest.mark.parametrize(("name", "message"), [("nothing", "no such file or folder"), ("run", "neither a checkpoint")])
def test_names_of_no_checkpoint(tmp_path, name, message):
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=message):
        resolve(tmp_path / name)


def test_a_piece_that_nobody_wrote_is_noticed(tmp_path):
    piece = TensorPiece(key="w", whole_shape=(4,), box=Box((0,), (4,)), start=1, values=torch.zeros(3))
    record = write_rank_file(tmp_path, [piece], rank=0, save_id="this", step=1)
    with pytest.raises(InputError, match="the pieces of w are not its 4 numbers, each once"):
        finish_checkpoint(tmp_path, {}, {"step": 1}, {rank_file(0): record}, save_id="this")


def test_damage_is_named(reader):
    folder = reader.folder
    with pytest.raises(InputError, match="holds no tensor 'model/c': it is of another architecture"):
        reader.whole("model/c")
    file = folder / "rank_00001.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    with pytest.raises(InputError, match=r"rank_00001\.safetensors is truncated \(\d+ of \d+ bytes\)"):
        CheckpointReader(folder)
    file.write_bytes(b"\xff" * len(content))
    with pytest.raises(InputError, match=r"rank_00001\.safetensors is corrupted: \d+ bytes cannot hold the header"):
        CheckpointReader(folder).whole("model/a")
    file.unlink()
    with pytest.raises(InputError, match=r"rank_00001\.safetensors is missing: use another checkpoint"):
        CheckpointReader(folder)


def test_another_format_or_none(reader):
    manifest = reader.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": "other-2"}))
    expected = "has the format 'other-2', expected 'megaphi-checkpoint-3' or 'megaphi-checkpoint-2'"
    with pytest.raises(InputError, match=expected):
        CheckpointReader(reader.folder)
    manifest.write_text("{")
    with pytest.raises(InputError, match=r"checkpoint manifest .* is not valid JSON"):
        CheckpointReader(reader.folder)


OLD_MANIFEST = """{
 "format": "megaphi-checkpoint-2",
 "run": "0a1b2c3d4e5f",
 "step": 7,
 "files": {
  "rank_00000.safetensors": {
   "bytes": 8,
   "sha256": "0000000000000000000000000000000000000000000000000000000000000000"
  }
 },
 "sha256": "b048f1e007b7f92d38b67dead016be5ad630c1e24fe9ac3de72dac6167d3c100"
}
"""
"""As version 2 of the format wrote it."""


def test_a_manifest_of_the_format_before_is_read_and_its_damage_is_noticed(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(OLD_MANIFEST)
    found = read_manifest(tmp_path)
    assert (found.save_id, found.step, list(found.files)) == ("0a1b2c3d4e5f", 7, ["rank_00000.safetensors"])
    for damaged in (
        OLD_MANIFEST.replace("0a1b", "0a1c"),
        OLD_MANIFEST.replace('"run"', '"save_id"'),
        OLD_MANIFEST.replace("checkpoint-2", "checkpoint-3"),
        OLD_MANIFEST.replace(": 7", ": 8"),
    ):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"is corrupted.*: it has changed since it was written"):
            read_manifest(tmp_path)


def test_a_new_checkpoint_says_its_save_id_in_the_manifest_and_in_every_rank_file(reader):
    manifest = json.loads((reader.folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["save_id"]) == ("megaphi-checkpoint-3", "this")
    assert "run" not in manifest
    for path in reader.folder.glob("rank_*"):
        with TensorFile(path) as file:
            assert (file.metadata["save_id"], file.metadata["step"]) == ("this", "7")
            assert "run" not in file.metadata


def test_a_checkpoint_of_the_format_before_loads_and_a_foreign_rank_file_is_named(tmp_path, monkeypatch):
    """Version 2 called the save id `run`, in the manifest and in the header of every rank's file."""

    def metadata(pieces, *, save_id, step):
        return {"run": save_id, "step": str(step), "pieces": json.dumps(pieces)}

    def write(save_id: str) -> CheckpointReader:
        folder = tmp_path / save_id
        folder.mkdir()
        piece = TensorPiece(key="w", whole_shape=(3,), box=Box((0,), (3,)), start=0, values=torch.arange(3.0))
        files = {rank_file(0): write_rank_file(folder, [piece], rank=0, save_id=save_id, step=7)}
        finish_checkpoint(folder, {"recipe": "none"}, {"step": 7}, files, save_id=save_id)
        return CheckpointReader(folder)

    monkeypatch.setattr(manifest_module, "FORMAT", "megaphi-checkpoint-2")
    monkeypatch.setattr(format_module, "file_metadata", metadata)
    old, foreign = write("this"), write("that")
    assert json.loads((old.folder / "manifest.json").read_text())["run"] == "this"
    assert old.manifest.save_id == "this"
    assert old.whole("w").tolist() == [0, 1, 2]
    check_content(old.folder, old.manifest, rank_file(0))
    shutil.copy(foreign.folder / rank_file(0), old.folder)
    with pytest.raises(InputError, match=r"another save \(that\) wrote it at step 7"):
        check_content(old.folder, old.manifest, rank_file(0))
