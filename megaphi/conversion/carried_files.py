"""The small files around a model, which travel with its weights there and back.

An import puts a copy of them into the checkpoint's folder `huggingface/`, where the manifest covers them; an export
writes them back. Only files of known names, and never code: a tokenizer that needs Python files of its own is not
carried whole, and config.json loses the field that names them.
"""

from __future__ import annotations

from pathlib import Path

from megaphi.conversion.huggingface_weights import CONFIG, HuggingFaceWeights
from megaphi.engine.checkpoint_files import CheckpointReader
from megaphi.engine.manifest import check_content
from megaphi.engine.weight_reader import WeightReader
from megaphi.errors import InputError
from megaphi.files import explain_write_errors, whole_file

FOLDER = "huggingface"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json merges.txt"
    " tokenizer.model chat_template.jinja chat_template.json"
).split()
CARRIED = (CONFIG, GENERATION_CONFIG, *TOKENIZER_FILES, "LICENSE")
LARGEST_BYTES = 1 << 26


def carried_files(reader: WeightReader) -> dict[str, Path]:
    """Name -> where it lies, of the files that came with a model; none for formats that have none.

    Raises:
        InputError: a checkpoint's copy is damaged, or a file is larger than a file of its name should be.
    """
    folder = reader.folder if isinstance(reader, HuggingFaceWeights) else reader.folder / FOLDER
    found = {name: folder / name for name in CARRIED if (folder / name).is_file()}
    if isinstance(reader, CheckpointReader):
        found = {name: path for name, path in found.items() if f"{FOLDER}/{name}" in reader.manifest.files}
        for name in found:
            check_content(reader.folder, reader.manifest, f"{FOLDER}/{name}")
    for path in found.values():
        if (size := path.stat().st_size) > LARGEST_BYTES:
            raise InputError(
                f"{path} has {size:,} bytes, expected at most {LARGEST_BYTES:,}: is it what its name says?"
            )
    return found


def copy_files(files: dict[str, Path], folder: Path) -> None:
    """Write copies, byte for byte."""
    with explain_write_errors(folder):
        folder.mkdir(exist_ok=True)
    for name, path in files.items():
        with whole_file(folder / name) as file:
            file.write(path.read_bytes())
