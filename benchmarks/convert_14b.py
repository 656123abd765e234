"""A 14.66B model through a small machine: Hugging Face -> TP 2 x PP 2 checkpoint -> Hugging Face, against `cp`.

A random bf16 model of Phi-4's exact shape (29.3 GB, reproducible, written in a stream) is copied with cp, converted,
and deleted; the checkpoint is copied with cp, and converted back. Every tensor's SHA-256 must be what it was. Each
direction is one `megaphi convert` in a process of its own, its imports and its forcing to disk included, its peak
memory as the kernel counted it (VmHWM). cp is followed by sync, and what the system has cached of the files is dropped
before either reads them. At most two copies of the model exist at a time: 58.6 GB of disk.

    python benchmarks/convert_14b.py --folder /scratch/convert_14b             about a quarter of an hour
    python benchmarks/convert_14b.py --folder /scratch/convert_14b --layers 4  a trial
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from results_file import append_rows
from torch import Tensor

from megaphi.checkpoint.tensor_file import TensorFile
from megaphi.checkpoint.versions import short_commit
from megaphi.conversion.formats.huggingface.config import config_for, token_fields
from megaphi.conversion.formats.streaming import PlannedFile, row_blocks, write_files
from megaphi.conversion.formats.weight_names import our_table, their_shapes
from megaphi.files import write_json
from megaphi.model.architecture import PHI4_14B, Architecture

RESULTS = Path(__file__).parent / "results" / "convert_14b.csv"
ROOT = Path(__file__).parents[1]
COLUMNS = "date device commit torch parameters bytes direction seconds cp_seconds cp_ratio peak_MiB"
SHARD_BYTES = 5_000_000_000
MEASURED = """
import sys
from megaphi.cli import main
code = main(sys.argv[1:])
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
print("peak KiB", peak)
sys.exit(code)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    direction: str
    seconds: float
    cp_seconds: float
    peak_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="work folder; made, and removed at the end")
    parser.add_argument("--layers", type=int, default=PHI4_14B.layers, help="fewer for a trial")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/convert_14b.csv")
    arguments = parser.parse_args()
    model = dataclasses.replace(PHI4_14B, layers=arguments.layers, rotary_base=250_000.0)
    folder: Path = arguments.folder
    folder.mkdir(parents=True)
    try:
        rows, size = measure(model, folder)
    finally:
        shutil.rmtree(folder)
    for row in rows:
        print(
            f"{row.direction}: {row.seconds:.1f} s, {row.seconds / row.cp_seconds:.2f} x cp ({row.cp_seconds:.1f} s), "
            f"{size / row.seconds / 1e6:.0f} MB/s, peak {row.peak_mib:.0f} MiB"
        )
    if arguments.write:
        append(rows, model, size)


def measure(model: Architecture, folder: Path) -> tuple[list[Measured], int]:
    """Both directions, and the bytes of the weights; ends the program if a tensor comes back changed."""
    original, checkpoint, back = folder / "original", folder / "checkpoint", folder / "back"
    began = time.perf_counter()
    digests = make_model(model, original)
    size = sum(path.stat().st_size for path in original.glob("*.safetensors"))
    print(f"made {model.parameters:,} parameters, {size:,} bytes, in {time.perf_counter() - began:.0f} s", flush=True)
    cut = ["--tensor", "2", "--pipeline", "2"]
    rows = [convert("to-checkpoint", original, checkpoint, *cut), convert("to-huggingface", checkpoint, back)]
    found = {name: digest for path in sorted(back.glob("*.safetensors")) for name, digest in digests_of(path)}
    if found != digests:
        changed = [name for name in digests if found.get(name) != digests[name]]
        sys.exit(f"{len(changed)} of {len(digests)} tensors came back changed, {changed[:3]} first")
    print(f"all {len(digests)} tensors came back with the SHA-256 that they had", flush=True)
    return rows, size


