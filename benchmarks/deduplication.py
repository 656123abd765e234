"""Near-duplicates among documents with planted copies: recall, precision, processor time and memory, and three peers.

Documents are ten lines each, drawn from all lines of real text (unpacked Debian packages); one in twenty is a copy of
an earlier one with 1, 5 or 10 % of its words replaced. The second set are twin renderings of one manual (gap-doc: each
page as HTML and as HTML with MathJax), tags taken off. All sides compare runs of five words by 14 bands of 8 rows:
megaphi (links checked at similarity 0.7, and unchecked, as the others'), datatrove's four steps, datasketch's
MinHashLSH, rensa (its flags of documents that have a duplicate). `megaphi sensitive` has other settings: 3 words, 25
bands of 4 rows, similarity 0.5.

Recall is the share of copies that are found; precision the share of found documents that are copies (for rensa: that
are copies or originals). Each side is a process of its own that reads the documents from one file; seconds are its
processor time from there on, memory its peak; `us_deciding` is the part of megaphi's that one process does for all
shards. datatrove's words are split at blanks, not by the spaCy that it asks for, and its hash is given bytes, which
today's xxhash wants. Peers take `--peer-documents` where all would take too long.

    python benchmarks/deduplication.py --text unpacked/ --documents 1000000 --peer-documents 100000 --write
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results_file import append_rows

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results" / "deduplication.csv"
WORDS, BANDS, ROWS = 5, 14, 8
EDITS = (0.01, 0.05, 0.10)
SIDES = ("megaphi", "megaphi unchecked", "megaphi sensitive", "rensa", "datatrove", "datasketch")
SHARD = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="folder of text files, with gap-doc's manual in it")
    parser.add_argument("--documents", type=int, default=1_000_000, help="for megaphi, and for rensa")
    parser.add_argument("--peer-documents", type=int, default=100_000, help="for datatrove and datasketch, and for all")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/deduplication.csv")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run_side(arguments.side, *map(Path, arguments.files))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sizes = sorted({arguments.peer_documents, arguments.documents})
        truths = {size: write_documents(arguments.text, folder / f"{size}.jsonl", size) for size in sizes}
        twins = write_twins(arguments.text, folder / "twins.jsonl")
        for size in sizes:
            for side in arguments.sides:
                if size > arguments.peer_documents and side in ("datatrove", "datasketch"):
                    continue
                row = measured(side, folder / f"{size}.jsonl", truths[size], twins=(folder / "twins.jsonl", twins))
                print(row, flush=True)
                if arguments.write:
                    append(row)


def write_documents(folder: Path, output: Path, count: int) -> list[tuple[float, int] | None]:
    """Write documents; for each copy (its share of edits, its original)."""
    draw = random.Random(count)
    lines: set[str] = set()
    kinds = {".html", ".txt", ".py", ".go", ".tex"}
    for path in sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.is_file()):
        text = path.read_bytes()[:1_000_000].decode("utf-8", "replace")
        lines |= {line.strip() for line in text.split("\n") if 40 < len(line.strip()) < 300}
    pool = sorted(lines)
    vocabulary = " ".join(draw.choices(pool, k=5_000)).split()
    truth: list[tuple[float, int] | None] = []
    originals: list[tuple[int, str]] = []
    with open(output, "w") as file:
        for number in range(count):
            share = draw.choice(EDITS) if number > 20 and draw.random() < 0.05 else None
            if share is None:
                text = "\n".join(draw.choices(pool, k=10))
                truth.append(None)
                if len(originals) < 10_000 or draw.random() < 0.01:
                    originals.append((number, text))
            else:
                original, before = draw.choice(originals)
                text = " ".join(
                    draw.choice(vocabulary) if draw.random() < share else word for word in before.split(" ")
                )
                truth.append((share, original))
            file.write(json.dumps(text) + "\n")
    return truth


def write_twins(folder: Path, output: Path) -> list[tuple[float, int] | None]:
    """Write the pages of GAP's manuals, each in two renderings; the second of each pair is a copy."""
    from lxml import html

    truth: list[tuple[float, int] | None] = []
    with open(output, "w") as file:
        for path in sorted(folder.rglob("*_mj.html")):
            plain = path.with_name(path.name.replace("_mj.html", ".html"))
            for page in (plain, path) if plain.exists() else ():
                body = html.fromstring(page.read_bytes()).find("body")
                file.write(json.dumps(str(body.text_content()) if body is not None else "") + "\n")
                truth.append((0.0, len(truth) - 1) if page is path else None)
    return truth


def measured(side: str, documents: Path, truth: Sequence[Any], *, twins: tuple[Path, Sequence[Any]]) -> dict[str, Any]:
    found, about = in_process(side, documents)
    row: dict[str, Any] = {"date": date.today().isoformat(), "machine": machine(), "side": side}
    row["version"] = version(side) if not side.startswith("megaphi") else version("megaphi")
    row["documents"] = len(truth)
    for share in EDITS:
        copies = [number for number, one in enumerate(truth) if one is not None and one[0] == share]
        row[f"recall_{share:.0%}"] = round(sum(number in found for number in copies) / len(copies), 4)
    row["precision"] = precision(side, found, truth)
    row["us_per_document"] = round(about["seconds"] / len(truth) * 1e6, 1)
    row["peak_mb"] = round(about["peak_mb"])
    deciding = about["deciding"]
    found, _ = in_process(side, twins[0])
    copies = [number for number, one in enumerate(twins[1]) if one is not None]
    row["twins"] = len(copies)
    row["recall_twins"] = round(sum(number in found for number in copies) / len(copies), 4)
    row["precision_twins"] = precision(side, found, twins[1])
    row["us_deciding"] = "" if deciding is None else round(deciding / len(truth) * 1e6, 1)
    return row


