"""The tokenizer that an export carries, against tiktoken, file by file over real text of many languages and of code.

Four sides encode every file as ordinary text: tiktoken's own cl100k_base, which is right by definition; the exported
files as transformers' AutoTokenizer loads them; and both encoders of `megaphi tokenize`. A file whose ids are not
tiktoken's counts as different. Beside it stands the speed, timed over all files of a language on one thread, all sides
in turn in every round, as the median of the rounds. One difference and the exit code is 1. Text comes from Debian's
archive, once, into a cache folder; Python code from the interpreter that runs this.

    python benchmarks/tokenizer_parity.py --cache /tmp/debian --megabytes 2 --rounds 3
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from results_file import append_rows

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.debian_text import catalogue_text, page_text, unpack
from megaphi.data.tokenize.encoders import find_doubtful_characters, open_encoder
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.phi4 import load_tokenizer
from megaphi.tokenizer.rank_file import CACHE_FILE_NAME, find_rank_file

RESULTS = Path(__file__).parent / "results" / "tokenizer_parity.csv"
HANDBOOK = ("debian-handbook", "usr/share/doc/debian-handbook/html")
Source = tuple[str, str, str, Callable[[Path], str]]
"""Package, folder in it, kind of file, and how such a file becomes text."""
SOURCES: dict[str, Source] = {
    "English": ("python3.11-doc", "usr/share/doc/python3.11/html", "*.html", page_text),
    "German": (HANDBOOK[0], f"{HANDBOOK[1]}/de-DE", "*.html", page_text),
    "French": (HANDBOOK[0], f"{HANDBOOK[1]}/fr-FR", "*.html", page_text),
    "Spanish": (HANDBOOK[0], f"{HANDBOOK[1]}/es-ES", "*.html", page_text),
    "Portuguese": (HANDBOOK[0], f"{HANDBOOK[1]}/pt-BR", "*.html", page_text),
    "Russian": (HANDBOOK[0], f"{HANDBOOK[1]}/ru-RU", "*.html", page_text),
    "Arabic": (HANDBOOK[0], f"{HANDBOOK[1]}/ar-MA", "*.html", page_text),
    "Persian": (HANDBOOK[0], f"{HANDBOOK[1]}/fa-IR", "*.html", page_text),
    "Japanese": (HANDBOOK[0], f"{HANDBOOK[1]}/ja-JP", "*.html", page_text),
    "Chinese": (HANDBOOK[0], f"{HANDBOOK[1]}/zh-CN", "*.html", page_text),
    "Korean": ("libreoffice-l10n-ko", "usr/lib/libreoffice", "*.mo", catalogue_text),
    "Thai": ("libreoffice-l10n-th", "usr/lib/libreoffice", "*.mo", catalogue_text),
    "Hindi": ("libreoffice-l10n-hi", "usr/lib/libreoffice", "*.mo", catalogue_text),
    "Go": ("golang-1.19-src", "usr/share/go-1.19/src", "*.go", lambda path: path.read_text(errors="ignore")),
}
PYTHON = "Python"
RIGHT = "tiktoken"
Encode = Callable[[str], Any]
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for Debian's packages")
    parser.add_argument("--megabytes", type=float, default=2, help="at most so much of each language")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/tokenizer_parity.csv")
    arguments = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), "1") | {"TOKENIZERS_PARALLELISM": "false"}
    encoders, rows = sides(), []
    for language in (*SOURCES, PYTHON):
        texts = list(up_to(documents(language, arguments.cache), megabytes=arguments.megabytes))
        rows.append(measure(language, texts, encoders, rounds=arguments.rounds))
        print_row(rows[-1], with_names=len(rows) == 1)
    rows.append(total(rows))
    print_row(rows[-1], with_names=False)
    if arguments.write:
        append(rows)
    if any(rows[-1][f"{name}_differs"] for name in encoders if name != RIGHT):
        raise SystemExit(1)


def sides() -> dict[str, Encode]:
    """Name -> text to ids, the right ones first; `gigatoken` with megaphi's guard for characters it takes otherwise."""
    import tiktoken
    from transformers import AutoTokenizer

    tokenizer = load_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, CACHE_FILE_NAME).symlink_to(find_rank_file().resolve())
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        official = tiktoken.get_encoding("cl100k_base")
        export_tokenizer(tokenizer, folder, model_max_length=1 << 30)
        exported: Any = AutoTokenizer.from_pretrained(folder)
    doubtful = find_doubtful_characters("gigatoken")
    return {
        RIGHT: official.encode_ordinary,
        "export": lambda text: exported.encode(text, add_special_tokens=False, split_special_tokens=True),
        "megaphi": open_encoder("tiktoken", tokenizer, doubtful=()),
        "gigatoken": open_encoder("gigatoken", tokenizer, doubtful=doubtful),
    }


