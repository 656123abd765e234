"""Two ranks of the resume tests: three checkpoints, the newest corrupted in every way there is.

Nothing is trained: the checkpoints hold two tensors, each rank's file a half of each, and one carried file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from megaphi.checkpoint.box import Box
from megaphi.checkpoint.format import TensorPiece, finish_checkpoint, rank_file, write_rank_file
from megaphi.engine.saving.latest_checkpoint import newest_checkpoint
from megaphi.errors import InputError, ReportedElsewhere
from megaphi.files import write_text
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.world import World, start_world
from tests.engine.saving.saving_runs import listening

FILES = (
    "rank_00000.safetensors", "rank_00001.safetensors", "config.json", "state.json", "index.json", "manifest.json",
    "huggingface/tokenizer.json",
)  # fmt: skip


def write_checkpoints(folder: Path, *, save_id: str, steps: tuple[int, ...] = (10, 20, 30)) -> None:
    for step in steps:
        at = folder / f"step_{step:08d}"
        at.mkdir(parents=True)
        files = {}
        for rank in range(2):
            box = Box((4 * rank, 0), (4, 8))
            values = torch.arange(32.0) + 100 * step + rank
            pieces = [
                TensorPiece(key=f"model/{name}", whole_shape=(8, 8), box=box, start=0, values=values) for name in "ab"
            ]
            files[rank_file(rank)] = write_rank_file(at, pieces, rank=rank, save_id=save_id, step=step)
        carried = folder.parent / "tokenizer.json"
        carried.write_text('{"version": "1.0"}')
        finish_checkpoint(
            at, {"recipe": "none"}, {"step": step}, files, save_id=save_id, carried={"tokenizer.json": carried}
        )
    write_text(folder / "latest", f"step_{max(steps):08d}\n")


def flip(name: str, *, place: int) -> Callable[[Path], None]:
    def change(newest: Path) -> None:
        content = bytearray((newest / name).read_bytes())
        content[place] ^= 0x10
        (newest / name).write_bytes(content)

    return change


def cut(name: str) -> Callable[[Path], object]:
    return lambda newest: (newest / name).write_bytes((newest / name).read_bytes()[:-1])


def replace_shard(newest: Path) -> None:
    """The same step of another run: every size is right, and so is every header but for the save id."""
    write_checkpoints(newest.parent.parent / "another" / "checkpoints", save_id="that", steps=(30,))
    shutil.copy(newest.parent.parent / "another/checkpoints/step_00000030" / rank_file(1), newest / rank_file(1))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    **{f"a bit of {name}": flip(name, place=-3) for name in FILES},
    **{f"the first bit of {name}": flip(name, place=0) for name in FILES},
    **{f"missing {name}": lambda newest, name=name: (newest / name).unlink() for name in FILES},
    **{f"truncated {name}": cut(name) for name in FILES},
    "another run's shard": replace_shard,
    "an older shard": lambda newest: shutil.copy(newest.parent / "step_00000020" / rank_file(1), newest / rank_file(1)),
    "nothing in it": lambda newest: (shutil.rmtree(newest), newest.mkdir()),
    "latest names nothing": lambda newest: shutil.rmtree(newest),
    "latest is no name": lambda newest: (newest.parent / "latest").write_text("\0garbage"),
    "no latest": lambda newest: (newest.parent / "latest").unlink(),
    "latest was set back": lambda newest: (newest.parent / "latest").write_text("step_00000010\n"),
    "none": lambda newest: None,
    "all of them": lambda newest: [(path / "manifest.json").unlink() for path in newest.parent.glob("step_*")],
    "only latest is left": lambda newest: [shutil.rmtree(path) for path in newest.parent.glob("step_*")],
    "no checkpoints": lambda newest: shutil.rmtree(newest.parent),
    "a newer one in the fallback": lambda newest: write_checkpoints(fallback(newest), save_id="this", steps=(40,)),
    "an older one in the fallback": lambda newest: write_checkpoints(fallback(newest), save_id="this", steps=(30, 5)),
}


def fallback(newest: Path) -> Path:
    return newest.parent.parent / "fallback"


def find_under_all_damages(folder: str) -> dict[str, dict[str, Any]]:
    world = start_world(ParallelLayout(data=2), seed=0)
    return {name: find_after(name, Path(folder), world, verify=True) for name in DAMAGES} | {
        "sizes only": find_after("a bit of rank_00001.safetensors", Path(folder), world, verify=False)
    }


def find_after(name: str, folder: Path, world: World, *, verify: bool) -> dict[str, Any]:
    """Find the latest checkpoint after one was corrupted; returns it and what was logged."""
    if world.is_main:
        shutil.rmtree(folder, ignore_errors=True)
        write_checkpoints(folder / "checkpoints", save_id="this")
        DAMAGES[name](folder / "checkpoints" / "step_00000030")
    distributed.barrier()
    found, message = None, None
    with listening() as log:
        try:
            found = newest_checkpoint([folder / "checkpoints", folder / "fallback"], world, verify=verify)
        except (InputError, ReportedElsewhere) as error:
            message = str(error)
    distributed.barrier()
    return {"found": None if found is None else str(found.relative_to(folder)), "log": log, "message": message}
