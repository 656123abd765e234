"""A folder with a trained classifier: `classifier.json`, the quantised model of fastText, and the report about it.

`classifier.json` says what the classifier tells apart, how its scores become probabilities, which least probability was
chosen when it was trained, and the SHA-256 of the model, which is checked when it is opened.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from megaphi.curation.filter.fasttext_file import open_model, predict
from megaphi.curation.filter.quality.calibration import Calibration, calibration_from
from megaphi.curation.filter.quality.labelled import features_of
from megaphi.errors import InputError
from megaphi.files import read_object, sha256_of

Kind = TypeVar("Kind")
MANIFEST, MODEL = "classifier.json", "model.ftz"
FORMAT = "megaphi classifier 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class TextClassifier:
    """An opened classifier."""

    folder: str
    model: Any
    labels: tuple[str, ...]
    positive: str
    """The label that its probability is of; empty if it tells classes apart."""
    longest_text: int
    """Characters of a text that it looks at."""
    calibration: Calibration
    minimum: float
    """Probability that was chosen when it was trained."""

    def judge(self, text: str) -> tuple[str, float]:
        """(Label, calibrated probability): of the positive label, or of the most probable class to be the right one."""
        label, score = self.raw(text)
        return label, float(self.calibration(score))

    def raw(self, text: str) -> tuple[str, float]:
        """(Label, score) as fastText gives it."""
        return raw_score(self.model, text, labels=self.labels, positive=self.positive, longest=self.longest_text)


def raw_score(model: Any, text: str, *, labels: tuple[str, ...], positive: str, longest: int) -> tuple[str, float]:
    """The positive label and its share, or the most probable class and its share; 0 for a text without a word."""
    line = features_of(text, longest=longest)
    found = [(labels[int(name)], share) for name, share in predict(model, line, labels=len(labels))] if line else []
    if positive:
        return positive, dict(found).get(positive, 0.0)
    return found[0] if found else (labels[0], 0.0)


@functools.cache
def open_classifier(folder: str) -> TextClassifier:
    """Open a folder that `megaphi curate train-classifier` wrote, once in a process.

    Raises:
        InputError: there is none, it is damaged, or its model is not the one that was trained.
    """
    path = Path(folder)
    if not (path / MANIFEST).is_file():
        raise InputError(f"{folder} holds no classifier ({MANIFEST}): megaphi curate train-classifier makes one")
    plain = read_object(path / MANIFEST, what="classifier")
    where = str(path / MANIFEST)
    if plain.get("format") != FORMAT:
        raise InputError(f"{where}: expected the format {FORMAT!r}, found {plain.get('format')!r}")
    if not (path / MODEL).is_file() or sha256_of(path / MODEL) != _field(plain, "model_sha256", str, where):
        raise InputError(f"{path / MODEL} is missing, or not the model that {where} describes: train it again")
    labels, positive = _field(plain, "labels", list, where), _field(plain, "positive", str, where)
    if not labels or not all(isinstance(label, str) for label in labels) or positive not in ("", *labels):
        raise InputError(f"{where}: damaged: labels must be texts, and positive one of them or empty")
    return TextClassifier(
        folder=folder,
        model=open_model(str(path / MODEL)),
        labels=tuple(labels),
        positive=positive,
        longest_text=_field(plain, "longest_text", int, where),
        calibration=calibration_from(plain.get("calibration"), where=where),
        minimum=_field(plain, "minimum", float, where),
    )


def _field(plain: Mapping[str, Any], name: str, kind: type[Kind], where: str) -> Kind:
    value = plain.get(name)
    if not isinstance(value, kind):
        raise InputError(f"{where}: damaged: {name} must be of the type {kind.__name__}")
    return value
