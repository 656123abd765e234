"""From file names to the first micro-batch: megaphi and Megatron-Core's dataset builders, up to Phi-4's 10T tokens.

    python benchmarks/data_startup.py                         both sides, three rounds: 3 GB of files, 8 GB of memory
    python benchmarks/data_startup.py --folder DIR --write    keep the corpora; append to results/data_startup.csv
    python benchmarks/data_startup.py --plot                  draw docs/data_startup.png from that file

The claim: at 10T tokens (2.44 billion samples of 4,096 from five sources in Phi-4's shares) ours takes less than 50 ms
and 50 MB beyond the mapped files, leaves no file, and then finds a sample in less than 3 us. A corpus is Phi-4's at a
fraction of its size (`startup_corpus.py`); Megatron's builders get those whose index fits this machine's memory. Every
measurement is a process of its own (`startup_sides.py`), the sides take turns, and Megatron starts with an empty cache
folder each time, as a new run or a changed mixture does. Cold: the page cache of the corpus is dropped first, and that
is checked; but the tokens are holes in sparse files, which come from no disk. Importing is not counted, but shown.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import dataclasses
import io
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from results_file import append_rows

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the files beside this one, by their full names

from benchmarks.startup_corpus import Corpus, make_corpus
from megaphi.files import whole_file

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "data_startup.csv"
PICTURE = ROOT / "docs" / "data_startup.png"
SIDES = {"megaphi": ("#0072B2", "o", "megaphi"), "megatron": ("#D55E00", "s", "Megatron-Core")}
"""Colour, marker and name in the picture."""
MEASURED = ("start_s", "cpu_s", "memory_mb", "mapped_mb", "index_mb", "lookup_us", "import_s")
PANELS = {
    "start_s": "seconds to the first micro-batch",
    "memory_mb": "memory beyond mapped files, MB",
    "index_mb": "index files written, MB",
}
LIMITS = {"start_s": 0.05, "memory_mb": 50.0, "lookup_us": 3.0, "index_mb": 0.0}
"""Claims about megaphi at fraction 1, warm."""
RATIOS = {"start_s": "time", "cpu_s": "CPU time", "memory_mb": "memory"}
SPOTS = 64
"""Places of a file where is looked whether it is in the page cache."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the corpora are kept (default: a temporary folder)")
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=[0.001, 0.01, 0.1, 1.0], help="sizes, for megaphi"
    )
    parser.add_argument("--megatron-fractions", type=float, nargs="*", default=[0.001, 0.01, 0.1], help="for Megatron")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every side at every size, cold and warm")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/data_startup.csv")
    parser.add_argument("--plot", action="store_true", help="only draw docs/data_startup.png from that file")
    arguments = parser.parse_args()
    if arguments.plot:
        plot(newest_rows(RESULTS), PICTURE)
        return
    if not set(arguments.megatron_fractions) <= set(arguments.fractions):
        parser.error("--megatron-fractions must be among --fractions: the sides are compared")
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = list(measure_all(folder, arguments))
    print_table(rows)
    print_claims(rows)
    if arguments.write:
        append(rows)


