"""The CUDA kernels on a CPU: csrc/cuda compiled as C++ over tests/kernels/emulator, in the place of the CPU kernels.

What the kernels compute, and whether barriers are missing, shows without a GPU; what it costs does not.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import megaphi
from megaphi import _C as kernels  # noqa: N811
from megaphi.kernels import loading

ROOT = Path(__file__).parents[2]
EMULATOR = Path(__file__).parent / "emulator"
BUILT = ROOT / "build" / "emulated_cuda"
# No strict aliasing: nvcc knows none. Contraction to fused multiply-adds is what nvcc does too.
FLAGS = ["-O2", "-std=c++17", "-march=native", "-fPIC", "-fno-strict-aliasing", "-w"]
NOT_CPLUSPLUS = (
    (
        r"kernel<<<grid, block, 0, static_cast<cudaStream_t>\(stream\)>>>\(",
        "emulate(kernel, grid, block, ",
        "launch.cuh",
    ),
    (r"asm\(\"ex2\.approx\.ftz\.f32 .*;", "result = exp2f(value * 1.4426950408889634f);", "reduction.cuh"),
)
"""(pattern, replacement, file): what only nvcc understands; each is there once."""


def built() -> ctypes.CDLL:
    """All of csrc/cuda as a library, compiled once for these sources, this compiler and this processor, and kept."""
    library = BUILT / f"{_identity()}.so"
    BUILT.mkdir(parents=True, exist_ok=True)
    with open(BUILT / "lock", "w") as lock:  # workers of pytest-xdist want it at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            with TemporaryDirectory(dir=BUILT) as folder:
                os.replace(_build(Path(folder)), library)
    return ctypes.CDLL(str(library))


def _identity() -> str:
    """A digest of everything that the library is made of."""
    compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True).stdout
    flags = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")][:1]
    digest = hashlib.sha256(repr((compiler, flags, FLAGS, NOT_CPLUSPLUS)).encode())
    for path in [ROOT / "csrc" / "kernels.h", *sorted((ROOT / "csrc" / "cuda").iterdir()), *sorted(EMULATOR.iterdir())]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:24]


def _build(folder: Path) -> Path:
    """Compile all of csrc/cuda into a library in `folder`."""
    source = folder / "csrc" / "cuda"
    source.mkdir(parents=True)
    (folder / "csrc" / "kernels.h").write_bytes((ROOT / "csrc" / "kernels.h").read_bytes())
    for path in (ROOT / "csrc" / "cuda").glob("*.cu*"):
        (source / path.name).write_text(path.read_text())
    (source / "kernels_cuda.h").write_text((ROOT / "csrc" / "cuda" / "kernels_cuda.h").read_text())
    for pattern, replacement, name in NOT_CPLUSPLUS:
        text, count = re.subn(pattern, lambda _, new=replacement: new, (source / name).read_text())
        assert count == 1, f"{name}: {pattern}"
        (source / name).write_text(text)
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda path: _compile(path, folder), [*source.glob("*.cu"), EMULATOR / "emulator.cpp"]))
    library = folder / "emulated_cuda.so"
    _run(["c++", "-shared", *map(str, objects), "-o", str(library)])
    return library


def _compile(path: Path, folder: Path) -> Path:
    target = folder / f"{path.stem}.o"
    _run(["c++", *FLAGS, f"-I{EMULATOR}", "-x", "c++", "-c", str(path), "-o", str(target)])
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


@contextmanager
def in_place_of_the_cpu_kernels(library: ctypes.CDLL) -> Iterator[None]:
    """Operators on CPU tensors run the emulated kernels, those of them that their self-tests let through."""
    library.megaphi_cuda_kernels.restype = ctypes.c_void_p
    table = library.megaphi_cuda_kernels()
    get_table = ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: table)
    # csrc/bind/attachment.h: how to get the CPU's table, how to share work out, the CUDA table.
    usual = (ctypes.c_void_p * 3).from_address(kernels.attachment)
    emulated = (ctypes.c_void_p * 3)(ctypes.cast(get_table, ctypes.c_void_p), usual[1], None)
    torch_half = Path(megaphi.__file__).parent / f"_T{sysconfig.get_config_var('EXT_SUFFIX')}"
    attach = ctypes.CDLL(str(torch_half)).megaphi_attach
    verdicts = dict(loading._verdicts)
    loading._verdicts.clear()
    loading._load()  # which attaches the usual ones, once
    try:
        attach(ctypes.c_void_p(ctypes.addressof(emulated)))
        yield
    finally:
        attach(ctypes.c_void_p(kernels.attachment))
        loading._verdicts.clear()
        loading._verdicts.update(verdicts)
