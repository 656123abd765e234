"""Verdicts and speed of the published heuristics on real pages: ours, and datatrove's filters on the same texts.

Gopher's quality and repetition, C4 and FineWeb. The texts are the main content of HTML pages, as resiliparse finds it,
and those pages whole, navigation included. A verdict is "kept" or "rejected"; where they differ, ours is asked again
with datatrove's own words (spaCy's) and sentences: if that makes them agree, the difference is where a word ends. If
not, an n-gram that comes once is counted as a repetition, as datatrove does in short texts: "once". Times
are of the processor, with one thread, in turns, medians of the rounds; texts are read before. datatrove keeps the
tokens of the last five texts, which is taken from it here, as other texts come between in a pipeline. The columns: the
texts, on how many the two agree, the differences by cause, MB/s of both, the ratio.

    pip install datatrove spacy loguru humanize
    python benchmarks/curation_heuristics.py FOLDER... --pages 400
"""

from __future__ import annotations

import argparse
import csv
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.debian_text import page_text
from benchmarks.machine import machine
from megaphi.curation.document import Document, Rejected
from megaphi.curation.filter import c4, fineweb, gopher

RESULTS = Path(__file__).parent / "results" / "curation_heuristics.csv"
OURS: dict[str, Any] = {
    "gopher_quality": gopher.GopherQuality(),
    "gopher_repetition": gopher.GopherRepetition(),
    "c4_lines": c4.C4Lines(),
    "fineweb_quality": fineweb.FineWebQuality(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+", help="folders with HTML pages")
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--show", action="store_true", help="print every difference")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/curation_heuristics.csv")
    arguments = parser.parse_args()
    texts = read_texts(arguments.folder, pages=arguments.pages)
    rows = [row for name in OURS for row in [compare(name, texts, rounds=arguments.rounds, show=arguments.show)]]
    for row in rows:
        print(row)
    if arguments.write:
        append(rows)


def read_texts(folders: Sequence[str], *, pages: int) -> list[str]:
    """The content of each page, and the whole of it; the same pages in every run."""
    from resiliparse.extract.html2text import extract_plain_text

    paths = sorted(path for folder in folders for path in Path(folder).rglob("*.html") if path.is_file())
    chosen = random.Random(0).sample(paths, min(pages, len(paths)))
    contents = [extract_plain_text(path.read_text(errors="ignore"), main_content=True) for path in chosen]
    wholes = [re.sub(r"\n\s*\n+", "\n\n", page_text(path)).strip() for path in chosen]
    return [text for text in contents + wholes if text.strip()]


def theirs(name: str) -> Callable[[str], bool]:
    from datatrove.data import Document as TheirDocument
    from datatrove.pipeline import filters

    classes = {
        "gopher_quality": filters.GopherQualityFilter,
        "gopher_repetition": filters.GopherRepetitionFilter,
        "c4_lines": filters.C4QualityFilter,
        "fineweb_quality": filters.FineWebQualityFilter,
    }
    looking = classes[name]()
    return lambda text: looking.filter(TheirDocument(text=text, id="")) is True


def ours(name: str) -> Callable[[str], bool]:
    look = OURS[name].look
    return lambda text: not isinstance(look(Document(id="", source="", place="", text=text)), Rejected)


def compare(name: str, texts: Sequence[str], *, rounds: int, show: bool) -> dict[str, object]:
    from datatrove.utils.text import split_into_parts

    split_into_parts.cache_clear()
    sides = {"megaphi": ours(name), "datatrove": theirs(name)}
    sides["datatrove"](texts[0])  # loads spaCy
    verdicts: dict[str, list[bool]] = {}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, keep in sides.items():
            split_into_parts.cache_clear()
            began = time.process_time()
            verdicts[side] = [keep(text) for text in texts]
            seconds[side].append(time.process_time() - began)
    differ = [
        text
        for text, mine, other in zip(texts, verdicts["megaphi"], verdicts["datatrove"], strict=True)
        if mine != other
    ]
    causes = [cause_of(name, text, sides["datatrove"](text)) for text in differ]
    if show:
        for text, cause in zip(differ, causes, strict=True):
            print(
                f"  {name} ({cause}): ours {reason(name, text)}; theirs {'kept' if sides['datatrove'](text) else 'out'}"
            )
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    speeds = {side: megabytes / statistics.median(times) for side, times in seconds.items()}
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "datatrove": version("datatrove"),
        "rule": name,
        "texts": len(texts),
        "rejected": verdicts["megaphi"].count(False),
        "same": len(texts) - len(differ),
        "differ_by_words": causes.count("words"),
        "differ_by_once": causes.count("once"),
        "differ_otherwise": causes.count("other"),
        "megaphi_mb_per_second": round(speeds["megaphi"], 2),
        "datatrove_mb_per_second": round(speeds["datatrove"], 2),
        "ratio": round(speeds["megaphi"] / speeds["datatrove"], 1),
    }


def reason(name: str, text: str) -> str:
    found = OURS[name].look(Document(id="", source="", place="", text=text))
    return f"{found.reason} ({found.detail})" if isinstance(found, Rejected) else "kept"


def cause_of(name: str, text: str, theirs_keep: bool) -> str:
    """The difference that explains another verdict."""
    from datatrove.utils.text import split_into_sentences, split_into_words

    class Ends:
        @staticmethod
        def findall(line: str) -> list[str]:
            return split_into_sentences(line)[1:]

    def with_single_ones(tokens: list[str], size: int) -> int:
        counts = Counter(zip(*(tokens[start:] for start in range(size)), strict=False))
        return max(((len(" ".join(ngram)) * count) for ngram, count in counts.most_common(1)), default=0)

    kept = gopher.tokens_of, fineweb.tokens_of, c4._SENTENCE_END, gopher.top_ngram_characters
    gopher.tokens_of = fineweb.tokens_of = split_into_words
    c4._SENTENCE_END = Ends  # pyright: ignore[reportAttributeAccessIssue]
    try:
        if ours(name)(text) == theirs_keep:
            return "words"
        gopher.top_ngram_characters = with_single_ones
        return "once" if ours(name)(text) == theirs_keep else "other"
    finally:
        gopher.tokens_of, fineweb.tokens_of, c4._SENTENCE_END, gopher.top_ngram_characters = kept


def append(rows: list[dict[str, object]]) -> None:
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
