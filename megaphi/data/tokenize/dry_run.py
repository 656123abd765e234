"""Description of what `megaphi tokenize` would do: files, shards, bytes, division of work, and approximate tokens.

Tokens are estimated from the first documents of a few files. The surprising part is compressed input, whose size says
little about its text: the sample is compressed by zlib, which is close enough to what the file's own packing achieves.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from itertools import islice

from megaphi.data.text.bad_records import BadRecords
from megaphi.data.text.documents import plan_pieces, read_piece
from megaphi.data.text.input_formats import Format, format_of
from megaphi.data.text.input_identity import InputFile
from megaphi.data.tokenize.plan import TokenizePlan, is_up_to_date
from megaphi.data.tokenize.shards import missing_shards, tokenizer_of
from megaphi.parallel.rendezvous.folder_worker import FolderWorker

SAMPLED_FILES = 8
SAMPLED_DOCUMENTS = 50
SAMPLED_CHARACTERS = 20_000
LISTED_FILES = 10
LISTED_WORKERS = 4


def describe_plan(plan: TokenizePlan, worker: FolderWorker, *, processes: int | None) -> list[str]:
    """The plan in lines."""
    shards = plan.distinct_shards
    missing = missing_shards(shards)
    processes = processes or worker.processes or len(os.sched_getaffinity(0))
    lines = [f"{len(plan.files):,} files, {plan.input_bytes / 1e6:,.1f} MB:"]
    lines += [f"  {file.size_bytes / 1e6:>12,.1f} MB  {file.path}" for file in plan.files[:LISTED_FILES]]
    if len(plan.files) > LISTED_FILES:
        lines.append(f"  ... and {len(plan.files) - LISTED_FILES:,} more")
    lines += plan.left_out.lines()
    lines.append(f"about {estimate_tokens(plan):,.0f} tokens (from a sample)")
    largest = max(shard.size_bytes for shard in shards)
    lines.append(f"{len(shards):,} shards of up to {largest / 1e6:,.1f} MB, {len(shards) - len(missing):,} finished")
    for rank in range(min(worker.world, LISTED_WORKERS)):
        share = shards[rank :: worker.world]
        what = f"{len(share):,} shards, {sum(shard.size_bytes for shard in share) / 1e6:,.1f} MB"
        lines.append(f"  worker {rank} of {worker.world} ({worker.launcher}): {what}, {processes} processes")
    if worker.world > LISTED_WORKERS:
        lines.append(f"  ... and {worker.world - LISTED_WORKERS:,} more workers")
    joiner = "this process" if worker.is_alone else "rank 0" if worker.launcher == "MPI" else "whoever finishes last"
    seed = plan.settings.asked.shuffle_seed
    order = "in input order" if seed is None else f"shuffled with seed {seed}"
    lines.append(f"joined by {joiner}, {order}, into {plan.output}.bin/.idx/.json")
    if is_up_to_date(plan):
        lines.append("which is up to date: nothing would be done")
    return lines


def estimate_tokens(plan: TokenizePlan) -> float:
    """Tokens of all inputs, from the first documents of files spread over the list."""
    settings = plan.settings
    tokenizer = tokenizer_of(settings)
    chosen = plan.files[:: max(1, len(plan.files) // SAMPLED_FILES)][:SAMPLED_FILES]
    tokens = stored = 0.0
    for file in chosen:
        refuse = BadRecords(settings.asked.bad_records).add
        texts = [
            text[:SAMPLED_CHARACTERS]
            for piece in plan_pieces(file.path, piece_bytes=file.size_bytes + 1)
            for text in islice(read_piece(piece, text_key=settings.asked.text_key, refuse=refuse), SAMPLED_DOCUMENTS)
        ]
        tokens += sum(len(tokenizer.encode(text)) + 1 for text in texts)
        stored += _stored_bytes(file, texts, settings.asked.text_key)
    return plan.input_bytes * tokens / stored if stored else 0.0


def _stored_bytes(file: InputFile, texts: Sequence[str], text_key: str) -> int:
    """About the bytes that these texts take in such a file."""
    form = format_of(file.path)
    if form == Format("text"):
        return sum(len(text.encode("utf-8", "replace")) for text in texts)
    lines = "".join(json.dumps({text_key: text}, ensure_ascii=False) + "\n" for text in texts)
    packed = lines.encode("utf-8", "replace")
    return len(packed) if form in (Format("lines"), Format("values")) else len(zlib.compress(packed))
