"""The small files beside a model's weights, which imports and exports carry along.

An import copies them into the checkpoint's folder `huggingface/`, where the manifest covers them; an export writes them
back. Only files of known names are carried, and never code: a tokenizer that needs Python files of its own loses them,
and config.json loses the field that names them.
"""

from __future__ import annotations

from pathlib import Path

from megaphi.errors import InputError
from megaphi.foreign.files import SMALL_BYTES, refuse_link_outside
from megaphi.tokenizer.open_tokenizer import TOKENIZER_FILES

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
CARRIED = (CONFIG, GENERATION_CONFIG, *TOKENIZER_FILES, "LICENSE")


def carried_files(folder: Path) -> dict[str, Path]:
    """Name -> path of the files of a Hugging Face folder that are carried along.

    Raises:
        InputError: a file is larger than a file of its name should be, or a link out of the folder.
    """
    found = {name: refuse_link_outside(folder / name) for name in CARRIED if (folder / name).is_file()}
    for path in found.values():
        if (size := path.stat().st_size) > SMALL_BYTES:
            raise InputError(f"{path} has {size:,} bytes, expected at most {SMALL_BYTES:,}: is it really that file?")
    return found
