"""The picture of what kernels.py measured: a bar for each peer's time over megaphi's, of a device's newest rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.operators import BUILDERS
from megaphi.files import whole_file

PEERS = {"eager": "#7f8c8d", "torch": "#e08e45", "compile": "#4a7fb5", "liger": "#5aa469"}
"""Colours of the peers' bars, in their order."""
DTYPES = ("float32", "bfloat16", "float16")
SHOWN_PASS = "forward+backward"


def plot(results: Path, picture: Path, *, is_cpu: bool, threads: int) -> None:
    """Bars of peer time over megaphi time, forward and backward at TP 1, a panel for each number format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    newest = newest_rows(results, is_cpu=is_cpu, threads=threads)
    dtypes = [dtype for dtype in DTYPES if any(key[1] == dtype for key in newest)]
    operators = [name for name in BUILDERS if any(key[0] == name for key in newest)]
    size = (9, 1.6 + 0.75 * len(operators))
    figure, panels = pyplot.subplots(
        1, len(dtypes), figsize=size, dpi=120, sharey=True, squeeze=False, layout="constrained"
    )
    for axes, dtype in zip(panels[0], dtypes, strict=True):
        draw_panel(axes, [newest.get((name, dtype), {}) for name in operators])
        axes.set(title=dtype, yticks=range(len(operators)), yticklabels=operators)
    panels[0][0].invert_yaxis()
    handles = {
        text: handle for axes in panels[0] for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False)
    last = max(newest.values(), key=lambda found: found["date"])
    where = f"{last['device']}, {threads} thread(s), {last['instruction_set']}" if is_cpu else last["device"]
    figure.suptitle(
        f"time / megaphi's time, forward + backward ({where}, torch {last['torch']}, {last['date']})", fontsize=11
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    with whole_file(picture) as file:
        file.write(buffer.getvalue())


def newest_rows(path: Path, *, is_cpu: bool, threads: int) -> dict[tuple[str, str], dict[str, str]]:
    """The last row of each (operator, dtype) that the picture shows."""
    newest = {}
    with open(path, newline="") as file:
        for found in csv.DictReader(file):
            is_wanted = found["pass"] == SHOWN_PASS and found["tp"] == "1" and (found["device"] == "CPU") == is_cpu
            if is_wanted and (not is_cpu or found["threads"] == str(threads)):
                newest[found["operator"], found["dtype"]] = found
    if not newest:
        raise SystemExit(f"{path} has no rows for this device: run the benchmark with --write first")
    return newest


def draw_panel(axes: Any, rows: Sequence[dict[str, str]]) -> None:
    """From 1 outwards: a bar to the left is a peer that is faster."""
    columns = [(name, place, found.get(f"{name}_ratio")) for name in PEERS for place, found in enumerate(rows)]
    bars = [(name, place, float(ratio)) for name, place, ratio in columns if ratio]
    present = list(dict.fromkeys(name for name, _, _ in bars))
    height = 0.8 / max(1, len(present))
    for name, place, ratio in bars:
        middle = place + (present.index(name) - (len(present) - 1) / 2) * height
        axes.barh(middle, ratio - 1, height, left=1, color=PEERS[name], label=name)
        axes.text(max(ratio, 1), middle, f" {ratio:.2g}×", va="center", fontsize=8)
    ratios = [ratio for _, _, ratio in bars]
    ticks = (0.2, 0.5, 1, 2, 5, 10, 20)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(min([0.8, *ratios]) / 1.1, max([2, *ratios]) * 1.6)  # room for the last number
    axes.axvline(1, color="black", linewidth=1)
    axes.grid(axis="x", alpha=0.25)
