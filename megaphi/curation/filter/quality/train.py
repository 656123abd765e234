"""Training of a document classifier: fastText supervised, calibrated on a second part and measured on a third.

Two things to know of fastText. Its table of word n-grams has 2 million rows by default, 0.5 GB for a few thousand
texts: `bucket` is set, and the model is quantised. And with one thread it initialises a tenth of its input matrix; the
rest is memory as it was found, so that two runs differ and some end in NaN. glibc is told to hand out zeros while it
trains (`mallopt`), which makes a model that is the same to the byte for the same texts, settings and seed.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from megaphi.config import Range, to_plain
from megaphi.curation.filter.quality.calibration import Calibration, fit_calibration
from megaphi.curation.filter.quality.classifier import FORMAT, MANIFEST, MODEL, raw_score
from megaphi.curation.filter.quality.labelled import (
    HIGH,
    Labelled,
    LabelledTexts,
    RecordKeys,
    check_parts,
    features_of,
    read_labelled,
)
from megaphi.curation.filter.quality.measures import Judged, threshold_for
from megaphi.errors import InputError, RunFailed, did_you_mean
from megaphi.files import sha256_of, write_json

Share = Annotated[float, Range(above=0, below=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierTraining:
    """Settings of a classifier's training."""

    PERTURB: ClassVar[int] = -6
    """M_PERTURB of glibc's mallopt."""
    text_key: str = "text"
    """Field of a record with its text; a dot goes into an object: metadata.topic."""
    label_key: str = "label"
    """Field with its label; a record that has one needs no score."""
    score_key: str = "score"
    """Field with its score, a number."""
    source_key: str = "source"
    """Field that says where it is from: errors are counted for each."""
    minimum_score: float = 3.0
    """Scores from here on become the label `high`, others `low`: 3 of 5 is FineWeb-Edu's (arXiv 2406.17557)."""
    positive: str = ""
    """The label to keep documents of; not given: classes, as for topics, or `high` where records have scores."""
    precision: Share | None = 0.9
    """Precision that the minimum is to reach; only where there is a positive label."""
    keep_share: Share | None = None
    """Share of documents that the minimum is to keep, in the precision's place."""
    calibration_share: Share = 0.15
    """Share of the texts that calibrate."""
    test_share: Share = 0.15
    """Share of the texts that the report is about."""
    test_sources: tuple[str, ...] = ()
    """Sources that the report is about instead, whole; nothing of them is trained or calibrated on."""
    longest_text: Annotated[int, Range(minimum=100)] = 10_000
    """Characters of a text that the classifier looks at."""
    dimension: Annotated[int, Range(minimum=2, maximum=1_000)] = 64
    epochs: Annotated[int, Range(minimum=1)] = 10
    learning_rate: Annotated[float, Range(above=0, maximum=5)] = 0.3
    word_ngrams: Annotated[int, Range(minimum=1, maximum=6)] = 2
    minimum_count: Annotated[int, Range(minimum=1)] = 3
    """Texts' words that are rarer are left out."""
    bucket: Annotated[int, Range(minimum=1_000, maximum=20_000_000)] = 200_000
    """Rows for word n-grams, which share rows by a hash; a row takes dimension / 2 bytes in the model's file."""
    seed: Annotated[int, Range(minimum=0, maximum=1_000_000_000)] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedClassifier:
    """A classifier that was written, and what it said of the test part."""

    texts: LabelledTexts
    labels: tuple[str, ...]
    positive: str
    calibration: Calibration
    minimum: float
    chosen: str
    """The rule that gave the minimum, in words."""
    judged: list[Judged]
    model_bytes: int


def train_classifier(paths: Sequence[str], settings: ClassifierTraining, folder: Path) -> TrainedClassifier:
    """Train, calibrate and judge; the model and `classifier.json` go into `folder`.

    Raises:
        InputError: the records cannot be used, or are too few.
        RunFailed: the training diverged.
    """
    texts = _read(paths, settings)
    labels, positive = tuple(texts.labels), _positive(settings, texts.labels)
    model = _fit(texts.train, labels, settings, folder / MODEL)

    def judge(items: Sequence[Labelled]) -> list[tuple[Labelled, str, float, bool]]:
        found = []
        for item in items:
            answer, score = raw_score(model, item.text, labels=labels, positive=positive, longest=settings.longest_text)
            found.append((item, answer, score, item.label == answer))
        return found

    seen = judge(texts.calibration)
    calibration = fit_calibration([score for _, _, score, _ in seen], [right for *_, right in seen])
    calibrated = [_judged(calibration, *entry) for entry in seen]
    minimum, chosen = threshold_for(
        calibrated, precision=settings.precision if positive else None, keep_share=settings.keep_share
    )
    _write_manifest(folder, settings, labels, positive, calibration, minimum)
    return TrainedClassifier(
        texts=texts,
        labels=labels,
        positive=positive,
        calibration=calibration,
        minimum=minimum,
        chosen=chosen,
        judged=[_judged(calibration, *entry) for entry in judge(texts.test)],
        model_bytes=(folder / MODEL).stat().st_size,
    )


