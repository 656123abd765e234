"""Fused operators at Phi-4's shapes: megaphi against eager PyTorch, its fused operators, torch.compile and Liger.

    python benchmarks/kernels.py                    all operators, TP 1, 2, 4; on the GPU if there is one
    python benchmarks/kernels.py --device cpu --operators rms_norm swiglu --tp 1 --dtypes float32
    python benchmarks/kernels.py --write            append to benchmarks/results/kernels.csv
    python benchmarks/kernels.py --plot             draw docs/kernels.png from that file, for the same device
    python benchmarks/kernels.py --quick            one tiny case of each, in seconds

All contenders run in this one process and take turns call by call, so that whatever else the machine does hits all of
them; the caches are emptied before every call, and the median of `--rounds` calls counts. Before it is timed, a peer
must agree with megaphi: |theirs - ours| / |ours| (2-norms) of every output and gradient at most TOLERANCE. An operator
that has fallen back to its definition in PyTorch is refused. `operators.py` holds the contenders and the bytes that
GB/s counts: every tensor read or written once, which is the bound, not what was really moved. (linear_cross_entropy is
bound by its matrix products instead.)

On a GPU all 4,096 tokens of a micro-batch of one are worked on, and the GPU is kept busy until a call's kernels are
queued: kernels are timed, not Python. On a CPU there are fewer tokens or heads (the column `shape`) of the same width;
linear_cross_entropy is narrower there too, and float32 only.
The default flags are meant for less than eight minutes of one H100: bfloat16 only, 23 cases of at most some tens of
milliseconds a call; nearly all of the time is torch.compile's, once for both passes. On a CPU they are 43 cases.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.operators import (
    BUILDERS,
    CPU_SIZES,
    GPU_SIZES,
    GROUPS,
    QUICK_SIZES,
    TRAFFIC,
    Contender,
    Problem,
    Setting,
    Tensors,
    build,
)
from megaphi.files import whole_file
from megaphi.kernels.loading import instruction_set, why_not
from megaphi.log import progress_bar

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "kernels.csv"
PICTURE = ROOT / "docs" / "kernels.png"
PEERS = {"eager": "#7f8c8d", "torch": "#e08e45", "compile": "#4a7fb5", "liger": "#5aa469"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
PASSES = ("forward", "forward+backward")
WARM_UP_CALLS = 2
MEGABYTE = 2**20
HOLD_CYCLES = 2_000_000
"""About a millisecond of a GPU's clock, in which a call's kernels are launched."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.plot:
        plot(options.results, options.picture, is_cpu=options.device == "cpu", threads=options.threads)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        rows = run(options)
    finally:
        torch.set_num_threads(before)
    if options.write:
        append(rows, options.results, device=device_name(options.device), threads=options.threads)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operators", nargs="+", choices=BUILDERS, default=list(BUILDERS), metavar="NAME")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default: float32 bfloat16; on a GPU bfloat16")
    parser.add_argument("--tp", nargs="+", type=int, choices=(1, 2, 4), help="tensor parallel sizes (default: 1 2 4)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="default: all that are installed")
    parser.add_argument("--rounds", type=int, help="timed calls of each contender (default: 7)")
    parser.add_argument("--threads", type=int, default=1, help="threads of all contenders on a CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="one tiny case of each operator, nothing compiled")
    parser.add_argument("--write", action="store_true", help="append to the results")
    parser.add_argument("--plot", action="store_true", help="measure nothing, draw the newest results of the device")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: benchmarks/results/kernels.csv")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="default: docs/kernels.png")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not options.plot and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    usual = ["bfloat16"] if options.device == "cuda" and not options.quick else ["float32", "bfloat16"]
    options.dtypes = options.dtypes or (["float32"] if options.quick else usual)
    options.tp = options.tp or ([1] if options.quick else [1, 2, 4])
    options.rounds = options.rounds or (1 if options.quick else 7)
    if options.peers is None:
        options.peers = ["eager", "torch"] if options.quick else list(PEERS)
    if options.quick and options.tp != [1]:
        parser.error("--quick has one head: only --tp 1")
    return options


def run(options: argparse.Namespace) -> list[dict[str, str]]:
    """Measure all cases and print a line for each pass; gives the columns of the results that depend on the case."""
    device = torch.device(options.device)
    cases = list(plan(options, device))
    if not cases:
        raise SystemExit("no case is left: rotary has no TP 4, and on a CPU linear_cross_entropy is float32 only")
    refuse_definitions(cases)
    clock = Clock(device, flush_bytes=MEGABYTE * (1 if options.quick else 256 if device.type == "cuda" else 128))
    copy_speed = measure_copy(clock, megabytes=1 if options.quick else 256, rounds=options.rounds)
    print(f"{device_name(options.device)}, torch {torch.__version__}; a copy runs at {copy_speed / 1e9:.1f} GB/s")
    print("ratios: a peer's time over megaphi's, above 1 megaphi is faster")
    rows = []
    with progress_bar(total=len(cases), unit="case", label="kernels") as bar:
        say = bar.write if sys.stderr.isatty() else print
        say(line(HEADINGS))
        for operator, setting in cases:
            problem = build(operator, setting)
            contenders = choose(problem, peers=options.peers)
            check_agreement(operator, contenders, setting)
            for which in PASSES:
                times = take_turns(contenders, clock, both=which == PASSES[1], rounds=options.rounds)
                rows.append(row(operator, setting, problem, which, times, copy_speed=copy_speed))
                say(line(rows[-1]))
            bar.update()
    return rows


def plan(options: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, Setting]]:
    """Every case that is possible in a bearable time.

    Ten groups of queries cannot be cut in four, so rotary has no TP 4. Matrix products in 16 bits take seconds on most
    CPUs, whoever calls them.
    """
    sizes = QUICK_SIZES if options.quick else GPU_SIZES if device.type == "cuda" else CPU_SIZES
    for operator in options.operators:
        for dtype in options.dtypes:
            for parts in options.tp:
                is_uneven = operator == "rotary" and GROUPS % parts != 0
                is_slow = operator == "linear_cross_entropy" and device.type == "cpu" and dtype != "float32"
                if not is_uneven and not is_slow:
                    yield operator, Setting(sizes=sizes, tensor_parallel=parts, dtype=DTYPES[dtype], device=device)


def refuse_definitions(cases: Sequence[tuple[str, Setting]]) -> None:
    for operator, setting in cases:
        kernel = operator.removeprefix("linear_")  # linear_cross_entropy has the kernels of cross_entropy
        reason = why_not(kernel, setting.device.type, setting.dtype)
        if reason is not None:
            where = f"{setting.device.type}, {setting.dtype}"
            raise SystemExit(f"{operator} ({where}) runs its definition in PyTorch: {reason}")


def choose(problem: Problem, *, peers: Sequence[str]) -> dict[str, Contender]:
    """megaphi and the peers asked for; `compile` is torch.compile of `eager`, forgotten after the case."""
    contenders = {name: found for name, found in problem.contenders.items() if name in ("megaphi", *peers)}
    if "compile" in peers:
        torch._dynamo.reset()
        eager = problem.contenders["eager"]
        compiled = torch.compile(eager.call, fullgraph=True, dynamic=False)
        contenders["compile"] = dataclasses.replace(eager, call=compiled)
    return contenders


def check_agreement(operator: str, contenders: dict[str, Contender], setting: Setting) -> None:
    """Also the first call of each, which compiles."""
    ours = results(contenders["megaphi"])
    for name, contender in contenders.items():
        if name == "megaphi":
            continue
        for number, (mine, other) in enumerate(zip(ours, results(contender), strict=True)):
            difference = ((other.float() - mine.float()).norm() / mine.float().norm()).item()
            if not difference <= TOLERANCE[setting.dtype]:
                raise SystemExit(
                    f"{operator}, TP {setting.tensor_parallel}, {setting.dtype}: result {number} of {name} differs "
                    f"from megaphi's by {difference:.3g} of its norm, allowed is {TOLERANCE[setting.dtype]:.3g}"
                )


def results(contender: Contender) -> list[Tensor]:
    inputs, grads = prepare(contender)
    outputs = forward(contender, inputs)
    gradients = torch.autograd.grad(outputs, contender.inputs, grads)
    return contender.results(tuple(output.detach() for output in outputs), gradients)


def prepare(contender: Contender) -> tuple[Tensors, Tensors]:
    """(inputs, gradients of outputs) that the next call may overwrite."""
    if not contender.overwrites:
        return contender.inputs, contender.grads
    return tuple(tensor.clone() for tensor in contender.inputs), tuple(grad.clone() for grad in contender.grads)


def forward(contender: Contender, inputs: Tensors) -> Tensors:
    outputs = contender.call(*inputs)
    return (outputs,) if isinstance(outputs, Tensor) else outputs


class Clock:
    """Seconds of single calls that find the caches empty; on a GPU they are known once it has been waited for."""

    def __init__(self, device: torch.device, *, flush_bytes: int) -> None:
        self.device = device
        self.flushed = torch.empty(flush_bytes, dtype=torch.uint8, device=device)

    def time(self, call: Callable[[], object]) -> Callable[[], float]:
        self.flushed.zero_()
        if self.device.type == "cpu":
            began = time.perf_counter()
            kept = call()  # what it returns is given back to the system after the clock has stopped
            seconds = time.perf_counter() - began
            del kept
            return lambda: seconds
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(HOLD_CYCLES)
        first.record()
        call()
        last.record()
        return lambda: first.elapsed_time(last) / 1e3

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure_copy(clock: Clock, *, megabytes: int, rounds: int) -> float:
    """Bytes per second, read and written ones added up, of copying a tensor larger than the caches."""
    source, target = (torch.zeros(megabytes * MEGABYTE, dtype=torch.uint8, device=clock.device) for _ in range(2))
    readings = [clock.time(lambda: target.copy_(source)) for _ in range(rounds + WARM_UP_CALLS)]
    clock.wait()
    return 2 * source.numel() / statistics.median(reading() for reading in readings[WARM_UP_CALLS:])


def take_turns(contenders: dict[str, Contender], clock: Clock, *, both: bool, rounds: int) -> dict[str, float]:
    """Median seconds of each contender's forward pass, or of forward and backward."""
    readings: dict[str, list[Callable[[], float]]] = {name: [] for name in contenders}
    for _ in range(rounds + WARM_UP_CALLS):
        for name, contender in contenders.items():
            readings[name].append(time_once(contender, clock, both=both))
    clock.wait()
    return {name: statistics.median(reading() for reading in taken[WARM_UP_CALLS:]) for name, taken in readings.items()}


def time_once(contender: Contender, clock: Clock, *, both: bool) -> Callable[[], float]:
    inputs, grads = prepare(contender)

    def call() -> Tensors:
        outputs = forward(contender, inputs)
        return torch.autograd.grad(outputs, contender.inputs, grads) if both else outputs

    return clock.time(call)


# --- table, file and picture

COLUMNS = "operator tp dtype pass shape megaphi_ms gb_per_s copy_fraction".split()
TITLES = "operator tp dtype pass shape ms GB/s /copy".split()
HEADINGS = dict(zip([*COLUMNS, *(f"{name}_ratio" for name in PEERS)], [*TITLES, *PEERS], strict=True))
WIDTHS = (-20, 2, -8, -16, -20, 9, 8, 7, *[8] * len(PEERS))


def row(
    operator: str, setting: Setting, problem: Problem, which: str, times: dict[str, float], *, copy_speed: float
) -> dict[str, str]:
    reads_forward, reads_backward, _ = TRAFFIC[operator]
    tensors = reads_forward + (reads_backward if which == PASSES[1] else 0)
    speed = tensors * problem.unit_elements * setting.dtype.itemsize / times["megaphi"]
    return {
        "operator": operator,
        "tp": str(setting.tensor_parallel),
        "dtype": str(setting.dtype).removeprefix("torch."),
        "pass": which,
        "shape": problem.shape,
        "megaphi_ms": f"{times['megaphi'] * 1e3:.4f}",
        "gb_per_s": f"{speed / 1e9:.2f}",
        "copy_fraction": f"{speed / copy_speed:.3f}",
        **{f"{name}_ratio": f"{times[name] / times['megaphi']:.3f}" if name in times else "" for name in PEERS},
    }


def line(cells: dict[str, str]) -> str:
    """One row of the table: text to the left, numbers to the right."""
    parts = zip(cells.values(), WIDTHS, strict=True)
    return " ".join(cell.ljust(-width) if width < 0 else cell.rjust(width) for cell, width in parts)


def device_name(device: str) -> str:
    return "CPU" if device == "cpu" else torch.cuda.get_device_name()


def append(rows: list[dict[str, str]], path: Path, *, device: str, threads: int) -> None:
    """One line a pass: what was measured, where, with what."""
    from megaphi.checkpoint.versions import short_commit, versions

    found = versions()
    start = {
        "date": date.today().isoformat(),
        "device": device,
        "commit": short_commit(),
        "torch": found["torch"],
        "python": found["python"],
    }
    end = {"threads": str(threads), "instruction_set": instruction_set() or ""}
    is_new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, [*start, *HEADINGS, *end], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(start | measured | end for measured in rows)


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
            is_wanted = found["pass"] == PASSES[1] and found["tp"] == "1" and (found["device"] == "CPU") == is_cpu
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


if __name__ == "__main__":
    main()
