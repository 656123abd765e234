"""The CUDA kernels are built for two GPUs and called without one.

Every csrc/cuda/*.cu is compiled for Ampere (sm_80), Hopper (sm_90a) and, as PTX, for what comes later, as setup.py
says, with spills and local memory as errors, and what ptxas says of each kernel's registers is held against
csrc/cuda/registers.txt. The objects are linked and loaded, and every launcher of the table is called: where there is no
GPU it must say so by a status, and must not crash. What the kernels compute is not checked here. Skipped where there is
no nvcc; the argument structs are read from csrc/kernels.h.
"""

from __future__ import annotations

import ast
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from struct import pack, unpack_from
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build" / "cuda_kernels"
VERDICTS = "verdicts.json"
CUDA_SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHITECTURES = ("sm_80", "sm_90a")
TARGETS = ast.literal_eval(
    next(
        node.value
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "GPU_TARGETS"
    )
)
FLAGS = [
    *("-O3", "-std=c++17", "-Xcompiler", "-fPIC"),
    *(f"-gencode={target}" for target in TARGETS),
    *("-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror"),
]
UNSUPPORTED = 801  # cudaErrorNotSupported
F32, BF16, F16, F64 = range(4)
NO_GPU_STATUSES = {3, 34, 35, 36, 46, 100, 101, 999}  # cudaError_t: initialisation, stubs, drivers, devices
SPILLING_KERNEL = """
__global__ void __launch_bounds__(1024, 2) spills(float* x) {  // 32 registers for 64 live values
  float value[64];
  for (int i = 0; i < 64; ++i) value[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 64; ++i) x[(63 - i) * 1024 + threadIdx.x] = value[i] * value[(i * 7 + 1) % 64];
}
"""


class Verdict(NamedTuple):
    """Outcome of compiling one source."""

    returncode: int
    stdout: str


@dataclass(frozen=True)
class Build:
    """Result of compiling: the compiler's output per source, and the folder of the objects."""

    nvcc: str
    folder: Path
    results: dict[str, Verdict]


def find_nvcc() -> str | None:
    """In CUDA_HOME, the usual place, PATH, or a wheel such as nvidia-cuda-nvcc."""
    packages = Path(sysconfig.get_paths()["purelib"])
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    candidates = [Path(home) / "bin" / "nvcc" for home in homes if home]
    on_path = shutil.which("nvcc")
    candidates += [Path(on_path)] if on_path else []
    candidates += sorted(packages.glob("nvidia/*/bin/nvcc"))
    return next((str(path) for path in candidates if os.access(path, os.X_OK)), None)


def compile_source(nvcc: str, source: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [nvcc, *FLAGS, "-c", str(source), "-o", str(folder / f"{source.stem}.o")]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)


@pytest.fixture(scope="session")
def nvcc() -> str:
    found = find_nvcc()
    if found is None:
        pytest.skip("no nvcc in CUDA_HOME, /usr/local/cuda, PATH or the nvidia-cuda-nvcc wheel")
    return found


@pytest.fixture(scope="session")
def build(nvcc: str) -> Build:
    """Compiled once for these sources, flags and this nvcc, and kept, as the emulated kernels are."""
    folder = BUILT / identity(nvcc)
    BUILT.mkdir(parents=True, exist_ok=True)
    with open(BUILT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = BUILT / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            compile_all(nvcc, unfinished)
            unfinished.rename(folder)
    verdicts = json.loads((folder / VERDICTS).read_text())
    return Build(nvcc, folder, {name: Verdict(*verdict) for name, verdict in verdicts.items()})


def identity(nvcc: str) -> str:
    """A digest of everything that the objects are made of."""
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(repr((version, FLAGS)).encode())
    for path in sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:24]


def compile_all(nvcc: str, folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda source: compile_source(nvcc, source, folder), CUDA_SOURCES)
        verdicts = {path.name: (one.returncode, one.stdout) for path, one in zip(CUDA_SOURCES, results, strict=True)}
    (folder / VERDICTS).write_text(json.dumps(verdicts))