def _read(paths: Sequence[str], settings: ClassifierTraining) -> LabelledTexts:
    shares = (settings.calibration_share, settings.test_share)
    if sum(shares) > 0.9:
        raise InputError(
            f"calibration_share + test_share = {sum(shares):.2f}: at least a tenth must be left to train on"
        )
    keys = RecordKeys(
        text=settings.text_key, label=settings.label_key, score=settings.score_key, source=settings.source_key
    )
    texts = read_labelled(
        paths,
        keys=keys,
        minimum_score=settings.minimum_score,
        shares=shares,
        seed=settings.seed,
        test_sources=settings.test_sources,
    )
    check_parts(texts)
    return texts


def _positive(settings: ClassifierTraining, labels: Sequence[str]) -> str:
    positive = settings.positive or (HIGH if set(labels) == {"high", "low"} else "")
    if positive and positive not in labels:
        raise InputError(f"positive={positive}: no text has this label.{did_you_mean(positive, labels)}")
    return positive


def _fit(items: Sequence[Labelled], labels: Sequence[str], settings: ClassifierTraining, path: Path) -> Any:
    """The quantised model, written to `path`, as fastText's inner object."""
    try:
        from fasttext import train_supervised
    except ImportError:
        raise InputError("fastText is not installed: pip install 'megaphi[curation]'") from None
    from megaphi.curation.filter.fasttext_file import as_line, open_model

    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as lines:
        for item in items:
            line = as_line(features_of(item.text, longest=settings.longest_text))
            lines.write(f"__label__{labels.index(item.label)} {line}\n")
        lines.flush()
        try:
            with zeroed_memory():
                model = train_supervised(
                    input=lines.name,
                    dim=settings.dimension,
                    epoch=settings.epochs,
                    lr=settings.learning_rate,
                    wordNgrams=settings.word_ngrams,
                    minCount=settings.minimum_count,
                    bucket=settings.bucket,
                    seed=settings.seed,
                    thread=1,
                    verbose=0,
                )
                model.quantize(input=lines.name, qnorm=True, thread=1, verbose=0)
                model.save_model(str(path))
        except RuntimeError as error:
            raise RunFailed(f"fastText's training failed ({error}): try learning_rate=0.1") from None
        except ValueError as error:
            raise InputError(f"fastText cannot train on these texts: {error}") from None
    return open_model(str(path))


@contextmanager
def zeroed_memory() -> Iterator[None]:
    """Let the C library fill all memory that it hands out with zeros.

    Raises:
        InputError: it is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or mallopt(ClassifierTraining.PERTURB, 255) != 1:
        raise InputError("fastText reads memory that it does not fill, and only glibc (Linux) can be told to zero it")
    try:
        yield
    finally:
        mallopt(ClassifierTraining.PERTURB, 0)


def _judged(calibration: Calibration, item: Labelled, answer: str, score: float, right: bool) -> Judged:
    return Judged(
        text=item.text,
        label=item.label,
        source=item.source,
        place=item.place,
        answer=answer,
        probability=float(calibration(score)),
        positive=right,
    )


def _write_manifest(
    folder: Path,
    settings: ClassifierTraining,
    labels: tuple[str, ...],
    positive: str,
    calibration: Calibration,
    minimum: float,
) -> None:
    write_json(
        folder / MANIFEST,
        {
            "format": FORMAT,
            "labels": list(labels),
            "positive": positive,
            "longest_text": settings.longest_text,
            "minimum": minimum,
            "model_sha256": sha256_of(folder / MODEL),
            "calibration": {
                "scores": list(calibration.scores),
                "probabilities": list(calibration.probabilities),
            },
            "settings": to_plain(settings),
        },
    )
