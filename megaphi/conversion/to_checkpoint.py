"""Conversion of weights of any origin to a checkpoint of any layout: one file per rank, filled block by block.

The files are those that the ranks of that layout would have written: names and boxes follow from the model's rows of
weights. The files of all tensor ranks of a pipeline stage are open at once, so a matrix that is cut by columns is read
once. Any layout loads any checkpoint; one written for the same layout is read fastest. There is no optimizer state.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from megaphi.checkpoint.box import Box
from megaphi.checkpoint.format import file_metadata, finish_checkpoint, piece_entry, rank_file
from megaphi.checkpoint.not_finite import NotFinite
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.conversion.formats.streaming import PlannedFile, check_space, row_blocks, wanted_dtype, write_files
from megaphi.conversion.open_weights import open_weights, refuse_unlisted_weights
from megaphi.files import whole_folder
from megaphi.model.architecture import Architecture
from megaphi.model.rows.weight_row import Weight
from megaphi.model.weights import pipeline_rank_of, weights_of
from megaphi.parallel.layout import ParallelLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadRange:
    """Rows of a weight's matrix form that are read together, and the columns of them that each tensor rank gets."""

    first: int
    end: int
    columns: Mapping[int, slice]


def to_checkpoint(
    source: WeightReader | str | Path,
    out: str | Path,
    *,
    layout: ParallelLayout | None = None,
    dtype: str | None = None,
) -> Path:
    """Write `out`, a checkpoint without optimizer state; it appears when it is complete.

    Memory stays below `streaming.MEMORY_CEILING_BYTES` over the imports.

    Args:
        source: where the weights are, as `open_weights` takes it, or a reader.
        out: must not exist, or be an empty folder.
        layout: its layout, by `tensor`, `pipeline`, `virtual_pipeline` and `stage_layers`; one file by default.
        dtype: "float32" or "bfloat16"; by default every weight keeps its own.

    Raises:
        InputError: the source is corrupted, the layout does not divide it, or `out` cannot be written.
    """
    reader = source if not isinstance(source, str | Path) else open_weights(source)
    layout, out = layout or ParallelLayout(), Path(out)
    save_id, step = secrets.token_hex(6), int(reader.state.get("step", 0))
    files = plan_checkpoint(reader, layout=layout, dtype=dtype, save_id=save_id)
    carried = reader.carried
    with whole_folder(out) as folder:
        check_space(out, files)
        strange = NotFinite()
        records = write_files(folder, files, _blocks(reader, layout, dtype, strange), label="convert")
        finish_checkpoint(
            folder,
            _configuration(reader.config, layout, dtype),
            {**reader.state, "step": step},
            records,
            save_id=save_id,
            carried=carried,
        )
    strange.say(reader.folder)
    return out


def plan_checkpoint(
    reader: WeightReader, *, layout: ParallelLayout, dtype: str | None, save_id: str = ""
) -> dict[str, PlannedFile]:
    """Plan the files of a checkpoint. Raises InputError for weights that cannot be converted."""
    refuse_unlisted_weights(reader)
    model = reader.architecture
    check_layout(model, layout)
    step = int(reader.state.get("step", 0))
    files = {}
    for stage, weights in enumerate(_stages(reader, layout)):
        for rank in range(layout.tensor):
            tensors, pieces = {}, {}
            for weight in weights:
                box = Box(*weight.share(tensor=layout.tensor, rank=rank))
                if box.numel and (weight.cut is not None or rank == 0):
                    kind = wanted_dtype(reader.dtype(weight.name), dtype, what=f"{reader.folder}: {weight.name}")
                    tensors[f"model/{weight.name}"] = (kind, (box.numel,))
                    pieces[f"model/{weight.name}"] = piece_entry(weight.shape, box, start=0, end=box.numel)
            metadata = file_metadata(pieces, save_id=save_id, step=step)
            files[_file_of(stage, rank, layout)] = PlannedFile(tensors=tensors, metadata=metadata)
    return files


def check_layout(model: Architecture, layout: ParallelLayout) -> None:
    """Refuse a layout that does not divide the model."""
    layout.for_world(layout.model_ranks).check_model(
        layers=model.layers,
        heads=model.heads,
        feed_forward=model.feed_forward,
        sequence_length=1,
    )


def _file_of(stage: int, rank: int, layout: ParallelLayout) -> str:
    return rank_file(stage * layout.tensor + rank)


def _stages(reader: WeightReader, layout: ParallelLayout) -> list[list[Weight]]:
    """Weights of every pipeline rank, wide types first, so that all tensors of a file are aligned."""
    stages: list[list[Weight]] = [[] for _ in range(layout.pipeline)]
    for weight in weights_of(reader.architecture):
        stages[pipeline_rank_of(weight, reader.architecture, layout)].append(weight)
    return [sorted(weights, key=lambda weight: -reader.dtype(weight.name).itemsize) for weights in stages]


def _blocks(
    reader: WeightReader, layout: ParallelLayout, dtype: str | None, strange: NotFinite
) -> Iterator[tuple[str, Tensor]]:
    """(file, next values of it), in the order of the files' tensors."""
    for stage, weights in enumerate(_stages(reader, layout)):
        for weight in weights:
            kind = wanted_dtype(reader.dtype(weight.name), dtype, what=f"{reader.folder}: {weight.name}")
            for each in read_ranges(weight, tensor=layout.tensor):
                for start, end in row_blocks(each.first, each.end, columns=weight.columns):
                    values = strange.look(weight.name, reader.rows(weight.name, start, end).to(kind))
                    for rank, columns in each.columns.items():
                        yield _file_of(stage, rank, layout), _taken(values, columns)


def _taken(values: Tensor, columns: slice) -> Tensor:
    return (values if values.dim() == 1 else values[:, columns]).contiguous()


def read_ranges(weight: Weight, *, tensor: int) -> Iterator[ReadRange]:
    """Split a weight's matrix form, from its first row to its last, by the tensor ranks that hold it."""
    everything = slice(0, weight.columns)
    if weight.cut is None:
        yield ReadRange(first=0, end=weight.rows, columns={0: everything})
        return
    shares = [weight.share(tensor=tensor, rank=rank) for rank in range(tensor)]
    starts, sizes = ([share[kind][weight.cut] for share in shares] for kind in (0, 1))
    if weight.is_cut_by_columns:
        columns = {rank: slice(starts[rank], starts[rank] + sizes[rank]) for rank in range(tensor)}
        yield ReadRange(first=0, end=weight.rows, columns=columns)
        return
    for above in range(0, weight.rows, weight.shape[weight.cut]):  # the SwiGLU matrix: gates, then the rest
        for rank in range(tensor):
            first = above + starts[rank]
            yield ReadRange(first=first, end=first + sizes[rank], columns={rank: everything})


def _configuration(config: Mapping[str, Any], layout: ParallelLayout, dtype: str | None) -> dict[str, Any]:
    """The source's run configuration, with the layout and number format of this checkpoint."""
    cut = {name: getattr(layout, name) for name in ("tensor", "pipeline", "virtual_pipeline")}
    cut["stage_layers"] = list(layout.stage_layers)
    changed = {**config, "layout": {**config.get("layout", {}), **cut}}
    if dtype is not None:
        changed["precision"] = {**config.get("precision", {}), "parameters": dtype}
    return changed
