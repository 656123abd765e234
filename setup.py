"""Compile csrc/ into two modules: `_C`, the kernels and the data path, and `_T`, which binds the kernels to torch.

`_C` needs a C++ compiler and nothing else; with nvcc and a CUDA build of torch it holds the CUDA kernels too. megaphi
cannot read its data without it, so an installation without a compiler fails and says so. `_T` needs torch's headers,
which are found by path: pip's isolated build hides the installed torch, and asking for one there would download
gigabytes. Where it cannot be built it is left out with a warning: models then run on PyTorch's operators. Everything
else about the package is in pyproject.toml.

    MEGAPHI_CUDA=auto|0|1     CUDA kernels when nvcc and a CUDA torch are there (default), never, or fail without nvcc
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import warnings
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from pybind11 import get_include
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

STABLE_ABI = "0x020a000000000000"  # torch 2.10 and newer
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
INSTRUCTION_SETS = {"base": []}
if IS_X86:
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma".split()
    INSTRUCTION_SETS["avx512"].append("-mprefer-vector-width=512")
# No -ffast-math: linked into a library it changes the floating point mode of the whole process, and NaN must stay NaN.
FAST = "-O3 -fopenmp-simd -fno-math-errno -fno-trapping-math -fno-signed-zeros -ffp-contract=fast".split()
# Machine code for Ampere and for Hopper's own instructions; PTX of Hopper's common ones, which the driver compiles for
# whatever comes later: sm_90a's code runs on Hopper alone.
GPU_TARGETS = ["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_90,code=compute_90"]
# Code that was compiled in another folder is the same code: ranks compare it (megaphi/kernels/contents.py).
NO_PATHS = ["-g0", f"-fmacro-prefix-map={get_include()}=pybind11"]
BOUND_PARTS = ("python", "order", "reader", "megatron_order", "text")
OPENMP = [] if sys.platform == "darwin" else ["-fopenmp"]  # Apple's compiler brings none: there torch's pool does it


def find_torch() -> Path | None:
    """The torch that will be there at run time, looked for without importing it.

    `sys.path` comes first, as in an import: it knows a torch that PYTHONPATH names, or that an environment inherits
    (venv --system-site-packages). In pip's isolated build it holds nothing of the environment: its own folders follow.
    """
    own = [sysconfig.get_paths()[name] for name in ("purelib", "platlib")]
    for place in (*sys.path, *own):
        folder = Path(place) / "torch"
        if (folder / "include/torch/csrc/stable/library.h").is_file():
            return folder
    return None


def find_cuda(torch: Path | None) -> Path | None:
    """The CUDA toolkit to build with, as MEGAPHI_CUDA says."""
    wish = os.environ.get("MEGAPHI_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        raise SystemExit(f"MEGAPHI_CUDA={wish!r}: must be auto, 0 or 1")
    has_cuda_torch = torch is not None and (torch / "lib/libtorch_cuda.so").exists()
    if wish == "0" or (wish == "auto" and not has_cuda_torch):
        return None
    on_path = shutil.which("nvcc")
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if on_path is not None:
        places.append(str(Path(on_path).resolve().parents[1]))
    for place in places:
        if place and (Path(place) / "bin/nvcc").is_file():
            return Path(place)
    if wish == "1":
        raise SystemExit("MEGAPHI_CUDA=1, but there is no nvcc: set CUDA_HOME to the CUDA toolkit")
    return None


TORCH = find_torch()
CUDA = find_cuda(TORCH)
WITH_CUDA = ["-DMEGAPHI_WITH_CUDA"] if CUDA is not None else []


def modules() -> list[Extension]:
    """`_C`, and `_T` where torch's headers are."""
    depends = [str(path) for path in Path("csrc").rglob("*") if path.is_file()]
    found = [
        Extension(
            "megaphi._C",
            ["csrc/cpu/choose.cpp", *(f"csrc/bind/{name}.cpp" for name in BOUND_PARTS)],
            include_dirs=[get_include()],
            extra_compile_args=["-std=c++17", "-O2", "-fvisibility=hidden", *NO_PATHS, *OPENMP, *WITH_CUDA]
            + (["-DMEGAPHI_X86"] if IS_X86 else []),
            extra_link_args=OPENMP,
            depends=depends,
            language="c++",
        )
    ]
    if TORCH is not None:
        cuda_libraries = ["torch_cuda"] if CUDA is not None else []
        found.append(
            Extension(
                "megaphi._T",
                ["csrc/bind/torch_operators.cpp"],
                include_dirs=[str(TORCH / "include"), str(TORCH / "include/torch/csrc/api/include")],
                library_dirs=[str(TORCH / "lib")],
                libraries=["torch", "torch_cpu", "c10", *cuda_libraries],
                extra_compile_args=[
                    *("-std=c++20", "-O2", f"-DTORCH_TARGET_VERSION={STABLE_ABI}"),
                    *(*WITH_CUDA, *NO_PATHS, f"-fmacro-prefix-map={TORCH}=torch"),
                ],
                depends=depends,
                language="c++",
                optional=os.environ.get("MEGAPHI_CUDA") != "1",  # who insists on CUDA wants to see the error
            )
        )
    return found


