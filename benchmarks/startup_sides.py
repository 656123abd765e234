"""The two sides of data_startup.py, each a process of its own: open a corpus, take the first micro-batch, report.

    python -m benchmarks.startup_sides megaphi|megatron CORPUS.json CACHE_FOLDER

Imports come first and are timed apart; a side then starts from the names of the files and ends with the tokens of its
first micro-batch in memory. Memory is what the kernel says of this process, in three parts: the peak of everything that
was resident, and at the end what is anonymous (arrays) and what is pages of mapped files, each beyond the start. The
last line of the output is the report, as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.startup_corpus import TOKENIZER, Corpus

SEED = 1_234
LOOKUPS = 1 << 14
LOOKUP_ROUNDS = 5
END_OF_TEXT = 100_257

Report = dict[str, float]


def main() -> None:
    side, corpus_file, cache = sys.argv[1:]
    corpus = Corpus(**json.loads(Path(corpus_file).read_text()))
    report = {"megaphi": megaphi, "megatron": megatron}[side](corpus, Path(cache))
    print(json.dumps(report))


def megaphi(corpus: Corpus, cache: Path) -> Report:
    """Ours, through the public functions of `megaphi.data.loading.loader`; the cache folder stays empty."""
    from megaphi.data.loading.loader import batch_sample_numbers, open_mixture
    from megaphi.data.order.mixture import Mixture, Source
    from megaphi.data.order.run_order import RunOrder

    report: Report = {"import_s": seconds_since_start()}
    rows = zip(corpus.names, corpus.weights, corpus.paths, strict=True)
    mixture = Mixture(
        sources=tuple(Source(name=name, weight=weight, paths=tuple(paths)) for name, weight, paths in rows)
    )
    with measured(report):
        opened = open_mixture(
            mixture,
            sequence_length=corpus.sequence_length,
            seed=SEED,
            tokenizer_fingerprint=TOKENIZER,
            vocabulary_size=corpus.vocabulary_size,
            total_samples=corpus.total_samples,
        )
        numbers = batch_sample_numbers(0, global_batch=corpus.global_batch, replica=0, replicas=1, micro_batch=1)
        batch = opened.batch(numbers[0])
    assert batch.tokens_BS.shape == (1, corpus.sequence_length)
    assert isinstance(opened.order, RunOrder)
    report["lookup_us"] = per_sample(opened.order.locate, total_samples=corpus.total_samples)
    return report


def megatron(corpus: Corpus, cache: Path) -> Report:
    """Megatron-Core's builder, as its GPT pretraining script calls it on the only rank of a job."""
    import torch
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    report: Report = {"import_s": seconds_since_start()}
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    paths = [path for own in corpus.paths for path in own]
    weights = [weight / len(own) for weight, own in zip(corpus.weights, corpus.paths, strict=True) for _ in own]
    tokenizer = SimpleNamespace(
        vocab_size=corpus.vocabulary_size, eod=END_OF_TEXT, pad=-1, unique_identifiers={"class": "benchmark"}
    )
    config = GPTDatasetConfig(
        random_seed=SEED,
        sequence_length=corpus.sequence_length,
        blend_per_split=[(paths, weights), None, None],
        path_to_cache=str(cache),
        tokenizer=tokenizer,  # pyright: ignore[reportArgumentType]
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    with measured(report):
        sizes = [corpus.total_samples, 0, 0]
        dataset, *_ = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()
        sample: dict[str, Any] = dataset[0]  # pyright: ignore[reportOptionalSubscript, reportAssignmentType]
    assert sample["tokens"].shape == (corpus.sequence_length,)
    return report


@contextmanager
def measured(report: Report) -> Iterator[None]:
    """Add what the block cost in seconds and in MB (10^6 bytes) beyond what the process had before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = memory()
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    report["start_s"], report["cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu
    after = memory()
    report["peak_mb"] = after["VmHWM"] - before["VmRSS"]
    report["arrays_mb"] = after["RssAnon"] - before["RssAnon"]
    report["mapped_mb"] = after["RssFile"] - before["RssFile"]


def memory() -> dict[str, float]:
    """Memory of this process by kind, in MB."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1_024 / 1e6 for words in lines if words[-1] == "kB"}


def per_sample(locate: Callable[[NDArray[np.int64]], object], *, total_samples: int) -> float:
    """Median microseconds per sample to say where random samples of the whole run lie, other ones in every round."""
    generator = np.random.default_rng(SEED)
    times = []
    for _ in range(LOOKUP_ROUNDS):
        numbers = generator.integers(total_samples, size=LOOKUPS)
        began = time.perf_counter()
        locate(numbers)
        times.append((time.perf_counter() - began) / LOOKUPS * 1e6)
    return statistics.median(times)


def seconds_since_start() -> float:
    """Since this process was started, in steps of 10 ms: the interpreter and all imports."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


if __name__ == "__main__":
    main()
