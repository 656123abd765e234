"""Text of real HTML pages: megaphi with both engines, trafilatura, resiliparse, datatrove's extractor; same pages.

Quality against a reference that knows each corpus (`extraction_pages.py`): formulas whose TeX is in the text between
delimiters, listings that are in it byte by byte, cells of tables whose row is in it in order, F1 of words against the
content, words of navigation and footers per 1,000 words of text. Speed in pages per second of CPU time, one thread,
first page not counted. A line of the result is one side on all pages of one corpus, or of all corpora.

    python benchmarks/extraction.py FOLDER

`--model` adds the step ExtractByModel over SmolLM2-135M-Instruct, which labels the blocks of each page: many seconds a
page on a processor, so of few pages (`--every 40 --pages 5`). It was trained for no such thing; the row says what a
model of this size gives as it is.

FOLDER holds unpacked Debian packages (`dpkg-deb -x`): python-scipy-doc, python3.11-doc, gap-doc, octave-doc,
maxima-doc, debian-handbook.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from results_file import append_rows

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the files beside this one, by their full names

from benchmarks.extraction_pages import WORD, Reference, references
from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results" / "extraction.csv"
PEERS = ("trafilatura", "resiliparse", "datatrove")
MARKUP = re.compile(r"[*`\\]|(?<=\|)[\s:-]+(?=\|)")

ADDED = re.compile(r"^(?:[ >]*\d+\. |```\S*)", re.MULTILINE)
"""Words that Markdown adds: numbers of items, languages of listings."""


def megaphi(engine: str) -> Callable[[bytes], str]:
    from megaphi.curation.extract.html.page import extract_html

    def side(content: bytes) -> str:
        return extract_html(content, media_type="text/html", files={}, engine=engine).text  # type: ignore[arg-type]

    return side


def trafilatura(content: bytes) -> str:
    import trafilatura

    return trafilatura.extract(content, output_format="markdown", include_comments=False, include_formatting=True) or ""


def resiliparse(content: bytes) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    return extract_plain_text(bytes_to_str(content, detect_encoding(content) or "utf-8"), main_content=True)


def datatrove(content: bytes) -> str:
    return _datatrove_extractor().extract(content.decode("utf-8", "replace")) or ""


@cache
def _datatrove_extractor() -> Any:
    from datatrove.pipeline.extractors import Trafilatura

    return Trafilatura(favour_precision=True)


def smollm2_labels(folder: Path) -> Callable[[bytes], str]:
    """A small model's decision; its requests are kept in the folder."""
    from benchmarks.smollm2_model import smollm2
    from megaphi.curation.document import Document
    from megaphi.curation.extract.by_model.extract_by_model import ExtractByModel
    from megaphi.curation.pipeline.models import ModelOpener
    from megaphi.curation.step import StepContext

    step = ExtractByModel(sampler=str(smollm2()), otherwise="reject")
    extract = step.open_batch(StepContext(folder=folder, open_sampler=ModelOpener(batch=8)))

    def side(content: bytes) -> str:
        (outcome,) = extract([Document(id="page", source="page", place="page", content=content)])
        if isinstance(outcome, Document):
            print(outcome.metadata["extraction"], flush=True)
            return outcome.text
        print(f"{outcome.reason}: {outcome.detail}", flush=True)
        return ""

    return side


def scores(reference: Reference, text: str) -> dict[str, float]:
    """Counts of one page."""
    dense, plain = "".join(text.split()), without_markup(text)
    words = Counter(WORD.findall(ADDED.sub("", text)))
    common = (words & reference.words).total()
    left = ((words - reference.words) & reference.furniture).total()
    return {
        "formulas": reference.formulas.total(),
        "formulas_kept": sum(min(count, times(tex, dense)) for tex, count in reference.formulas.items()),
        "code": len(reference.code),
        "code_exact": sum(code in text for code in reference.code),
        "cells": sum(map(len, reference.rows)),
        "cells_kept": sum(len(row) for row in reference.rows if without_markup(" ".join(row)) in plain),
        "f1": 2 * common / (words.total() + reference.words.total()),
        "recall": common / reference.words.total(),
        "furniture_left": left,
        "words": words.total(),
    }


