"""Precision and recall of the step Corruption on real text with planted kinds of corruption, and clean text kept.

Clean text: pages of the Debian handbook in seven languages, of the documentation of SciPy, Python and GAP, of a book,
each cut at 12,000 characters. Half of the pages makes the statistics (`megaphi curate train-statistics`), the other
half is judged: as it is, and once for each kind with all or a third of it spoiled. Recall is the share of spoiled pages
rejected, the line "clean" has the share of clean pages rejected; both with and without statistics. A line of the result
is a kind.

    python benchmarks/curation_corruption.py FOLDER_WITH_UNPACKED_PACKAGES
"""

from __future__ import annotations

import argparse
import base64
import csv
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.machine import machine
from megaphi.curation.document import Document, Rejected
from megaphi.curation.filter.corruption.corruption import Corruption
from megaphi.curation.filter.corruption.statistics import statistics_by_language, write_statistics
from megaphi.curation.filter.language import IdentifyLanguage
from megaphi.curation.step import OfOne, StepContext

RESULTS = Path(__file__).parent / "results" / "curation_corruption.csv"
PAGE = 12_000
LEAST_PAGES = 40
"""A language with fewer is left out: in the handbook some pages are not translated."""
BOOK = "debian-handbook/usr/share/doc/debian-handbook/html"
SOURCES = {
    **{f"handbook {name}": f"{BOOK}/{name}" for name in "en-US de-DE es-ES fr-FR pt-BR it-IT ja-JP".split()},
    **{name: name for name in ("python-scipy-doc", "python3.11-doc", "gap-doc", "anarchism")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="holds the packages, unpacked")
    parser.add_argument("--pages", type=int, default=60, help="of each source")
    parser.add_argument("--show", action="store_true", help="print the clean pages that are rejected")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/curation_corruption.csv")
    arguments = parser.parse_args()
    pages = read_pages(Path(arguments.folder), pages=arguments.pages)
    count = Counter(language_of(page) for page in pages)
    pages = [page for page in pages if count[language_of(page)] >= LEAST_PAGES]
    clean, judged = pages[::2], pages[1::2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clean.safetensors"
        write_statistics(path, statistics_by_language((language_of(page), page.text) for page in clean))
        steps = {"rules": Corruption(), "statistics": Corruption(statistics=str(path))}
        looks = {name: step.open(context(Path(folder))) for name, step in steps.items()}
        rows = [row_of(name, kind, judged, looks, show=arguments.show) for name, kind in KINDS.items()]
        about = {"date": date.today().isoformat(), "machine": machine(), "pages": len(judged)}
        rows = [{**about, **row, **speed(judged, looks["statistics"])} for row in rows]
    for row in rows:
        print(row)
    if arguments.write:
        append(rows)


def context(folder: Path) -> StepContext:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    return StepContext(folder=folder, open_sampler=refuse)  # pyright: ignore[reportArgumentType]


def read_pages(folder: Path, *, pages: int) -> list[Document]:
    """Main content of the pages, in their language; those of fewer than 1,000 characters are left out."""
    from resiliparse.extract.html2text import extract_plain_text

    identify, found = IdentifyLanguage(keep=()).open(context(folder)), []
    for source, place in SOURCES.items():
        paths = sorted(path for path in (folder / place).rglob("*.html") if path.is_file())
        for path in random.Random(source).sample(paths, min(3 * pages, len(paths))):
            text = extract_plain_text(path.read_text(errors="ignore"), main_content=True)[:PAGE]
            document = identify(Document(id="", source=source, place=str(path), text=text))
            if len(text) >= 1_000 and isinstance(document, Document):
                found.append(document)
            if sum(page.source == source for page in found) == pages:
                break
    return found


def language_of(page: Document) -> str:
    return str(page.metadata["language"])


def mojibake(text: str, draw: random.Random) -> str:
    return text.encode().decode("latin-1")


def substituted(text: str, draw: random.Random) -> str:
    """A scan that was read badly: a tenth of the letters are others, or signs that look like them."""
    alike = {
        "i": "1l|",
        "l": "1I|",
        "o": "0",
        "e": "c",
        "s": "5$",
        "a": "@o",
        "t": "f+",
        "n": "ri",
        "m": "rn",
        "B": "8",
    }
    return "".join(draw.choice(alike.get(sign, "~" + sign)) if draw.random() < 0.25 else sign for sign in text)


def shuffled(text: str, draw: random.Random) -> str:
    """Letters of each word in another order."""
    return " ".join("".join(draw.sample(word, len(word))) for word in text.split(" "))


def random_letters(text: str, draw: random.Random) -> str:
    signs = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,;"
    return "".join(draw.choice(signs) for _ in text)


def encoded(text: str, draw: random.Random) -> str:
    content = base64.b64encode(bytes(draw.randrange(256) for _ in range(len(text) * 3 // 4))).decode()
    return "\n".join(content[start : start + 76] for start in range(0, len(content), 76))


def repeated_lines(text: str, draw: random.Random) -> str:
    line = next((line for line in text.split("\n") if len(line) > 20), "one more time the same")[:80]
    return (line + "\n") * (len(text) // (len(line) + 1) + 1)


def repeated_phrase(text: str, draw: random.Random) -> str:
    words = text.split()[:5] or ["again"]
    return (" ".join(words) + " ") * (len(text) // 20)


def replacement_characters(text: str, draw: random.Random) -> str:
    return "".join("\ufffd" if draw.random() < 0.02 else sign for sign in text)


def spaced(text: str, draw: random.Random) -> str:
    return "   ".join(" ".join(word) for word in text.split(" "))[: len(text)]


KINDS: dict[str, Callable[[str, random.Random], str] | None] = {
    "clean": None,
    "mojibake": mojibake,
    "scan": substituted,
    "shuffled_letters": shuffled,
    "random_letters": random_letters,
    "base64": encoded,
    "repeated_lines": repeated_lines,
    "repeated_phrase": repeated_phrase,
    "replacement_characters": replacement_characters,
    "spaced_letters": spaced,
}


def row_of(
    name: str,
    kind: Callable[[str, random.Random], str] | None,
    judged: Sequence[Document],
    looks: dict[str, OfOne],
    *,
    show: bool,
) -> dict[str, object]:
    """Shares of pages rejected, spoiled as a whole and by a third, by both settings of the step."""
    row: dict[str, object] = {"kind": name}
    draw = random.Random(name)
    for part, share in (("whole", 1.0), ("third", 1 / 3)):
        texts = [page.text if kind is None else spoiled(page.text, kind, share, draw) for page in judged]
        changed = [place for place, page in enumerate(judged) if kind is None or texts[place] != page.text]
        for setting, look in looks.items():
            found = [look(Document(**{**plain(judged[place]), "text": texts[place]})) for place in changed]
            rejected = [each for each in found if isinstance(each, Rejected)]
            row[f"{part}_{setting}"] = round(len(rejected) / max(len(changed), 1), 4)
            row[f"{part}_{setting}_reasons"] = " ".join(
                f"{reason}:{count}" for reason, count in Counter(each.reason for each in rejected).most_common(3)
            )
            if show and kind is None and part == "whole":
                for each in rejected:
                    print(f"  {setting}: {each.document.place} {each.reason} {each.detail}")
    return row


def plain(page: Document) -> dict[str, object]:
    return {"id": "", "source": page.source, "place": page.place, "metadata": page.metadata}


def spoiled(text: str, kind: Callable[[str, random.Random], str], share: float, draw: random.Random) -> str:
    start = draw.randrange(max(1, int(len(text) * (1 - share)) + 1))
    stop = start + int(len(text) * share)
    return text[:start] + kind(text[start:stop], draw) + text[stop:]


def speed(judged: Sequence[Document], look: OfOne) -> dict[str, float]:
    began = time.process_time()
    for page in judged:
        look(page)
    megabytes = sum(len(page.text.encode()) for page in judged) / 1e6
    return {"mb_per_second": round(megabytes / (time.process_time() - began), 2)}


def append(rows: list[dict[str, object]]) -> None:
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