@pytest.fixture(scope="session")
def library(build: Build, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("cuda") / "libmegaphi_cuda.so"
    objects = [str(build.folder / f"{source.stem}.o") for source in CUDA_SOURCES]
    of_a_wheel = f"-L{Path(build.nvcc).parents[1] / 'lib'}"  # toolkits have lib64, which nvcc knows
    command = [build.nvcc, "-shared", "-cudart", "static", *objects, "-o", str(target), of_a_wheel]
    command += ["-lrt", "-ldl", "-lpthread"]
    linked = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    assert linked.returncode == 0, linked.stdout
    return ctypes.CDLL(str(target))


def kernel_name(mangled: str) -> str | None:
    """`softmax_forward_resident<16-bit,8,2,Block>` from the mangled name; bf16 and f16 share a ceiling."""
    prefix = re.match(r"_ZN7megaphi4cuda(\d+)", mangled)
    if prefix is None:
        return None
    rest = mangled[prefix.end() :]
    length = int(prefix[1])
    arguments = re.match(r"I(f|6__half|13__nv_bfloat16)((?:Li\d+E)*)(?:NS0_\d+([A-Za-z]+?)E)?E", rest[length:])
    if arguments is None:
        return rest[:length]
    element = "32-bit" if arguments[1] == "f" else "16-bit"
    numbers = re.findall(r"Li(\d+)E", arguments[2])
    return f"{rest[:length]}<{','.join([element, *numbers, *filter(None, [arguments[3]])])}>"


def measured_registers(log: str) -> Iterator[tuple[str, str, int]]:
    """(kernel, architecture, registers) from ptxas -v, where `Used` follows the `Compiling` it belongs to."""
    kernel, architecture = None, ""
    for line in log.splitlines():
        if compiling := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            kernel, architecture = kernel_name(compiling[1]), compiling[2]
        elif (used := re.search(r"Used (\d+) registers", line)) and kernel:
            yield kernel, architecture, int(used[1])
            kernel = None


def read_ceilings() -> dict[tuple[str, str], int]:
    ceilings = {}
    for line in (ROOT / "csrc" / "cuda" / "registers.txt").read_text().splitlines():
        if words := line.split("#")[0].split():
            ceilings |= {(words[0], name): int(word) for name, word in zip(ARCHITECTURES, words[1:], strict=True)}
    return ceilings


@pytest.mark.parametrize("source", [path.name for path in CUDA_SOURCES])
def test_kernels_compile_without_spills(source: str, build: Build) -> None:
    assert build.results[source].returncode == 0, build.results[source].stdout


def test_machine_code_for_known_gpus_and_ptx_for_later_ones(build: Build) -> None:
    """sm_90a's code runs on Hopper alone; PTX of compute_90 is compiled by the driver of any later GPU."""
    assert [target.rpartition("code=")[2] for target in TARGETS] == [*ARCHITECTURES, "compute_90"]
    for source in CUDA_SOURCES:
        held = set(gpu_code((build.folder / f"{source.stem}.o").read_bytes()))
        assert held == {("code", 80), ("code", 90), ("PTX", 90)}, source.name


def gpu_code(built: bytes) -> Iterator[tuple[str, int]]:
    """(kind, architecture) of everything in an object's fat binary: a header, then entries with their lengths."""
    start = built.index(pack("<I", 0xBA55ED50))
    _, _, header, length = unpack_from("<IHHQ", built, start)
    place, end = start + header, start + header + length
    while place < end:
        kind, _, header, length, _, _, _, _, architecture = unpack_from("<HHIQIIHHI", built, place)
        yield {1: "PTX", 2: "code"}[kind], architecture
        place += header + length


def test_registers_stay_below_their_ceilings(build: Build) -> None:
    ceilings = read_ceilings()
    measured: dict[tuple[str, str], int] = {}
    for result in build.results.values():
        for kernel, architecture, registers in measured_registers(result.stdout):
            key = (kernel, architecture)
            measured[key] = max(registers, measured.get(key, 0))
    assert set(measured) - set(ceilings) == set(), "kernels without a ceiling"
    assert set(ceilings) - set(measured) == set(), "ceilings without a kernel"
    assert {key: used for key, used in measured.items() if used > ceilings[key]} == {}


def test_the_flags_reject_a_spill(nvcc: str, tmp_path: Path) -> None:
    source = tmp_path / "spills.cu"
    source.write_text(SPILLING_KERNEL)
    result = compile_source(nvcc, source, tmp_path)
    assert result.returncode != 0
    assert "spill" in result.stdout


def argument_structs() -> dict[str, type[ctypes.Structure]]:
    """The structs of csrc/kernels.h by name, field for field."""
    text = re.sub(r"//.*", "", (ROOT / "csrc" / "kernels.h").read_text())
    types = {"int64_t": ctypes.c_int64, "double": ctypes.c_double, "bool": ctypes.c_bool}
    structs = {}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\};", text, re.DOTALL):
        fields = []
        for kind, names in re.findall(r"^\s*((?:const )?\w+\*?) ([\w, ]+);", body, re.MULTILINE):
            fields += [(field, ctypes.c_void_p if "*" in kind else types[kind]) for field in names.split(", ")]
        structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return structs


