"""Export of weights of any origin to a Hugging Face folder, for `Phi3ForCausalLM` and all servers of Phi-3 and Phi-4.

The weights stream from the source in blocks of rows, whatever layout wrote it, into safetensors files of about 5 GB.
The folder also holds config.json, generation_config.json and the tokenizer: the files that the model came with, or
Phi-4's if it was trained with that. A model without a tokenizer is exported without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from megaphi.checkpoint.model_tokenizer import context_of, tokenizer_of
from megaphi.checkpoint.not_finite import NotFinite
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.conversion.formats.huggingface.config import (
    config_for,
    generation_config_for,
    refuse_other_fields,
    token_fields,
)
from megaphi.conversion.formats.huggingface.form import form_for
from megaphi.conversion.formats.huggingface.weights import INDEX, ONE_FILE
from megaphi.conversion.formats.side_files import CARRIED, CONFIG, GENERATION_CONFIG, TOKENIZER_FILES
from megaphi.conversion.formats.streaming import PlannedFile, check_space, row_blocks, wanted_dtype, write_files
from megaphi.conversion.formats.weight_names import Table, our_table, their_shapes, their_table
from megaphi.conversion.open_weights import open_weights, refuse_unlisted_weights
from megaphi.files import copy_files, read_object, whole_folder, write_json
from megaphi.log import logger
from megaphi.model.architecture import Architecture
from megaphi.model.weights import EMBEDDING, weights_of
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.open_tokenizer import VOCABULARIES
from megaphi.tokenizer.phi4 import Phi4Tokenizer
from megaphi.tokenizer.tokenizer_files import end_tokens

SHARD_BYTES = 5_000_000_000


def to_huggingface(
    source: WeightReader | str | Path,
    out: str | Path,
    *,
    tokenizer: bool = True,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write `out`; it appears when it is complete.

    Memory stays below `streaming.MEMORY_CEILING_BYTES` over the imports.

    Args:
        source: where the weights are, as `open_weights` takes it, or a reader.
        out: must not exist, or be an empty folder.
        tokenizer: write the tokenizer's files too.
        dtype: "float32" or "bfloat16"; by default every weight keeps its own.
        shard_bytes: largest size of one safetensors file.

    Raises:
        InputError: the source is corrupted, `out` cannot be written, or the formats cannot express it.
    """
    reader, out = source if not isinstance(source, str | Path) else open_weights(source), Path(out)
    files = plan_huggingface(reader, dtype=dtype, shard_bytes=shard_bytes)
    carried = _fitting(reader.carried, reader.architecture)
    own = _own_tokenizer(reader, carried)
    if not tokenizer:
        carried = {name: path for name, path in carried.items() if name not in TOKENIZER_FILES}
    has_files = bool(carried.keys() & set(VOCABULARIES))
    if tokenizer and own is None and not has_files:
        logger.info("%s came without a tokenizer: it is exported without one", reader.folder)
    with whole_folder(out) as folder:
        check_space(out, files)
        strange = NotFinite()
        write_files(folder, files, _blocks(reader, files, dtype, strange), label="convert", hashed=False)
        if len(files) > 1:
            write_json(folder / INDEX, _index(files))
        _write_configuration(reader, own, folder, carried, dtype=dtype)
        copy_files({name: path for name, path in carried.items() if not (folder / name).exists()}, folder)
        if tokenizer and not has_files and isinstance(own, Phi4Tokenizer):
            export_tokenizer(own, folder, model_max_length=context_of(reader))
    strange.say(reader.folder)
    return out


