"""Quality classifier on real text: labels, training, calibration, precision and recall with intervals, MB/s of filters.

Good are paragraphs of the documentation of SciPy, Python and GAP and of a book; bad are fortunes, licences and
changelogs, the navigation of the same pages, and the pages' indexes. Both are cut to pieces of 300 to 2,000 characters.
The sources of a class are named, so that the report counts errors for each; pieces of one page may stand on both sides
of the split, which flatters the figures, so the last line is trained without a source (the book, and licences) and
judged on that source alone. A line of the result is a training; a second table has MB/s of each filter on one core.

    python benchmarks/curation_quality.py FOLDER_WITH_UNPACKED_PACKAGES --output FOLDER
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks.curation_corruption import context
from benchmarks.debian_text import page_text
from benchmarks.machine import machine
from megaphi.curation.document import Document
from megaphi.curation.filter.c4 import C4Lines
from megaphi.curation.filter.code import CodeQuality
from megaphi.curation.filter.corruption.corruption import Corruption
from megaphi.curation.filter.corruption.statistics import statistics_by_language, write_statistics
from megaphi.curation.filter.fineweb import FineWebQuality
from megaphi.curation.filter.gopher import GopherQuality, GopherRepetition
from megaphi.curation.filter.language import IdentifyLanguage
from megaphi.curation.filter.personal_data.mask import PersonalData
from megaphi.curation.filter.quality.classifier import open_classifier
from megaphi.curation.filter.quality.measures import portion
from megaphi.curation.filter.quality.report import write_report
from megaphi.curation.filter.quality.steps import Quality
from megaphi.curation.filter.quality.train import ClassifierTraining, train_classifier
from megaphi.curation.step import Step
from megaphi.files import whole_folder

RESULTS = Path(__file__).parent / "results" / "curation_quality.csv"
SPEEDS = Path(__file__).parent / "results" / "curation_filter_speed.csv"
GOOD = ("python-scipy-doc", "python3.11-doc", "gap-doc", "anarchism")
HELD_OUT = ("anarchism", "licences")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="holds the packages, unpacked")
    parser.add_argument("--output", required=True, help="classifiers and reports")
    parser.add_argument("--pieces", type=int, default=600, help="of each source")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/curation_quality.csv")
    arguments = parser.parse_args()
    records = read_records(Path(arguments.folder), pieces=arguments.pieces)
    rows = []
    for name, left_out in (("all", ()), ("without a source", HELD_OUT)):
        rows.append(one_training(name, records, left_out, Path(arguments.output) / name.replace(" ", "_")))
    for row in rows:
        print(row)
    speeds = measure_speed(records, str(Path(arguments.output) / "all"))
    for row in speeds:
        print(row)
    if arguments.write:
        append(RESULTS, rows)
        append(SPEEDS, speeds)


def read_records(folder: Path, *, pieces: int) -> list[dict[str, str]]:
    found = []
    for source in GOOD:
        content, navigation = pages_of(folder / source)
        found += [{"text": text, "label": "good", "source": source} for text in sampled(content, pieces)]
        if source != "anarchism":
            found += [
                {"text": text, "label": "bad", "source": f"navigation of {source}"}
                for text in sampled(navigation, pieces // 2)
            ]
    found += [{"text": text, "label": "bad", "source": "fortunes"} for text in sampled(fortunes(folder), pieces)]
    found += [{"text": text, "label": "bad", "source": "licences"} for text in sampled(licences(folder), pieces)]
    return found


def pages_of(folder: Path) -> tuple[list[str], list[str]]:
    """(Pieces of main content, pieces of what is around it) of the folder's pages."""
    from resiliparse.extract.html2text import extract_plain_text

    paths = sorted(path for path in folder.rglob("*.html") if path.is_file())
    content, navigation = [], []
    for path in random.Random(0).sample(paths, min(len(paths), 250)):
        text = extract_plain_text(path.read_text(errors="ignore"), main_content=True)
        content += [piece for piece in cut(text) if len(re.findall(r"[.!?](?:\s|$)", piece)) >= 3]
        known = set(text.split("\n"))
        around = [line.strip() for line in page_text(path).split("\n")]
        navigation += cut("\n".join(line for line in around if line and line not in known and len(line) < 80))
    return content, navigation