def launchers(library: ctypes.CDLL) -> dict[str, tuple[Callable[..., int], type[ctypes.Structure]]]:
    """Every launcher that there is, with its argument struct; the workspace's size is a function of another kind."""
    text, structs = (ROOT / "csrc" / "kernels.h").read_text(), argument_structs()
    entries = re.findall(r"\(\*(\w+)\)\((?:const (\w+)&, Element)?", text)
    library.megaphi_cuda_kernels.restype = ctypes.POINTER(ctypes.c_void_p)
    table = library.megaphi_cuda_kernels()
    signature = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p)
    return {
        name: (signature(table[i]), structs[struct])
        for i, (name, struct) in enumerate(entries)
        if struct in structs and table[i]
    }


def arguments_of(struct: type[ctypes.Structure], *, rows: int) -> tuple[ctypes.Structure, list[ctypes.Array]]:
    """Sizes of 8, buffers that are large enough for them, and the buffers' owners; `rows` for whatever counts rows."""
    arguments, buffers = struct(), []
    for field in struct._fields_:
        name, kind = field[:2]
        if kind is ctypes.c_void_p:
            buffers.append(ctypes.create_string_buffer(1 << 16))
            setattr(arguments, name, ctypes.addressof(buffers[-1]))
        else:
            setattr(arguments, name, rows if name in ("rows", "tokens", "batch") else 8)
    return arguments, buffers


def has_gpu() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def test_the_table_is_whole(library: ctypes.CDLL) -> None:
    assert len(launchers(library)) == 10


def test_double_precision_is_refused(library: ctypes.CDLL) -> None:
    for name, (launch, struct) in launchers(library).items():
        arguments, _owners = arguments_of(struct, rows=2)
        assert launch(ctypes.addressof(arguments), F64, None) == UNSUPPORTED, name


def test_without_rows_nothing_is_launched(library: ctypes.CDLL) -> None:
    for name, (launch, struct) in launchers(library).items():
        if name == "rms_norm_backward":  # still has a weight gradient to write: zeros
            continue
        arguments, _owners = arguments_of(struct, rows=0)
        assert launch(ctypes.addressof(arguments), BF16, None) == 0, name


@pytest.mark.parametrize("element", [F32, BF16, F16])
def test_without_a_gpu_the_status_says_so(element: int, library: ctypes.CDLL) -> None:
    if has_gpu():
        pytest.skip("a GPU must not be given the host's pointers")
    for name, (launch, struct) in launchers(library).items():
        arguments, _owners = arguments_of(struct, rows=2)
        assert launch(ctypes.addressof(arguments), element, None) in NO_GPU_STATUSES, name