def plan_huggingface(
    reader: WeightReader, *, dtype: str | None, shard_bytes: int = SHARD_BYTES
) -> dict[str, PlannedFile]:
    """Plan the safetensors files of an export. Raises InputError for weights that cannot be exported."""
    refuse_unlisted_weights(reader)
    refuse_other_fields(reader.architecture)
    shards: list[dict[str, Any]] = [{}]
    shapes = their_shapes(reader.architecture, our_table(reader.architecture, form_for(reader.architecture).naming))
    for name, segments in _their_table(reader.architecture).items():
        ours = segments[0].tensor
        tensor = {name: (wanted_dtype(reader.dtype(ours), dtype, what=f"{reader.folder}: {ours}"), shapes[name])}
        if shards[-1] and PlannedFile(tensors={**shards[-1], **tensor}).bytes > shard_bytes:
            shards.append({})
        shards[-1].update(tensor)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [ONE_FILE]
    return {
        name: PlannedFile(tensors=tensors, metadata={"format": "pt"})
        for name, tensors in zip(names, shards, strict=True)
    }


def _their_table(model: Architecture) -> Table:
    return their_table(our_table(model, form_for(model).naming))


def _blocks(
    reader: WeightReader, files: dict[str, PlannedFile], dtype: str | None, strange: NotFinite
) -> Iterator[tuple[str, Tensor]]:
    """(file, next values of it), in the order of the files' tensors."""
    table = _their_table(reader.architecture)
    columns = {weight.name: weight.columns for weight in weights_of(reader.architecture)}
    for name, file in files.items():
        for tensor, (kind, _) in file.tensors.items():
            for segment in table[tensor]:
                ours, end = segment.tensor, segment.first + segment.rows
                for start, stop in row_blocks(segment.first, end, columns=columns[ours]):
                    yield name, strange.look(ours, reader.rows(ours, start, stop).to(kind))


def _index(files: dict[str, PlannedFile]) -> dict[str, Any]:
    return {
        "metadata": {"total_size": sum(file.bytes for file in files.values())},
        "weight_map": {tensor: name for name, file in files.items() for tensor in file.tensors},
    }


def _fitting(carried: Mapping[str, Path], model: Architecture) -> dict[str, Path]:
    """Side files to write; those that came with a model are left out if its vocabulary has changed."""
    carried = {name: path for name, path in carried.items() if name in CARRIED}
    if CONFIG not in carried:
        return carried
    vocabulary = read_object(carried[CONFIG], what="Hugging Face configuration").get("vocab_size")
    return carried if vocabulary == model.vocabulary else {}


def _write_configuration(
    reader: WeightReader, own: Tokenizer | None, folder: Path, carried: dict[str, Path], *, dtype: str | None
) -> None:
    """Write config.json and generation_config.json, byte for byte as the model came with them if they still hold."""
    model, where = reader.architecture, str(carried.get(CONFIG, ""))
    original = read_object(where, what="Hugging Face configuration") if where else None
    stored = dtype or str(reader.dtype(EMBEDDING)).removeprefix("torch.")
    config = config_for(
        model,
        dtype=stored,
        context=context_of(reader),
        tokens=token_fields(own),
        original=original,
        where=where,
    )
    if config != original:
        write_json(folder / CONFIG, config)
    came = carried.get(GENERATION_CONFIG)
    before = None if came is None else read_object(came, what="generation configuration")
    after = _with_ends(reader, generation_config_for(own, config) if before is None else before)
    if after != before:
        write_json(folder / GENERATION_CONFIG, after)


def _with_ends(reader: WeightReader, generation: Mapping[str, Any]) -> Mapping[str, Any]:
    """generation_config.json that also names, for a model trained here, the tokens that end its texts now.

    A base model's file names the end of a document, while answers of the chat model made from it end with another
    token.
    """
    tokenizer = tokenizer_of(reader) if reader.state.get("step") else None
    ends = end_tokens(generation)
    if tokenizer is None or {tokenizer.end_of_text, tokenizer.message_end} <= ends:
        return generation
    return {**generation, "eos_token_id": sorted({*ends, tokenizer.end_of_text, tokenizer.message_end})}


def _own_tokenizer(reader: WeightReader, carried: Mapping[str, Path]) -> Tokenizer | None:
    """The model's tokenizer, if its files or ids have to be written; None if it has none."""
    if CONFIG in carried and carried.keys() & set(VOCABULARIES):
        return None  # they say all of it, and are copied
    return tokenizer_of(reader)