class BuildKernels(build_ext):
    """Compiles the kernels once per instruction set, and the CUDA ones, beside what setuptools compiles by itself."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # Objects of another torch, another CUDA or other flags must not be taken for ours.
        key = sha256(repr((TORCH, CUDA, FAST, INSTRUCTION_SETS, GPU_TARGETS)).encode()).hexdigest()[:12]
        self.build_temp = str(Path(self.build_temp) / key)
        self.force = True

    def build_extension(self, ext: Extension) -> None:
        if ext.name != "megaphi._C":
            super().build_extension(ext)
            return
        try:
            self.build_kernels(ext)
            super().build_extension(ext)
        except (CompileError, LinkError) as error:
            raise CompileError(
                f"megaphi needs a C++17 compiler, and this one failed: {error}. Install one (Debian, Ubuntu: apt"
                " install g++) or name yours in CC and CXX. If nvcc failed: MEGAPHI_CUDA=0 leaves its kernels out"
            ) from error

    def build_kernels(self, ext: Extension) -> None:
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        compiler = self.compiler.compiler_so_cxx[0]
        ext.define_macros.append(("MEGAPHI_COMPILER", f'"{compiler}"'))
        commands = [self.cpu_command(name, flags) for name, flags in INSTRUCTION_SETS.items()]
        if CUDA is not None:
            commands += [self.cuda_command(CUDA, source) for source in sorted(Path("csrc/cuda").glob("*.cu"))]
            ext.library_dirs.append(str(CUDA / "lib64"))
            ext.libraries += ["cudart_static", "rt", "dl", "pthread"]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects += pool.map(run, commands)

    def cpu_command(self, name: str, flags: list[str]) -> list[str]:
        out = str(Path(self.build_temp) / f"{name}.o")
        names = [f"-DMEGAPHI_INSTRUCTION_SET={name}", "-std=c++17", "-fPIC", "-fvisibility=hidden"]
        return [*self.compiler.compiler_so_cxx[:1], *FAST, *flags, *names, "-c", "csrc/cpu/table.cpp", "-o", out]

    def cuda_command(self, cuda: Path, source: Path) -> list[str]:
        targets = [f"-gencode={target}" for target in GPU_TARGETS]
        warnings_as_errors = ["-Xptxas", "-warn-spills,-warn-lmem-usage,-Werror"]
        out = str(Path(self.build_temp) / f"{source.name}.o")
        flags = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC,-fvisibility=hidden", *warnings_as_errors]
        return [str(cuda / "bin/nvcc"), *flags, *targets, "-c", str(source), "-o", out]


def run(command: list[str]) -> str:
    """Run a compiler; returns the object that it wrote."""
    print(" ".join(command), flush=True)
    try:
        status = subprocess.run(command, check=False).returncode
    except OSError as error:
        raise CompileError(str(error)) from error
    if status:
        raise CompileError(f"{command[0]} ended with status {status}")
    return command[-1]


if TORCH is None:
    warnings.warn("torch is not installed here: building megaphi without its torch operators", stacklevel=1)
setup(ext_modules=modules(), cmdclass={"build_ext": BuildKernels})