def measure_all(folder: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    """Every run of every side: small corpora first, the sides in turn, each cold and then warm."""
    for fraction in sorted(arguments.fractions):
        corpus = make_corpus(folder / f"{fraction:g}", fraction=fraction)
        for number in range(arguments.rounds):
            for side in SIDES:
                if side == "megatron" and fraction not in arguments.megatron_fractions:
                    continue
                for cache in ("cold", "warm"):
                    if cache == "cold" and not drop_page_cache(corpus.files):
                        print(f"the page cache of {folder} cannot be dropped: no cold run")
                        continue
                    row = measure(side, corpus, folder=folder / f"{fraction:g}", cache=cache)
                    print(f"round {number + 1}: {side:<8} {fraction:>6g} {cache}: {row['start_s']:.3f} s", flush=True)
                    yield row


def measure(side: str, corpus: Corpus, *, folder: Path, cache: str) -> Row:
    """One process of one side; all that it leaves in its cache folder or beside the data counts as index files."""
    with tempfile.TemporaryDirectory() as work:
        described, index_cache = Path(work) / "corpus.json", Path(work) / "cache"
        described.write_text(json.dumps(dataclasses.asdict(corpus)))
        index_cache.mkdir()
        before = bytes_in(folder)
        command = [sys.executable, "-m", "benchmarks.startup_sides", side, str(described), str(index_cache)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, capture_output=True, text=True, cwd=work, env=environment)
        if result.returncode:
            raise SystemExit(f"{side} ended with {result.returncode} at {corpus.fraction:g}:\n{result.stderr[-2000:]}")
        found = json.loads(result.stdout.splitlines()[-1])
        written = bytes_in(folder) - before + bytes_in(index_cache)
    size = {"tokens": corpus.total_samples * corpus.sequence_length, "unique_tokens": corpus.tokens}
    size |= {"documents": corpus.documents, "samples": corpus.total_samples}
    memory = {"memory_mb": found["peak_mb"] - found["mapped_mb"], "index_mb": written / 1e6}
    return {"side": side, "fraction": corpus.fraction, "cache": cache, **size, **found, **memory}


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def drop_page_cache(files: Sequence[Path]) -> bool:
    """Forget what the kernel keeps of these files; False if it keeps it all the same."""
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return not any(is_cached(path) for path in files)


def is_cached(path: Path) -> bool:
    """Return whether any of some places of the file is in memory; only mincore can tell without reading."""
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    bytes_of_file = np.memmap(path, dtype=np.uint8, mode="r")
    pages = -(-len(bytes_of_file) // mmap.PAGESIZE)
    for page in {(pages - 1) * spot // (SPOTS - 1) for spot in range(SPOTS)}:
        answer = ctypes.create_string_buffer(1)
        if mincore(bytes_of_file.ctypes.data + page * mmap.PAGESIZE, 1, answer):
            raise OSError(ctypes.get_errno(), "mincore", str(path))
        if answer.raw[0] & 1:
            return True
    return False


def medians(rows: Sequence[Row]) -> dict[tuple[str, float, str], Row]:
    """(side, fraction, cache) -> the first of its rows with the medians of all in place of what was measured."""
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["side"], row["fraction"], row["cache"]), []).append(row)
    return {key: own[0] | {name: median_of(own, name) for name in MEASURED} for key, own in groups.items()}


def median_of(rows: Sequence[Row], name: str) -> float | None:
    """None where this is not measured of this side."""
    values = [row[name] for row in rows if row.get(name) not in (None, "")]
    return statistics.median(values) if values else None


def print_table(rows: Sequence[Row]) -> None:
    """Medians, and Megatron's ratios to ours."""
    found = medians(rows)
    print(f"\n{'side':<9}{'fraction':>9}{'tokens':>9}{'documents':>13} {'cache':<5}", end="")
    print("".join(f"{name:>11}" for name in MEASURED))
    for (side, fraction, cache), row in found.items():
        cells = "".join(f"{'' if row[name] is None else f'{row[name]:.4g}':>11}" for name in MEASURED)
        print(f"{side:<9}{fraction:>9g}{row['tokens'] / 1e12:>8.3g}T{row['documents']:>13,} {cache:<5}{cells}")
    for (side, fraction, cache), row in found.items():
        if side == "megatron":
            ours = found["megaphi", fraction, cache]
            ratios = ", ".join(f"{row[name] / ours[name]:.0f} x the {what}" for name, what in RATIOS.items())
            print(f"megatron / megaphi at {fraction:g}, {cache}: {ratios}; {row['index_mb']:.0f} MB of files to 0")


def print_claims(rows: Sequence[Row]) -> None:
    """Print the claims about the whole Phi-4 run, and whether each held."""
    row = medians(rows).get(("megaphi", 1.0, "warm"), {})
    for name, limit in LIMITS.items() if row else ():
        verdict = "held" if row[name] <= limit else "MISSED"
        print(f"claim at 10T tokens: {name} at most {limit:g}: {row[name]:.4g}, {verdict}")


def append(rows: Sequence[Row]) -> None:
    """One line per process: what was measured, where, with what."""
    from megaphi.checkpoint.versions import short_commit, versions

    found = versions()
    start = {"date": date.today().isoformat(), "device": f"CPU, {os.cpu_count()} cores", "numpy": np.__version__}
    start |= {"commit": short_commit(), "megatron-core": found["megatron-core"]}
    columns = ["side", "fraction", "cache", "tokens", "unique_tokens", "documents", "samples", *MEASURED]
    for row in rows:
        rounded = {name: f"{row[name]:.6g}" for name in MEASURED if name in row}
        known = {name: value for name, value in row.items() if name in columns}
        append_rows(RESULTS, [*start, *columns], [start | known | rounded])


def newest_rows(path: Path) -> list[Row]:
    """The rows of the newest commit in the file, with numbers where they are numbers."""
    with open(path, newline="") as file:
        rows: list[Row] = list(csv.DictReader(file))
    newest = [row for row in rows if row["commit"] == rows[-1]["commit"]]
    numbers = ("fraction", "tokens", "documents", *MEASURED)
    return [row | {name: float(row[name]) for name in numbers if row[name]} for row in newest]


def plot(rows: Sequence[Row], path: Path) -> None:
    """A panel each for time, memory and files over the tokens of the run; measured points only."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 4.6), dpi=120, layout="constrained", sharex=True)
    for axes, (name, label) in zip(panels, PANELS.items(), strict=True):
        draw_panel(axes, rows, name)
        axes.set(xscale="log", yscale="log", xlabel="tokens of the run", title=label)
        axes.grid(alpha=0.25)
    panels[2].text(
        0.04, 0.04, "megaphi writes none at any size", color=SIDES["megaphi"][0], transform=panels[2].transAxes
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    where = ", ".join((f"Megatron-Core {rows[-1]['megatron-core']}", rows[-1]["device"], rows[-1]["date"]))
    figure.suptitle(f"Starting on Phi-4's mixture, as measured ({where})", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    with whole_file(path) as file:
        file.write(buffer.getvalue())


def draw_panel(axes: Any, rows: Sequence[Row], name: str) -> None:
    """Medians as points, joined where they were measured; hollow and dashed: with the page cache dropped."""
    found = medians(rows)
    for side, (colour, marker, title) in SIDES.items():
        for cache, dashes, fill in (("warm", "-", colour), ("cold", ":", "white")):
            own = [row for key, row in sorted(found.items()) if key[0] == side and key[2] == cache and row[name]]
            if not own:
                continue
            axes.plot(
                [row["tokens"] for row in own],
                [row[name] for row in own],
                color=colour,
                linestyle=dashes,
                marker=marker,
                markerfacecolor=fill,
                label=f"{title}, page cache {cache}",
            )
            if cache == "warm":
                text = f"{own[-1][name]:.2g}" if own[-1][name] < 100 else f"{own[-1][name]:,.0f}"
                axes.annotate(text, (own[-1]["tokens"], own[-1][name]), (0, 8), textcoords="offset points", ha="center")
    axes.margins(x=0.1, y=0.18)


if __name__ == "__main__":
    main()
