"""Fused operators at Phi-4's shapes: megaphi against eager PyTorch, its fused operators, torch.compile and Liger.

    python benchmarks/kernels.py                    all operators, TP 1, 2, 4; on the GPU if there is one
    python benchmarks/kernels.py --device cpu --operators rms_norm swiglu --tp 1 --dtypes float32
    python benchmarks/kernels.py --write            append to benchmarks/results/kernels.csv
    python benchmarks/kernels.py --plot             draw docs/kernels.png from that file, for the same device
    python benchmarks/kernels.py --quick            one tiny case of each, in seconds

All contenders run in this one process and take turns call by call, so that whatever else the machine does hits all of
them; the caches are emptied before every call, and the median of `--rounds` calls counts. Before it is timed, a peer
must agree with megaphi: |theirs - ours| / |ours| (2-norms) of every output and gradient at most TOLERANCE. An operator
that has fallen back to its definition in PyTorch is refused. What fails, a peer or a whole operator, is named and left
out, the rest is measured, and each row is written at once. `operators.py` holds the contenders and the bytes that GB/s
counts: every tensor read or written once, which is the bound, not what was really moved. (linear_cross_entropy is bound
by its matrix products instead.)

On a GPU all 4,096 tokens of a micro-batch of one are worked on, and the GPU is kept busy until a call's kernels are
queued: kernels are timed, not Python. On a CPU there are fewer tokens or heads (the column `shape`) of the same width;
linear_cross_entropy is narrower there too, and float32 only.
The default flags are meant for less than eight minutes of one H100: bfloat16 only, 23 cases of at most some tens of
milliseconds a call; nearly all of the time is torch.compile's, once for both passes. On a CPU they are 43 cases.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.kernels_picture import PEERS, SHOWN_PASS, plot
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
from benchmarks.results_file import append_rows
from megaphi.kernels.loading import instruction_set, why_not
from megaphi.log import progress_bar

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "kernels.csv"
PICTURE = ROOT / "docs" / "kernels.png"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
PASSES = ("forward", SHOWN_PASS)
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
        problems = run(options)
    finally:
        torch.set_num_threads(before)
    if problems:
        sys.exit("\n".join(problems))


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


def run(options: argparse.Namespace) -> list[str]:
    """Measure all cases, print and write a line for each pass; returns what could not be measured, and why."""
    device = torch.device(options.device)
    cases = list(plan(options, device))
    if not cases:
        raise SystemExit("no case is left: rotary has no TP 4, and on a CPU linear_cross_entropy is float32 only")
    clock = Clock(device, flush_bytes=MEGABYTE * (1 if options.quick else 256 if device.type == "cuda" else 128))
    copy_speed = measure_copy(clock, megabytes=1 if options.quick else 256, rounds=options.rounds)
    print(f"{device_name(options.device)}, torch {torch.__version__}; a copy runs at {copy_speed / 1e9:.1f} GB/s")
    print("ratios: a peer's time over megaphi's, above 1 megaphi is faster")
    problems: list[str] = []
    with progress_bar(total=len(cases), unit="case", label="kernels") as bar:
        say = bar.write if sys.stderr.isatty() else print
        say(line(HEADINGS))
        for operator, setting in cases:
            try:
                for cells in measure(operator, setting, clock, options, copy_speed=copy_speed, problems=problems):
                    say(line(cells))
                    if options.write:
                        append(cells, options.results, device=device_name(options.device), threads=options.threads)
            except Exception as error:
                problems.append(described(operator, setting, "megaphi", error))
            bar.update()
    return problems


def measure(
    operator: str,
    setting: Setting,
    clock: Clock,
    options: argparse.Namespace,
    *,
    copy_speed: float,
    problems: list[str],
) -> Iterator[dict[str, str]]:
    """A row for each pass of one case; peers that are left out are added to `problems`."""
    refuse_definition(operator, setting)
    problem = build(operator, setting)
    contenders = agreeing(operator, choose(problem, peers=options.peers), setting, problems)
    for which in PASSES:
        times = take_turns(contenders, clock, both=which == PASSES[1], rounds=options.rounds)
        yield row(operator, setting, problem, which, times, copy_speed=copy_speed)


def described(operator: str, setting: Setting, contender: str, error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    dtype = str(setting.dtype).removeprefix("torch.")
    return f"{operator}, TP {setting.tensor_parallel}, {dtype}, {contender}: {type(error).__name__}: {first}"


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


def refuse_definition(operator: str, setting: Setting) -> None:
    kernel = operator.removeprefix("linear_")  # linear_cross_entropy has the kernels of cross_entropy
    if reason := why_not(kernel, setting.device.type, setting.dtype):
        raise RuntimeError(f"it runs its definition in PyTorch: {reason}")


def choose(problem: Problem, *, peers: Sequence[str]) -> dict[str, Contender]:
    """megaphi and the peers asked for; `compile` is torch.compile of `eager`, forgotten after the case."""
    contenders = {name: found for name, found in problem.contenders.items() if name in ("megaphi", *peers)}
    if "compile" in peers:
        torch._dynamo.reset()
        eager = problem.contenders["eager"]
        compiled = torch.compile(eager.call, fullgraph=True, dynamic=False)
        contenders["compile"] = dataclasses.replace(eager, call=compiled)
    return contenders


def agreeing(
    operator: str, contenders: dict[str, Contender], setting: Setting, problems: list[str]
) -> dict[str, Contender]:
    """megaphi, and the peers that run and compute the same. Also the first call of each, which compiles."""
    ours, kept = results(contenders["megaphi"]), {}
    for name, contender in contenders.items():
        try:
            if name != "megaphi":
                assert_same(ours, results(contender), most=TOLERANCE[setting.dtype])
        except Exception as error:
            problems.append(described(operator, setting, name, error))
        else:
            kept[name] = contender
    return kept


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor], *, most: float) -> None:
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        difference = ((other.float() - mine.float()).norm() / mine.float().norm()).item()
        if not difference <= most:
            raise ArithmeticError(f"result {number} differs by {difference:.3g} of its norm, allowed is {most:.3g}")


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


def append(measured: dict[str, str], path: Path, *, device: str, threads: int) -> None:
    """One line of results: what was measured, where, with what."""
    from megaphi.checkpoint.versions import short_commit, versions

    found = versions()
    start = {"date": date.today().isoformat(), "device": device, "commit": short_commit()}
    start |= {name: found.get(name, "") for name in ("torch", "python")}
    end = {"threads": str(threads), "instruction_set": instruction_set() or ""}
    append_rows(path, [*start, *HEADINGS, *end], [start | measured | end])


if __name__ == "__main__":
    main()
