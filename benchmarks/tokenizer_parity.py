"""Does the exported tokenizer give tiktoken's ids? Ten megabytes of real text, in many languages and in code.

Text comes from Debian's archive, once, into a cache folder: one book in many languages (debian-handbook), the German,
Japanese and Polish manual pages, LibreOffice's help in Hindi, and Python's own library as code. Every file goes
through tiktoken's cl100k_base, our encoder, and the export as `AutoTokenizer` loads it; ids are compared one by one,
and the text that comes back from the export's decoder with the text that went in. Not timed: speeds are in
tokenize_throughput.py.

    python benchmarks/tokenizer_parity.py --cache /tmp/debian --write
"""

from __future__ import annotations

import argparse
import csv
import gzip
import html
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from megaphi.engine.versions import versions
from megaphi.log import progress_bar
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.phi4 import load_tokenizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for tiktoken's own encoding, built without a download

RESULTS = ROOT / "benchmarks" / "results" / "tokenizer_parity.csv"
HANDBOOK = ("ar-MA", "de-DE", "el-GR", "es-ES", "fr-FR", "id-ID", "it-IT", "ja-JP", "ko-KR", "ru-RU", "zh-CN", "fa-IR")
"""Languages of the book to read; some of its pages are not translated."""
PACKAGES = ("debian-handbook", "libreoffice-help-hi", "manpages-de", "manpages-ja", "manpages-pl")
COLUMNS = "date commit tokenizers transformers tiktoken language bytes files tokens differing_files differing_decodings"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One language."""

    bytes: int
    files: int
    tokens: int
    differing: int
    """Files whose ids are not tiktoken's."""
    differing_decodings: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for Debian's packages")
    parser.add_argument("--megabytes", type=float, default=1.5, help="of each language (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/tokenizer_parity.csv")
    arguments = parser.parse_args()
    unpacked = fetch(arguments.cache)
    rows = {
        language: compare(language, texts, limit=int(arguments.megabytes * 1e6))
        for language, texts in sources(unpacked).items()
    }
    print(f"{'language':<12} {'MB':>6} {'files':>6} {'tokens':>10} {'files that differ':>18} {'decoded otherwise':>18}")
    for language, row in rows.items():
        print(
            f"{language:<12} {row.bytes / 1e6:>6.2f} {row.files:>6} {row.tokens:>10,} {row.differing:>18} "
            f"{row.differing_decodings:>18}"
        )
    print(f"{sum(row.bytes for row in rows.values()) / 1e6:.1f} MB in all")
    if arguments.write:
        append(rows)


def fetch(cache: Path) -> Path:
    """Debian's packages, downloaded and unpacked where they are not yet."""
    unpacked = cache / "unpacked"
    unpacked.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if next(cache.glob(f"{package}_*.deb"), None) is None:
            subprocess.run(["apt-get", "download", package], cwd=cache, check=True, stdout=subprocess.DEVNULL)
        archive = next(cache.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(archive.resolve()), str(unpacked)], check=True)
    return unpacked


def sources(unpacked: Path) -> dict[str, Iterator[str]]:
    """Language -> its texts."""
    share = unpacked / "usr/share"
    found = {}
    for language in HANDBOOK:
        found[language] = pages(share / "doc/debian-handbook/html" / language, "*.html")
    found["hi-IN"] = pages(share / "libreoffice/help/hi", "**/*.html")
    for language in ("de", "ja", "pl"):
        found[f"manpages {language}"] = manuals(share / "man" / language)
    found["python"] = plain(Path(sysconfig.get_paths()["stdlib"]), "*.py")
    return found


def pages(folder: Path, pattern: str) -> Iterator[str]:
    for path in sorted(folder.glob(pattern)):
        text = re.sub(r"<(script|style).*?</\1>", " ", path.read_text(errors="replace"), flags=re.DOTALL)
        yield html.unescape(re.sub(r"<[^>]+>", " ", text))


def manuals(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("man*/*.gz")):
        with gzip.open(path, "rt", errors="replace") as file:
            yield file.read()


def plain(folder: Path, pattern: str) -> Iterator[str]:
    for path in sorted(folder.glob(pattern)):
        yield path.read_text(errors="replace")


def compare(language: str, texts: Iterator[str], *, limit: int) -> Compared:
    """Up to `limit` bytes of a language's texts through all three encoders."""
    from tests.tokenizer.official import official_cl100k

    official, ours, theirs = official_cl100k(), load_tokenizer(100_352), exported()
    size = files = tokens = differing = decodings = 0
    with progress_bar(total=limit, unit="B", label=language) as bar:
        for text in texts:
            if size >= limit:
                break
            expected = official.encode_ordinary(text)
            is_same = expected == ours.encode(text) == theirs.encode(text, add_special_tokens=False)
            differing += not is_same
            decodings += theirs.decode(expected) != text
            size, files, tokens = size + len(text.encode()), files + 1, tokens + len(expected)
            bar.update(len(text.encode()))
    return Compared(bytes=size, files=files, tokens=tokens, differing=differing, differing_decodings=decodings)


def exported() -> Any:
    """The export, as a user loads it."""
    if not _LOADED:
        with tempfile.TemporaryDirectory() as folder:
            export_tokenizer(load_tokenizer(100_352), folder, model_max_length=1_000_000)
            _LOADED.append(AutoTokenizer.from_pretrained(folder))
    return _LOADED[0]


_LOADED: list[Any] = []


def append(rows: dict[str, Compared]) -> None:
    stamp = [date.today().isoformat(), versions().get("commit", "")[:7]]
    stamp += [version(package) for package in ("tokenizers", "transformers", "tiktoken")]
    is_new = not RESULTS.exists()
    with open(RESULTS, "a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS.split())
        for language, row in rows.items():
            writer.writerow(
                [*stamp, language, row.bytes, row.files, row.tokens, row.differing, row.differing_decodings]
            )


if __name__ == "__main__":
    main()
