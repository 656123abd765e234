"""Compile megaphi's two modules for the GPU, in place, unless those that are there are newer than their sources.

    python -m tools.first_gpu.build [--only-look]

Fails if there is then no CUDA in them. `--only-look` compiles nothing and is content without CUDA.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tools.first_gpu.machine import ROOT

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-look", action="store_true", help="compile nothing")
    options = parser.parse_args()
    if not options.only_look and (reason := stale(ROOT) or without_cuda()):
        print(f"building: {reason}", flush=True)
        words = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(words, check=True, cwd=ROOT, env={**os.environ, "MEGAPHI_CUDA": "1"})
        importlib.invalidate_caches()
    reason = without_cuda()
    print("the modules are there, with CUDA" if reason is None else reason)
    if not options.only_look and reason is not None:
        sys.exit(1)


def stale(root: Path) -> str | None:
    """Reason to compile: a module that is missing, or older than a source."""
    modules = [root / "megaphi" / f"{name}{SUFFIX}" for name in ("_C", "_T")]
    if missing := [module.name for module in modules if not module.is_file()]:
        return f"{', '.join(missing)} is missing"
    built = min(module.stat().st_mtime for module in modules)
    sources = [root / "setup.py", *(path for path in (root / "csrc").rglob("*") if path.is_file())]
    newer = [path.name for path in sources if path.stat().st_mtime > built]
    return f"{newer[0]} is newer than the modules" if newer else None


def without_cuda() -> str | None:
    """Reason to think that the modules hold no CUDA kernels; asked in a process of its own, which then ends."""
    ask = "from megaphi import _C; print(_C.has_cuda())"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        return f"megaphi._C does not load: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    return None if done.stdout.strip() == "True" else "the modules are there, without CUDA"


if __name__ == "__main__":
    main()
