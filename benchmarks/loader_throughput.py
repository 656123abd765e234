"""Tokens per second of our loader, of a torch DataLoader over Megatron-Core's own datasets, and of DALI where it is.

`native_npy`, `native_headerless` and `native_own_class` are our loader on the same tokens in other formats.

All sides read the same .bin/.idx files (random tokens of Phi-4's vocabulary, document lengths log-normal, in the page
cache), in the same mixture and batch shape, in this one process, in turn. Three figures each: tokens/s of a consumer
that only takes batches; milliseconds to the first batch of a fresh iterator; and how long a consumer that is busy for
20 ms per batch, as a training step is, waits for the next. Megatron's side gets its fastest setting: no attention mask.
The claims are medians of ratios to `native`.

    python benchmarks/loader_throughput.py --tokens 200000000 --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from results_file import append_rows
from torch.utils.data import DataLoader

from megaphi.checkpoint.versions import short_commit, versions
from megaphi.data.loading.dali_loader import dali_steps
from megaphi.data.loading.loader import OpenMixture, batch_sample_numbers, open_mixture
from megaphi.data.loading.prefetch import prefetch
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter

RESULTS = Path(__file__).parent / "results" / "loader_throughput.csv"
VOCABULARY, END = 100_352, 100_257
WEIGHTS = {"web": 0.15, "rewrites": 0.15, "synthetic": 0.40, "code": 0.20, "acquired": 0.10}
MEDIAN_DOCUMENT, SIGMA = 600, 1.1
"""Tokens of the middle document, and sigma of the lengths' logarithm."""
OWN_CLASS = """
import numpy as np

class Shard:
    def __init__(self, path):
        self.tokens = np.load(path, mmap_mode="r")

    def __len__(self):
        return len(self.tokens)

    def read(self, start, count):
        return self.tokens[start : start + count]
"""
FORMATS: dict[str, tuple[str, Literal["uint32"] | None]] = {
    "native_npy": ("{folder}/{name}.npy", None),
    "native_headerless": ("{folder}/{name}.flat.bin", "uint32"),
    "native_own_class": ("{folder}/own.py:Shard:{folder}/{name}.npy", None),
}
"""Side -> the path of a source's tokens, and the dtype that it must be told."""
BUSY_SECONDS = 0.020
COLUMNS = (
    "date device commit torch megatron-core dali tokens sequence_length micro_batch side tokens_per_s native_ratio"
    " first_batch_ms wait_ms"
)
Side = Callable[[int], Generator[Any, None, None]]
"""Batches from a given one on, without end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    tokens_per_second: float
    first_batch_ms: float
    wait_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000_000, help="size of the data, all sources together")
    parser.add_argument("--sequence-length", type=int, default=4096)
    parser.add_argument("--micro-batch", type=int, default=8, help="sequences per batch")
    parser.add_argument("--rounds", type=int, default=5, help="independent measurements")
    parser.add_argument("--batches", type=int, default=300, help="timed batches of each side per round")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/loader_throughput.csv")
    arguments = parser.parse_args()
    length, size = arguments.sequence_length, arguments.micro_batch
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), tokens=arguments.tokens)
        sides = open_sides(Path(folder), sequence_length=length, micro_batch=size, samples=arguments.tokens // length)
        rounds: list[dict[str, Measured]] = []
        for number in range(arguments.rounds):
            first = number * arguments.batches
            found = {
                name: measure(side, first, batches=arguments.batches, batch_tokens=length * size)
                for name, side in sides.items()
            }
            rounds.append(found)
            shown = (f"{name} {one.tokens_per_second / 1e6:.1f}" for name, one in found.items())
            print(f"round {number + 1}, million tokens/s: " + ", ".join(shown), flush=True)
    rows = {name: summary(name, rounds) for name in sides}
    for name, row in rows.items():
        print("{:14} {:>12} tokens/s, native is x{}, first batch {} ms, wait {} ms".format(name, *row))
    if arguments.write:
        append(rows, [arguments.tokens, length, size])


def write_data(folder: Path, *, tokens: int) -> None:
    """One dataset per source, of equal size."""
    draw = np.random.default_rng(0)
    for name in WEIGHTS:
        with IndexedDatasetWriter(folder / name, "int32") as writer:
            while writer.token_count < tokens // len(WEIGHTS):
                lengths = draw.lognormal(np.log(MEDIAN_DOCUMENT), SIGMA, 2_000).astype(np.int64) + 1
                ids = draw.integers(0, END, lengths.sum(), dtype=np.int32)
                ids[np.cumsum(lengths) - 1] = END
                writer.add_documents(ids, lengths)
            writer.finish({"tokenizer": "random", "vocabulary_size": VOCABULARY})
        (folder / f"{name}.flat.bin").hardlink_to(folder / f"{name}.bin")  # ids below 2^31: as int32, so as uint32
        np.save(folder / f"{name}.npy", np.memmap(folder / f"{name}.bin", np.uint32, "r"))
    (folder / "own.py").write_text(OWN_CLASS)


def open_sides(folder: Path, *, sequence_length: int, micro_batch: int, samples: int) -> dict[str, Side]:
    """Every side by its name, ready to read; says what it took to open them."""
    began = time.perf_counter()
    mixture = open_ours(folder, sequence_length=sequence_length)
    print(f"our mixture opened in {(time.perf_counter() - began) * 1e3:.1f} ms")
    began = time.perf_counter()
    dataset = open_megatron(folder, sequence_length=sequence_length, samples=samples)
    print(f"Megatron's datasets built in {(time.perf_counter() - began) * 1e3:.1f} ms")
    numbers = partial(batch_sample_numbers, global_batch=micro_batch, replica=0, replicas=1, micro_batch=micro_batch)
    sides: dict[str, Side] = {
        "native": partial(native_batches, mixture, numbers),
        "native_direct": partial(direct_batches, mixture, numbers),
    }
    for side, (path, dtype) in FORMATS.items():
        other = open_ours(folder, sequence_length=sequence_length, path=path, dtype=dtype)
        sides[side] = partial(native_batches, other, numbers)
    for workers in (0, 1, 2):
        sides[f"torch_{workers}"] = partial(torch_batches, dataset, micro_batch, samples, workers)
    if find_spec("nvidia") and find_spec("nvidia.dali"):
        sides["dali"] = lambda first: prefetch(dali_steps(mixture, numbers, start=first))
        sides["dali_direct"] = lambda first: dali_steps(mixture, numbers, start=first)
    else:
        print("DALI is not installed: left out")
    return sides


def open_ours(
    folder: Path, *, sequence_length: int, path: str = "{folder}/{name}", dtype: Literal["uint32"] | None = None
) -> OpenMixture:
    sources = [
        Source(name=name, weight=weight, paths=(path.format(folder=folder, name=name),), dtype=dtype)
        for name, weight in WEIGHTS.items()
    ]
    return open_mixture(
        Mixture(sources=tuple(sources)),
        sequence_length=sequence_length,
        seed=1,
        tokenizer_fingerprint="random",
        vocabulary_size=VOCABULARY,
    )


class MegatronTokenizer:
    """The part of a tokenizer's interface that Megatron's datasets use."""

    vocab_size, eod, eos, pad, unique_identifiers = VOCABULARY, END, END, -1, {"class": "random"}


def open_megatron(folder: Path, *, sequence_length: int, samples: int) -> Any:
    """A BlendedDataset over GPTDatasets, built as a training script would (without its cache, which asks for ranks)."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=sequence_length,
        blend=([str(folder / name) for name in WEIGHTS], list(WEIGHTS.values())),
        split="1,0,0",
        tokenizer=MegatronTokenizer(),  # pyright: ignore[reportArgumentType]
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    return BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config).build()[0]


