"""Attention to a key-value cache in blocks: megaphi against PyTorch's on the same cache, gathered and padded.

    python benchmarks/paged_attention.py                   all cases, one thread and two, or on the GPU that is there
    python benchmarks/paged_attention.py --write           append to benchmarks/results/paged_attention.csv

One step of generation in one layer, fp32 on a CPU and bf16 on a GPU: T queries, each with a shuffled table of blocks of
16 positions. PyTorch has no attention to blocks. Its peers here are `gathered`: the blocks copied into a padded batch,
as a cache in blocks needs it, then `scaled_dot_product_attention`; and `padded`: attention alone, on a batch that was
copied before. Heads that share a group go in as that many queries of one head, which PyTorch is faster at than at
`enable_gqa`; the mask is made outside of what is timed. Contenders take turns call by call in one process, the caches
are emptied before every call, and medians count. Ratios are a peer's time over megaphi's. GB/s counts the keys and
values that are seen.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from results_file import append_rows
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.kernels import MEGABYTE, WARM_UP_CALLS, Clock
from megaphi.checkpoint.versions import short_commit, versions
from megaphi.kernels.loading import instruction_set, why_not
from megaphi.kernels.paged_attention import paged_attention

RESULTS = Path(__file__).parent / "results" / "paged_attention.csv"
POSITIONS = 16
FORMATS = {"cpu": torch.float32, "cuda": torch.bfloat16}
TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}
COLUMNS = "queries heads groups head_size lengths threads megaphi_ms gb_per_s gathered_ratio padded_ratio".split()


@dataclass(frozen=True, kw_only=True)
class Case:
    queries: int
    heads: int
    groups: int
    head_size: int
    shortest: int
    longest: int

    def lengths(self) -> Tensor:
        """Evenly from the shortest to the longest, in a shuffled order."""
        even = torch.linspace(self.shortest, self.longest, self.queries).int()
        return even[torch.randperm(self.queries)]


CASES = {
    "cpu": (
        Case(queries=64, heads=9, groups=3, head_size=64, shortest=64, longest=512),
        Case(queries=16, heads=9, groups=3, head_size=64, shortest=1024, longest=1024),
        Case(queries=64, heads=40, groups=10, head_size=128, shortest=64, longest=1024),
        Case(queries=1, heads=9, groups=3, head_size=64, shortest=4096, longest=4096),
    ),
    "cuda": (
        Case(queries=64, heads=40, groups=10, head_size=128, shortest=256, longest=4096),
        Case(queries=64, heads=20, groups=5, head_size=128, shortest=4096, longest=4096),
        Case(queries=256, heads=20, groups=5, head_size=128, shortest=64, longest=1024),
        Case(queries=1, heads=40, groups=10, head_size=128, shortest=16384, longest=16384),
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=FORMATS, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 2 on a CPU, 1 for a GPU")
    parser.add_argument("--rounds", type=int, default=25, help="timed calls of each contender (default: 25)")
    parser.add_argument("--write", action="store_true", help="append to the results")
    options = parser.parse_args(arguments)
    if (reason := why_not("paged_attention", options.device, FORMATS[options.device])) is not None:
        raise SystemExit(f"paged_attention runs its definition in PyTorch: {reason}")
    clock = Clock(torch.device(options.device), flush_bytes=128 * MEGABYTE)
    rows = []
    print(*COLUMNS)
    for threads in options.threads or ([1, 2] if options.device == "cpu" else [1]):
        torch.set_num_threads(threads)
        for case in CASES[options.device]:
            rows.append(measure(case, clock, threads=threads, rounds=options.rounds))
            print(*rows[-1], flush=True)
    if options.write:
        append(rows, processor=str(instruction_set()) if options.device == "cpu" else torch.cuda.get_device_name())


def measure(case: Case, clock: Clock, *, threads: int, rounds: int) -> list[str]:
    torch.manual_seed(1)
    lengths_T, device = case.lengths(), clock.device.type
    calls = contenders(case, lengths_T, device)
    check_agreement(calls, allowed=TOLERANCE[device])
    readings: dict[str, list[Callable[[], float]]] = {name: [] for name in calls}
    for _ in range(rounds + WARM_UP_CALLS):
        for name, call in calls.items():
            readings[name].append(clock.time(call))
    clock.wait()
    seconds = {name: statistics.median(read() for read in taken[WARM_UP_CALLS:]) for name, taken in readings.items()}
    element = FORMATS[device].itemsize
    ours, moved = seconds["megaphi"], 2 * element * int(lengths_T.sum()) * case.groups * case.head_size
    found = (f"{ours * 1e3:.3f}", f"{moved / ours / 1e9:.2f}")
    ratios = (f"{seconds[name] / ours:.2f}" for name in ("gathered", "padded"))
    shape = (case.queries, case.heads, case.groups, case.head_size, f"{case.shortest}-{case.longest}", threads)
    return [*map(str, shape), *found, *ratios]


def contenders(case: Case, lengths_T: Tensor, device: str) -> dict[str, Callable[[], Tensor]]:
    blocks_T = -(-lengths_T // POSITIONS)
    shape = (int(blocks_T.sum()), POSITIONS, case.groups, case.head_size)
    query_THK = torch.randn(case.queries, case.heads, case.head_size)
    query_THK, keys_NPGK, values_NPGK = (
        x.to(device, FORMATS[device]) for x in (query_THK, torch.randn(shape), torch.randn(shape))
    )
    tables_TM = torch.full((case.queries, int(blocks_T.max())), -1, dtype=torch.int32)
    for row_M, own in zip(tables_TM, torch.randperm(shape[0]).split(blocks_T.tolist()), strict=True):
        row_M[: len(own)] = own
    lengths_T, tables_TM = lengths_T.to(device), tables_TM.to(device)
    scale = case.head_size**-0.5
    mask_T11J = (torch.arange(tables_TM.shape[1] * POSITIONS, device=device) < lengths_T[:, None])[:, None, None]
    filled_TM = tables_TM.clamp(min=0)

    def gather() -> Iterator[Tensor]:
        for cache in (keys_NPGK, values_NPGK):
            yield cache[filled_TM].flatten(1, 2).transpose(1, 2)

    def attend(keys_TGJK: Tensor, values_TGJK: Tensor) -> Tensor:
        query_TGRK = query_THK.unflatten(1, (case.groups, -1))
        y_TGRK = scaled_dot_product_attention(query_TGRK, keys_TGJK, values_TGJK, attn_mask=mask_T11J, scale=scale)
        return y_TGRK.flatten(1, 2)

    padded = tuple(gather())
    return {
        "megaphi": lambda: paged_attention(query_THK, keys_NPGK, values_NPGK, tables_TM, lengths_T, scale=scale),
        "gathered": lambda: attend(*gather()),
        "padded": lambda: attend(*padded),
    }


def check_agreement(calls: dict[str, Callable[[], Tensor]], *, allowed: float) -> None:
    ours = calls["megaphi"]()
    for name, call in calls.items():
        difference = ((call() - ours).norm() / ours.norm()).item()
        if not difference <= allowed:
            raise SystemExit(f"{name} differs from megaphi by {difference:.3g} of its norm, allowed is {allowed}")


def append(rows: list[list[str]], *, processor: str) -> None:
    found = versions()
    start = [date.today().isoformat(), short_commit(), found["torch"], found["python"], processor]
    columns = ["date", "commit", "torch", "python", "processor", *COLUMNS]
    append_rows(RESULTS, columns, ([*start, *row] for row in rows))


if __name__ == "__main__":
    main()