def precision(side: str, found: set[int], truth: Sequence[Any]) -> float:
    right = {number for number, one in enumerate(truth) if one is not None}
    if side == "rensa":
        right |= {one[1] for one in truth if one is not None}
    return round(len(found & right) / max(1, len(found)), 4)


def in_process(side: str, documents: Path) -> tuple[set[int], dict[str, float]]:
    output = documents.with_suffix(".found.json")
    subprocess.run([sys.executable, __file__, "--side", side, str(documents), str(output)], check=True)
    record = json.loads(output.read_text())
    return set(record["found"]), record


def run_side(side: str, documents: Path, output: Path) -> None:
    """Find duplicates; write the numbers of the documents found, seconds and memory."""
    functions = {"rensa": with_rensa, "datatrove": with_datatrove, "datasketch": with_datasketch}
    began = time.process_time()
    found, deciding = (functions[side](documents), None) if side in functions else with_megaphi(documents, side)
    seconds = time.process_time() - began
    record = {"found": sorted(found), "seconds": seconds, "deciding": deciding, "peak_mb": peak_megabytes()}
    output.write_text(json.dumps(record))


def peak_megabytes() -> float:
    """Peak of this process's memory, files that it mapped included; getrusage would begin with its parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def texts_of(documents: Path) -> Iterator[str]:
    with open(documents) as file:
        yield from map(json.loads, file)


def with_megaphi(documents: Path, side: str) -> tuple[set[int], float]:
    """The documents found, and the seconds of the part that one process does for all shards."""
    from itertools import islice

    from megaphi.curation.deduplicate.near import NearDuplicates
    from megaphi.curation.document import Document, Rejected

    step = NearDuplicates(words=WORDS, bands=BANDS, rows=ROWS, similarity=0.0 if side.endswith("unchecked") else 0.7)
    if side.endswith("sensitive"):
        step = NearDuplicates(words=3, bands=25, rows=4, similarity=0.5)
    with tempfile.TemporaryDirectory() as temporary:
        gathered, found = [], set()
        every = (Document(id=str(one), source="", place="", text=text) for one, text in enumerate(texts_of(documents)))
        while shard := list(islice(every, SHARD)):
            gathered.append(Path(temporary) / str(len(gathered)))
            gathered[-1].mkdir()
            step.gather(shard, len(gathered) - 1, gathered[-1])
        decisions = Path(temporary) / "decisions"
        decisions.mkdir()
        began = time.process_time()
        step.decide(gathered, decisions)
        deciding = time.process_time() - began
        decide = step.open_decided(decisions, 0)
        for number, text in enumerate(texts_of(documents)):
            if number and number % SHARD == 0:
                decide = step.open_decided(decisions, number // SHARD)
            if isinstance(decide(Document(id=str(number), source="", place="", text=text)), Rejected):
                found.add(number)
        return found, deciding


def runs_of(text: str) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[start : start + WORDS]) for start in range(max(1, len(words) - WORDS + 1))}


def with_rensa(documents: Path) -> set[int]:
    from rensa import RMinHash, RMinHashLSH  # pyright: ignore[reportAttributeAccessIssue]

    index = RMinHashLSH(threshold=0.7, num_perm=BANDS * ROWS, num_bands=BANDS)
    flags: list[bool] = []
    matrices = []
    batch: list[set[str]] = []
    for text in texts_of(documents):
        batch.append(runs_of(text))
        if len(batch) == 10_000:
            matrices.append(RMinHash.digest_matrix_from_token_sets(batch, BANDS * ROWS, 42))
            batch = []
    if batch:
        matrices.append(RMinHash.digest_matrix_from_token_sets(batch, BANDS * ROWS, 42))
    start = 0
    for matrix in matrices:
        index.insert_matrix(matrix, start)
        start += matrix.len()
    for matrix in matrices:
        flags += index.query_duplicate_flags_matrix(matrix)
    return {number for number, flag in enumerate(flags) if flag}


def with_datasketch(documents: Path) -> set[int]:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    found = set()
    for number, text in enumerate(texts_of(documents)):
        signature = MinHash(num_perm=BANDS * ROWS)
        signature.update_batch([run.encode() for run in runs_of(text)])
        if index.query(signature):
            found.add(number)
        index.insert(number, signature, check_duplication=False)
    return found


class SplitAtBlanks:
    """A tokenizer for datatrove: faster than spaCy's, which it asks for, on text without punctuation."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def with_datatrove(documents: Path) -> set[int]:
    from unittest.mock import patch

    import numpy as np
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.utils.logging import logger

    logger.remove()
    config = minhash.MinhashConfig(n_grams=WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)
    with tempfile.TemporaryDirectory() as folder:
        with patch("datatrove.pipeline.dedup.minhash.load_word_tokenizer", lambda language: SplitAtBlanks()):
            sign = minhash.MinhashDedupSignature(f"{folder}/signatures", config)
        sign._hash_func = lambda run: xxhash.xxh64_intdigest(run.encode())
        sign.run((Document(text=text, id=str(one)) for one, text in enumerate(texts_of(documents))), rank=0)
        for band in range(BANDS):
            minhash.MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config).run(
                None, rank=band, world_size=BANDS
            )
        minhash.MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config).run(None, 0, 1)
        removed = np.fromfile(f"{folder}/remove/000000.remove", "<u4")
    return set(removed.tolist())


def append(row: dict[str, Any]) -> None:
    append_rows(RESULTS, list(row), [row])


if __name__ == "__main__":
    main()