def make_model(model: Architecture, folder: Path) -> dict[str, str]:
    """Write a Hugging Face folder of random finite bf16 numbers; returns every tensor's SHA-256."""
    folder.mkdir()
    write_json(folder / "config.json", config_for(model, dtype="bfloat16", context=16_384, tokens=token_fields(None)))
    shards: list[dict[str, tuple[torch.dtype, tuple[int, ...]]]] = [{}]
    for name, shape in their_shapes(model, our_table(model, "phi3")).items():
        if PlannedFile(tensors={**shards[-1], name: (torch.bfloat16, shape)}).bytes > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = (torch.bfloat16, shape)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    files = {name: PlannedFile(tensors=tensors) for name, tensors in zip(names, shards, strict=True)}
    weight_map = {tensor: name for name, file in files.items() for tensor in file.tensors}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    digests = {tensor: hashlib.sha256() for tensor in weight_map}

    def blocks() -> Iterator[tuple[str, Tensor]]:
        draw = np.random.Generator(np.random.SFC64(14))
        for name, file in files.items():
            for tensor, (_, (rows, *columns)) in file.tensors.items():
                width = columns[0] if columns else 1
                for start, end in row_blocks(0, rows, columns=width):
                    bits = draw.integers(0, 1 << 16, (end - start) * width, dtype=np.uint16)
                    bits &= np.uint16(0xBFFF)  # magnitudes below 2: neither infinite nor no number
                    digests[tensor].update(bits.data)
                    yield name, torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)

    write_files(folder, files, blocks(), label="make")
    return {tensor: digest.hexdigest() for tensor, digest in digests.items()}


def convert(direction: str, source: Path, out: Path, *options: str) -> Measured:
    """Copy the source with cp, delete the copy, convert the source, delete it."""
    drop_from_cache(source)
    copy = out.with_name("copy")
    began = time.perf_counter()
    subprocess.run(["cp", "-r", source, copy], check=True)
    subprocess.run(["sync", *(path for path in copy.rglob("*") if path.is_file()), copy], check=True)
    cp_seconds = time.perf_counter() - began
    shutil.rmtree(copy)
    drop_from_cache(source)
    command = [sys.executable, "-c", MEASURED, "convert", direction, str(source), str(out), *options]
    command += ["--no-tokenizer"] if direction == "to-huggingface" else []
    began = time.perf_counter()
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    seconds = time.perf_counter() - began
    shutil.rmtree(source)
    peak_mib = int(done.stdout.split()[-1]) / 1024
    measured = Measured(direction=direction, seconds=seconds, cp_seconds=cp_seconds, peak_mib=peak_mib)
    print(measured, flush=True)
    return measured


def drop_from_cache(folder: Path) -> None:
    """Files on disk are forgotten by the system's cache: the next reader waits for the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def digests_of(path: Path) -> Iterator[tuple[str, str]]:
    """SHA-256 of the bytes of every tensor of a file."""
    with TensorFile(path) as file:
        for name, entry in file.entries.items():
            digest = hashlib.sha256()
            for start, end in row_blocks(0, entry.numel, columns=1):
                digest.update(file.read(name, start, end).view(torch.uint8).numpy().tobytes())
            yield name, digest.hexdigest()


def append(rows: list[Measured], model: Architecture, size: int) -> None:
    """One line per direction: what was measured, where, with what."""
    stamp = [date.today().isoformat(), f"CPU, {os.cpu_count()} cores", short_commit()]
    stamp += [metadata.version("torch"), str(model.parameters), str(size)]
    for row in rows:
        ratio = f"{row.seconds / row.cp_seconds:.2f}"
        figures = [f"{row.seconds:.1f}", f"{row.cp_seconds:.1f}", ratio, f"{row.peak_mib:.0f}"]
        append_rows(RESULTS, COLUMNS.split(), [[*stamp, row.direction, *figures]])


if __name__ == "__main__":
    main()