def without_markup(text: str) -> str:
    """Text on one line without the characters that Markdown adds."""
    return " ".join(MARKUP.sub("", text).replace("|", " ").split())


def times(tex: str, dense: str) -> int:
    """Number of times that a formula stands in a text without white space, between any delimiters."""
    forms = (f"${tex}$", rf"\({tex}\)", rf"\[{tex}\]")
    return sum(dense.count(form) for form in forms)


def measured(name: str, side: Callable[[bytes], str], pages: list[Reference]) -> list[dict[str, object]]:
    """Rows of one side: each corpus, and all."""
    side(pages[0].content)
    results: list[tuple[str, dict[str, float], float]] = []
    for page in pages:
        began = time.process_time()
        text = side(page.content)
        results.append((page.corpus, scores(page, text), time.process_time() - began))
        results[-1][1]["seconds"] = results[-1][2]
    corpora = dict.fromkeys(page.corpus for page in pages)
    return [row(name, corpus, [found for own, found, _ in results if own == corpus]) for corpus in corpora] + [
        row(name, "all", [found for _, found, _ in results])
    ]


def row(name: str, corpus: str, found: list[dict[str, float]]) -> dict[str, object]:
    total = {key: sum(page[key] for page in found) for key in found[0]}
    share = {
        kind: round(100 * total[kept] / total[kind], 1) if total[kind] else ""
        for kind, kept in (("formulas", "formulas_kept"), ("code", "code_exact"), ("cells", "cells_kept"))
    }
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": ", ".join(f"{peer} {version(peer)}" for peer in PEERS if find_spec(peer)),
        "side": name,
        "corpus": corpus,
        "pages": len(found),
        "formulas": int(total["formulas"]),
        "formulas_kept_percent": share["formulas"],
        "listings": int(total["code"]),
        "listings_exact_percent": share["code"],
        "cells": int(total["cells"]),
        "cells_kept_percent": share["cells"],
        "word_f1": round(100 * statistics.fmean(page["f1"] for page in found), 2),
        "word_recall": round(100 * statistics.fmean(page["recall"] for page in found), 2),
        "furniture_words_per_1000": round(1000 * total["furniture_left"] / max(1, total["words"]), 2),
        "pages_per_second": round(len(found) / total["seconds"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sides", nargs="*", help="some of them only")
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="also by SmolLM2's labels, with a journal in FOLDER"
    )
    parser.add_argument("--every", type=int, default=1, help="look at every n-th page only")
    parser.add_argument("--pages", type=int, help="and at the first so many of these")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/extraction.csv")
    arguments = parser.parse_args()
    pages = references(arguments.folder)[:: arguments.every][: arguments.pages]
    sides = {
        "megaphi, trafilatura": megaphi("trafilatura"),
        "megaphi, resiliparse": megaphi("resiliparse"),
        "trafilatura": trafilatura,
        "resiliparse": resiliparse,
        "datatrove": datatrove,
    }
    labels = None
    if arguments.model:
        arguments.model.mkdir(parents=True, exist_ok=True)
        sides["megaphi, SmolLM2-135M labels"] = labels = smollm2_labels(arguments.model)
    rows: list[dict[str, object]] = []
    for name, side in sides.items():
        if name in (arguments.sides or sides):
            rows += measured(name, side, pages)
            if side is labels:  # a journal's answers take no time, and a server's not ours
                rows = [line | {"pages_per_second": ""} if line["side"] == name else line for line in rows]
            for line in rows[-1 - len({page.corpus for page in pages}) :]:
                print(
                    *(str(value) for key, value in line.items() if key not in ("date", "machine", "versions")),
                    sep="\t",
                    flush=True,
                )
    if arguments.write:
        append(rows)


def append(rows: list[dict[str, object]]) -> None:
    append_rows(RESULTS, list(rows[0]), rows)


if __name__ == "__main__":
    main()