def documents(language: str, cache: Path) -> Iterator[str]:
    if language == PYTHON:
        paths = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
        yield from (path.read_text(errors="ignore") for path in paths if "site-packages" not in path.parts)
        return
    package, folder, kind, read = SOURCES[language]
    yield from map(read, sorted((unpack(package, cache) / folder).rglob(kind)))


def up_to(texts: Iterator[str], *, megabytes: float) -> Iterator[str]:
    """The first texts, until they hold so many megabytes of UTF-8."""
    written = 0
    for text in texts:
        if written >= megabytes * 1e6:
            return
        written += len(text.encode())
        yield text


def measure(language: str, texts: list[str], encoders: dict[str, Encode], *, rounds: int) -> Row:
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    different = dict.fromkeys(encoders, 0)
    right: list[Any] = []
    for turn, name in itertools.product(range(rounds), encoders):
        start = time.perf_counter()
        found = [encoders[name](text) for text in texts]
        seconds[name].append(time.perf_counter() - start)
        if name == RIGHT:
            right = found
        if turn == 0:
            pairs = zip(found, right, strict=True)
            different[name] = sum(not np.array_equal(ids, expected) for ids, expected in pairs)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    row: Row = {"language": language, "files": len(texts), "megabytes": megabytes, "tokens": sum(map(len, right))}
    row |= {f"{name}_differs": different[name] for name in encoders if name != RIGHT}
    row["tiktoken_mb_per_s"] = megabytes / statistics.median(seconds[RIGHT])
    for name in encoders:
        if name != RIGHT:
            ratios = [ours / theirs for ours, theirs in zip(seconds[RIGHT], seconds[name], strict=True)]
            row[f"{name}_speed"] = statistics.median(ratios)
    return row


def total(rows: list[Row]) -> Row:
    """Sums of files and differences; of speeds the median language."""
    sums = {name: sum(row[name] for row in rows) for name in rows[0] if name != "language"}
    speeds = {
        name: statistics.median(row[name] for row in rows) for name in rows[0] if "_speed" in name or "_per_" in name
    }
    return {"language": "all", **sums, **speeds}


def print_row(row: Row, *, with_names: bool) -> None:
    if with_names:
        print(" ".join(f"{name:>{max(len(name), 10)}}" for name in row))
    cells = {name: f"{value:.2f}" if isinstance(value, float) else str(value) for name, value in row.items()}
    print(" ".join(f"{value:>{max(len(name), 10)}}" for name, value in cells.items()), flush=True)


def append(rows: list[Row]) -> None:
    """One line per language: what was compared, where, with what."""
    from megaphi.checkpoint.versions import short_commit

    stamp = {"date": date.today().isoformat(), "device": f"CPU, {len(os.sched_getaffinity(0))} processors"}
    stamp |= {"commit": short_commit(), "python": platform.python_version()}
    stamp |= {name: version(name) for name in ("tiktoken", "gigatoken", "tokenizers", "transformers")}
    for row in rows:
        rounded = {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()}
        append_rows(RESULTS, [*stamp, *row], [{**stamp, **rounded}])


if __name__ == "__main__":
    main()
