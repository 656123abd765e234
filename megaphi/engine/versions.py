"""What made a checkpoint or a measurement: versions of the packages, of Python, and the commit of the source tree."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from megaphi.log import logger


@cache
def versions() -> dict[str, str]:
    """Package -> version, and `commit` where the source tree has one; asked once per process."""
    packages = ("megaphi", "torch", "megatron-core", "numpy", "safetensors")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            logger.debug("%s is not installed as a package", package)
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if git.returncode == 0:
        found["commit"] = git.stdout.strip()
    return found
