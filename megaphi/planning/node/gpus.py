"""The GPUs of a node, as `nvidia-smi` and the kernel's log describe them.

Present, of one kind, empty, without memory errors, with every NVLink up. A GPU that has failed often is still listed:
rows that wait to be remapped, a link that is down or an Xid in the kernel's log only show in such queries. No driver is
loaded into this process. Not yet run on a GPU: tested with stand-ins for the two programs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megaphi.planning.node.finding import Finding

QUERY_SECONDS = 60
"""A driver that hangs must not hang the check."""
USED_BYTES = 1 << 30
"""Memory that a GPU may have in use before a job starts: the driver's own is below 0.7 GiB."""
FATAL_XIDS = {
    48: "double-bit memory error",
    64: "a row could not be remapped",
    74: "NVLink error",
    79: "fallen off the bus",
    95: "memory error that was not contained",
    119: "the GPU's system processor does not answer",
    120: "the GPU's system processor has failed",
}
"""Xids by which NVIDIA's list (docs.nvidia.com/deploy/xid-errors) tells the administrator to reset or replace the GPU;
others may come from a program."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One row of nvidia-smi."""

    number: str
    name: str
    bus: str
    total_bytes: int
    used_bytes: int
    memory_errors: str
    """Uncorrected ones since the driver was loaded; `[N/A]` without ECC."""


_TRUE = ("yes", "1", "true")
"""Words that drivers write for a state that holds."""


class NoAnswer(Exception):
    """A program that a check asks is missing, fails or hangs."""


def check_gpus(expected: int) -> list[Finding]:
    """Findings on the node's GPUs; `expected`: their number, 0 for a node that needs none."""
    if expected == 0 and shutil.which("nvidia-smi") is None:
        return [Finding(check="GPUs", found="none, and none expected")]
    try:
        gpus = _listed()
    except NoAnswer as error:
        return [Finding(check="GPUs", found=str(error), verdict="FAIL" if expected else "unknown")]
    findings = [_number(gpus, expected), _kind(gpus), _free(gpus), _errors(gpus)]
    return [*findings, _asked("row remapping", _remapping), _asked("NVLink", _links), _asked("Xid", _xids)]


def _asked(check: str, ask: Callable[[str], Finding]) -> Finding:
    try:
        return ask(check)
    except NoAnswer as error:
        return Finding(check=check, found=str(error), verdict="unknown")


def _listed() -> list[Gpu]:
    fields = "index,name,pci.bus_id,memory.total,memory.used,ecc.errors.uncorrected.volatile.total"
    rows = _rows("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    try:
        return [
            Gpu(
                number=number,
                name=name,
                bus=bus,
                total_bytes=int(total) << 20,
                used_bytes=int(used) << 20,
                memory_errors=errors,
            )
            for number, name, bus, total, used, errors in rows
        ]
    except ValueError:
        raise NoAnswer(f"nvidia-smi lists what is no GPU: {rows[0]}") from None


def _number(gpus: Sequence[Gpu], expected: int) -> Finding:
    found = f"{len(gpus)}" if len(gpus) == expected or not expected else f"{len(gpus)} of {expected}"
    return Finding(check="GPUs", found=found, verdict="FAIL" if len(gpus) < max(1, expected) else "ok")


def _kind(gpus: Sequence[Gpu]) -> Finding:
    kinds = Counter(f"{gpu.name}, {gpu.total_bytes / 1e9:.0f} GB" for gpu in gpus)
    found = "; ".join(kind if len(kinds) == 1 else f"{number} x {kind}" for kind, number in kinds.items())
    return Finding(check="kind of GPU", found=found or "none", verdict="FAIL" if len(kinds) > 1 else "ok")


def _free(gpus: Sequence[Gpu]) -> Finding:
    busy = [f"GPU {gpu.number} has {gpu.used_bytes / 1e9:.1f} GB in use" for gpu in gpus if gpu.used_bytes > USED_BYTES]
    left = "; ".join(busy) + ": a process of an earlier job?" if busy else "all free"
    return Finding(check="GPU memory", found=left, verdict="FAIL" if busy else "ok")


def _errors(gpus: Sequence[Gpu]) -> Finding:
    bad = [f"GPU {gpu.number} has had {gpu.memory_errors}" for gpu in gpus if gpu.memory_errors.strip("0").isdigit()]
    if bad:
        return Finding(check="memory errors", found=f"{'; '.join(bad)} uncorrected: reset it", verdict="FAIL")
    without = [gpu.number for gpu in gpus if not gpu.memory_errors.isdigit()]
    if without:
        return Finding(check="memory errors", found=f"not counted on GPU {', '.join(without)}", verdict="unknown")
    return Finding(check="memory errors", found="none uncorrected")


def _remapping(check: str) -> Finding:
    """Rows of memory that wait for a reset to be replaced, or could not be."""
    fields = "gpu_bus_id,remapped_rows.pending,remapped_rows.failure"
    rows = _rows("nvidia-smi", f"--query-remapped-rows={fields}", "--format=csv,noheader")
    bad = []
    for bus, *states in rows:
        words = [word for word, state in zip(("pending", "failed"), states, strict=False) if state.lower() in _TRUE]
        bad += [f"{' and '.join(words)} on GPU {bus}"] if words else []
    return Finding(
        check=check, found=f"{'; '.join(bad)}: reset it" if bad else "nothing pending", verdict="FAIL" if bad else "ok"
    )


def _links(check: str) -> Finding:
    """All GPUs have equally many links, and none is down."""
    active: dict[str, int] = {}
    down = []
    gpu = ""
    for line in _said("nvidia-smi", "nvlink", "--status").splitlines():
        if found := re.match(r"GPU (\d+):", line):
            gpu = found[1]
            active[gpu] = 0
        elif found := re.match(r"\s+Link (\d+): (.*)", line):
            if "GB/s" in found[2]:
                active[gpu] += 1
            else:
                down.append(f"link {found[1]} of GPU {gpu}")
    if down:
        return Finding(check=check, found=f"{', '.join(down)} inactive", verdict="FAIL")
    if len(set(active.values())) > 1:
        counts = ", ".join(f"GPU {gpu} {links}" for gpu, links in active.items())
        return Finding(check=check, found=f"unequally many links: {counts}", verdict="FAIL")
    links = next(iter(active.values()), 0)
    return Finding(check=check, found=f"{links} links on each GPU" if links else "none here")


def _xids(check: str) -> Finding:
    found = Counter()
    for bus, code in re.findall(r"NVRM: Xid \(PCI:([\w:.]+)\): (\d+)", _said("dmesg")):
        if int(code) in FATAL_XIDS:
            found[bus, int(code)] += 1
    texts = [f"{code} ({FATAL_XIDS[code]}) on GPU {bus}, {times} x" for (bus, code), times in found.items()]
    return Finding(
        check=check,
        found=f"since the node started: {'; '.join(texts)}" if texts else "none that asks for a reset",
        verdict="FAIL" if texts else "ok",
    )


def _rows(*command: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split(",")] for line in _said(*command).splitlines() if line.strip()]


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_SECONDS, check=False)
    except FileNotFoundError:
        raise NoAnswer(f"there is no {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} does not answer for {QUERY_SECONDS} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NoAnswer(f"{command[0]} failed: {said[0][:200] if said else f'exit code {done.returncode}'}")
    return done.stdout