def fortunes(folder: Path) -> Iterator[str]:
    for path in sorted((folder / "fortunes").rglob("*")):
        if path.is_file() and path.suffix in ("", ".u8") and "games" in path.parts:
            yield from cut(re.sub(r"\n%\n", "\n", path.read_text(errors="ignore")))


def licences(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(("copyright", "changelog")) and path.is_file():
            content = path.read_bytes()
            yield from cut((gzip.decompress(content) if path.suffix == ".gz" else content).decode(errors="ignore"))


def cut(text: str) -> list[str]:
    """Pieces at paragraph ends, of 300 to 2,000 characters."""
    found, piece = [], ""
    for paragraph in re.split(r"\n\s*\n", text):
        piece = f"{piece}\n\n{paragraph}".strip()
        if len(piece) >= 300:
            found.append(piece[:2_000])
            piece = ""
    return found


def sampled(pieces: Iterator[str] | list[str], count: int) -> list[str]:
    different = sorted(set(pieces))
    return random.Random(1).sample(different, min(count, len(different)))


def one_training(
    name: str, records: list[dict[str, str]], left_out: tuple[str, ...], output: Path
) -> dict[str, object]:
    settings = ClassifierTraining(positive="good", precision=0.95)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch, whole_folder(output) as folder:
        path = Path(scratch) / "labels.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in records if each["source"] not in left_out))
        report = write_report(folder, train_classifier([str(path)], settings, folder))
    seconds = time.process_time() - began
    row = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "training": name,
        "texts": sum(sum(part.values()) for part in report["texts"].values()),
        "test_texts": sum(report["texts"]["test"].values()),
        "seconds": round(seconds, 1),
        "model_bytes": report["model_bytes"],
        "average_precision": round(report["average_precision"], 4),
        "calibration_error": round(report["expected_calibration_error"], 4),
        "brier": round(report["brier"], 4),
        "minimum": round(report["minimum"], 4),
        **shares_of({name: report["at_minimum"][name] for name in ("precision", "recall")}),
    }
    return row | held_out(records, left_out, output)


def held_out(records: list[dict[str, str]], left_out: tuple[str, ...], output: Path) -> dict[str, object]:
    """Share kept of the sources that training has not seen, with its interval."""
    classifier = open_classifier(str(output))
    found: dict[str, object] = {}
    for source in HELD_OUT:
        texts = [each["text"] for each in records if each["source"] == source] if source in left_out else []
        kept = sum(classifier.judge(text)[1] >= classifier.minimum for text in texts)
        share = portion(kept, len(texts))
        shown = f"{share.share:.3f} ({share.low:.3f} to {share.high:.3f}) of {share.of}" if texts else ""
        found[f"kept_of_unseen_{source}"] = shown
    return found


def shares_of(portions: dict[str, dict[str, float]]) -> dict[str, str]:
    return {
        name: f"{share['share']:.3f} ({share['low']:.3f} to {share['high']:.3f})" for name, share in portions.items()
    }


def measure_speed(records: list[dict[str, str]], classifier: str) -> list[dict[str, object]]:
    """MB/s of each step on one core, the median of three: pages of about 6,000 characters, joined from the pieces."""
    texts = [each["text"] for each in records if each["label"] == "good"]
    pages = [
        Document(id=str(start), source="s", place="p", text="\n\n".join(texts[start : start + 8]))
        for start in range(0, len(texts), 8)
    ]
    megabytes = sum(len(page.text.encode()) for page in pages) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean.safetensors"
        write_statistics(clean, statistics_by_language(("en", page.text) for page in pages))
        steps: list[Step] = [
            *(IdentifyLanguage(keep=()), GopherQuality(), GopherRepetition(), C4Lines(), FineWebQuality()),
            *(
                CodeQuality(),
                Corruption(),
                Corruption(statistics=str(clean)),
                PersonalData(),
                Quality(model=classifier),
            ),
        ]
        rows = []
        for step in steps:
            look, seconds = step.open(context(Path(folder))), []
            for _ in range(3):
                began = time.process_time()
                for page in pages:
                    look(page)
                seconds.append(time.process_time() - began)
            with_file = " with statistics" if isinstance(step, Corruption) and step.statistics else ""
            rows.append(
                {
                    "date": date.today().isoformat(),
                    "machine": machine(),
                    "step": type(step).__name__ + with_file,
                    "megabytes": round(megabytes, 2),
                    "mb_per_second": round(megabytes / statistics.median(seconds), 1),
                }
            )
    return rows


def append(path: Path, rows: list[dict[str, object]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
