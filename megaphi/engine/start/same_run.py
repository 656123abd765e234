"""Facts that must be the same on all ranks, or they would silently train different models or wait for ever.

Before the process groups are made (`run_facts`): every field of the configuration; every source file of megaphi, and
every other Python file that the recipe imports, by its bytes; versions of Python and of the packages; environment
variables that affect numbers or collectives; the compiled kernels, by their code. Once data and starting weights are
open: their contents, not their paths (`data_facts`, `weights_facts`). Not compared: paths, which may differ from host
to host; where megaphi is installed; threads, log levels, numbers of devices.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from random import Random

from megaphi.checkpoint.format import CheckpointReader
from megaphi.checkpoint.versions import PACKAGE, package_versions, source_files
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.config import leaves, to_plain
from megaphi.engine.run_config import RunConfig
from megaphi.engine.training_data import HeldOutData, TrainingData
from megaphi.foreign.files import read_small
from megaphi.kernels.contents import kernels_digest
from megaphi.kernels.loading import instruction_set
from megaphi.model.rows.weight_row import Weight
from megaphi.model.weights import weights_of
from megaphi.parallel.agreement import agree_on, agreed
from megaphi.parallel.rendezvous.differences import Facts
from megaphi.parallel.world import World

PLACES = ("folder", "paths", "file", "initial_checkpoint", "evaluation.data")
"""Last parts of the names of fields that hold paths."""
SAMPLED_ROWS = 16
"""Number of rows compared of every matrix of the initial weights: for 14B some 2,600 rows of 10 to 36 kB."""
VARIABLES = (
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_MAX_CONNECTIONS",
)
VARIABLES_OF = ("NVTE_",)


def run_facts(run: RunConfig) -> Facts:
    """Facts that must be the same before anything is opened: the configuration, and all of `code_facts`."""
    fields = {path: json.dumps(value) for path, value in leaves(to_plain(run)) if not path.endswith(PLACES)}
    return {**fields, **code_facts()}


def code_facts() -> dict[str, str]:
    """Facts of the program: its versions, its source files, its kernels, and its environment."""
    facts = {f"version of {name}": value for name, value in package_versions().items()}
    facts |= {f"source file megaphi/{name}": digest[:16] for name, digest in source_files().items()}
    facts |= {f"source file of module {name}": digest[:16] for name, digest in _other_modules().items()}
    facts["compiled kernels"] = (kernels_digest() or "")[:16] if instruction_set() else "not there"
    for name, value in sorted(os.environ.items()):
        if name in VARIABLES or name.startswith(VARIABLES_OF):
            facts[f"environment variable {name}"] = value
    return facts


def _other_modules() -> dict[str, str]:
    """Imported Python files that belong neither to Python, nor to an installed package, nor to megaphi."""
    python = tuple({sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or name == "sitecustomize":
            continue
        path = Path(file).absolute()
        installed = {"site-packages", "dist-packages"} & set(path.parts)
        if installed or str(path).startswith(python) or path.is_relative_to(PACKAGE) or not path.is_file():
            continue
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def agree_on_data(world: World, training: TrainingData, validation: HeldOutData | None) -> None:
    """End the job unless all ranks read the same data. Collective."""
    if world.size > 1:
        agree_on(world, agreed(world, lambda: data_facts({"training": training, "held-out": validation})))


def agree_on_weights(world: World, reader: WeightReader) -> None:
    """End the job unless all ranks start from the same weights. Collective."""
    if world.size > 1:
        agree_on(world, agreed(world, lambda: weights_facts(reader)))


def data_facts(splits: Mapping[str, TrainingData | HeldOutData | None]) -> Facts:
    """The content of the data, whatever its files are called."""
    facts: dict[str, str] = {}
    for split, data in splits.items():
        if data is not None:
            facts |= {f"{split} data, {name}": value for name, value in data.facts().items()}
    return facts


def weights_facts(reader: WeightReader) -> Facts:
    """Identity of the weights: a checkpoint's hashes; for other formats types, norms, and samples of every matrix.

    Another model differs in every weight, and another training of it in nearly every row. Damage to single rows of one
    host's copy can go unnoticed: to find it, every rank would have to read the whole file instead of its share.
    """
    facts = {f"starting weights, model.{path}": str(value) for path, value in leaves(to_plain(reader.architecture))}
    digest = hashlib.sha256()
    if isinstance(reader, CheckpointReader):
        for name, record in sorted(reader.manifest.files.items()):
            digest.update(f"{name} {record.sha256}\n".encode())
    else:
        for weight in weights_of(reader.architecture):
            digest.update(f"{weight.name} {reader.dtype(weight.name)}\n".encode())
            for start, end in sampled_rows(weight):
                digest.update(bytes(reader.rows(weight.name, start, end).float().numpy().data))
    carried = {name: hashlib.sha256(read_small(path)).hexdigest()[:16] for name, path in reader.carried.items()}
    return {**facts, "starting weights": digest.hexdigest()[:16], "files that came with them": json.dumps(carried)}


def sampled_rows(weight: Weight) -> list[tuple[int, int]]:
    """Rows [start, end) that represent a weight: the first, the last, and some between that depend on its name.

    A norm is compared whole: its rows are single numbers.
    """
    if weight.columns == 1 or weight.rows <= SAMPLED_ROWS:
        return [(0, weight.rows)]
    draw = Random(weight.name)
    between = draw.sample(range(1, weight.rows - 1), SAMPLED_ROWS - 2)
    return [(row, row + 1) for row in sorted((0, *between, weight.rows - 1))]
