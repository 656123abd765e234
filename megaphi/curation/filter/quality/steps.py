"""Steps that apply a trained classifier: quality, educational value, topic.

Phi-4's report raises what is not science by a path of its own: `Topic` comes first and writes the topic, and
`minimum_by_topic` gives a topic a threshold of its own, lower for history and literature than for the rest. Documents
in a language that has a model of its own go to that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from megaphi.config import FilePath, Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.filter.quality.classifier import TextClassifier, open_classifier
from megaphi.curation.filter.words import language_of
from megaphi.curation.step import OfOne, StepContext
from megaphi.errors import InputError

Probability = Annotated[float, Range(minimum=0, maximum=1)]
QUALITY, EDUCATIONAL, TOPIC, TOPIC_SCORE = "quality", "educational", "topic", "topic_score"
"""Metadata keys: calibrated probabilities with four digits, and the name of a topic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicMinimum:
    """A threshold for one topic."""

    name: str
    """The topic, as the classifier of topics calls it."""
    minimum: Probability


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageClassifier:
    """A classifier for documents in one language."""

    name: str
    """ISO 639-1 code of the language."""
    model: FilePath


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """Settings of a step that keeps documents to which a classifier gives a high probability."""

    model: FilePath
    """Folder of a classifier, which `megaphi curate train-classifier` makes."""
    minimum: Probability | None = None
    """Least probability; the one that was chosen when the classifier was trained, if it is not given."""
    minimum_by_topic: tuple[TopicMinimum, ...] = ()
    """Topics with a threshold of their own; the step `Topic` must come before."""
    by_language: tuple[LanguageClassifier, ...] = ()
    """Languages with a classifier of their own; its own minimum counts if `minimum` is not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality(Threshold):
    """Keep documents that a classifier finds good enough (metadata `quality`)."""

    VERSION: ClassVar[int] = 1

    def open(self, context: StepContext) -> OfOne:
        return _threshold(self, key=QUALITY, reason="low_quality")


@dataclass(frozen=True, kw_only=True, slots=True)
class Educational(Threshold):
    """Keep documents that a classifier finds educational enough (metadata `educational`)."""

    VERSION: ClassVar[int] = 1

    def open(self, context: StepContext) -> OfOne:
        return _threshold(self, key=EDUCATIONAL, reason="low_educational_value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """Find out a document's topic (metadata `topic`, `topic_score`), and keep some topics."""

    VERSION: ClassVar[int] = 1
    model: FilePath
    """Folder of a classifier of classes, which `megaphi curate train-classifier` makes."""
    keep: tuple[str, ...] = ()
    """Topics to keep; an empty list keeps all."""
    unsure: str = "other"
    """The topic of documents that the classifier is not sure about."""
    minimum: Probability = 0.0
    """Probability of being right below which it is not sure."""

    def open(self, context: StepContext) -> OfOne:
        classifier = open_classifier(self.model)
        if classifier.positive:
            raise InputError(f"{self.model} tells {classifier.positive!r} from the rest: Topic needs classes")
        unknown = sorted(set(self.keep) - {*classifier.labels, self.unsure})
        if unknown:
            raise InputError(f"keep: no topic {unknown[0]!r} in {self.model}: {', '.join(classifier.labels)}")

        def look(document: Document) -> Outcome:
            topic, probability = classifier.judge(document.text)
            topic = topic if probability >= self.minimum else self.unsure
            document = document.known(**{TOPIC: topic, TOPIC_SCORE: round(probability, 4)})
            if self.keep and topic not in self.keep:
                return Rejected(document, "topic", f"{topic}, probability {probability:.2f}")
            return document

        return look


def _threshold(step: Threshold, *, key: str, reason: str) -> Callable[[Document], Outcome]:
    general = _opened(step.model)
    of_language = {entry.name: _opened(entry.model) for entry in step.by_language}
    of_topic = {entry.name: entry.minimum for entry in step.minimum_by_topic}
    _check_names(step.by_language, "by_language")
    _check_names(step.minimum_by_topic, "minimum_by_topic")

    def look(document: Document) -> Outcome:
        topic = document.metadata.get(TOPIC)
        if of_topic and topic is None:
            return Rejected(document, "no_topic", "minimum_by_topic needs the step Topic before")
        classifier = of_language.get(language_of(document), general)
        probability = classifier.judge(document.text)[1]
        document = document.known(**{key: round(probability, 4)})
        minimum = of_topic.get(str(topic), classifier.minimum if step.minimum is None else step.minimum)
        if probability < minimum:
            return Rejected(document, reason, f"{probability:.3f}, less than {minimum:.3f}")
        return document

    return look


def _opened(model: str) -> TextClassifier:
    classifier = open_classifier(model)
    if not classifier.positive:
        raise InputError(f"{model} tells classes apart ({', '.join(classifier.labels)}): only Topic takes such a one")
    return classifier


def _check_names(entries: Sequence[TopicMinimum | LanguageClassifier], field: str) -> None:
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{field}: {name!r} is there twice")