def direct_batches(
    mixture: OpenMixture, numbers: Callable[[int], np.ndarray], first: int
) -> Generator[Any, None, None]:
    """Made when asked for, in the consumer's thread."""
    step = first
    while True:
        yield [mixture.batch(numbers_B) for numbers_B in numbers(step)]
        step += 1


def native_batches(
    mixture: OpenMixture, numbers: Callable[[int], np.ndarray], first: int
) -> Generator[Any, None, None]:
    """As `megaphi train` reads: a thread works ahead."""
    return prefetch(direct_batches(mixture, numbers, first))


def torch_batches(dataset: Any, micro_batch: int, samples: int, workers: int, first: int) -> Generator[Any, None, None]:
    """As Megatron-LM reads: consecutive sample numbers, torch's default collation, persistent workers."""
    starts = range(first * micro_batch, samples - micro_batch + 1, micro_batch)
    loader = DataLoader(
        dataset,
        batch_sampler=[list(range(start, start + micro_batch)) for start in starts],
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    yield from loader


def measure(side: Side, first: int, *, batches: int, batch_tokens: int) -> Measured:
    """Speed over `batches` after a few that fill the look-ahead; then the waits of a busy consumer, a tenth as many."""
    began = time.perf_counter()
    with closing(side(first)) as items:
        next(items)
        first_batch = time.perf_counter() - began
        for _ in range(8):
            next(items)
        began = time.perf_counter()
        for _ in range(batches):
            next(items)
        seconds = time.perf_counter() - began
        waits = []
        for _ in range(batches // 10):
            time.sleep(BUSY_SECONDS)
            began = time.perf_counter()
            next(items)
            waits.append(time.perf_counter() - began)
    return Measured(
        tokens_per_second=batches * batch_tokens / seconds,
        first_batch_ms=first_batch * 1e3,
        wait_ms=statistics.median(waits) * 1e3,
    )


def summary(name: str, rounds: list[dict[str, Measured]]) -> list[str]:
    """Medians over the rounds: tokens/s, native's tokens/s over this side's, first batch, wait."""
    found = [one[name] for one in rounds]
    ratios = [one["native"].tokens_per_second / one[name].tokens_per_second for one in rounds]
    return [
        f"{statistics.median(one.tokens_per_second for one in found):.0f}",
        f"{statistics.median(ratios):.2f}",
        f"{statistics.median(one.first_batch_ms for one in found):.2f}",
        f"{statistics.median(one.wait_ms for one in found):.3f}",
    ]


def append(rows: dict[str, list[str]], setting: list[int]) -> None:
    """One line per side: what was measured, where, with what."""
    found = versions()
    dali = metadata.version("nvidia-dali-cuda130") if "dali" in rows else ""
    stamp = [
        date.today().isoformat(),
        "CPU",
        short_commit(),
        found["torch"],
        found["megatron-core"],
        dali,
    ]
    append_rows(RESULTS, COLUMNS.split(), ([*stamp, *setting, name, *row] for name, row in rows.items()))


if __name__ == "__main__":
    main()
