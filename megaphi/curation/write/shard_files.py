"""Files of a writer: opened compressed, and put together under the numbers of their shards without being copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def open_lines(path: Path, *, level: int | None = 3) -> Iterator[IO[bytes]]:
    """A new file to write lines into, compressed with zstandard at `level`; None writes it plain."""
    with open(path, "wb") as file:
        if level is None:
            yield file
            return
        import zstandard

        with zstandard.ZstdCompressor(level=level).stream_writer(file, closefd=False) as packed:
            yield packed


def link_shard_files(folders: Sequence[Path], output: Path, *, name: str | None = None) -> None:
    """Put the file `name` of each shard, or the one that is there, into `output` as 00000.ENDING, 00001.ENDING, ...

    What is in a folder of the shard goes into a folder of that name. Files are linked, or copied where the file system
    has no links.
    """
    for number, folder in enumerate(folders):
        found = sorted(path for path in folder.rglob("*") if path.is_file()) if name is None else [folder / name]
        for path in found:
            inside = output / path.parent.relative_to(folder)
            inside.mkdir(exist_ok=True)
            target = inside / f"{number:05d}{path.name[path.name.index('.') :]}"
            try:
                os.link(path, target)
            except OSError:
                shutil.copyfile(path, target)
