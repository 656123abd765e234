"""Labels for a classifier from a model: educational value from 0 to 5, topic and format of a page, reasons first.

Phi-4's filters were trained on about a million pages that a model had annotated. `megaphi curate label` runs this step
over files of pages; `megaphi curate train-classifier` reads what it wrote, with `score_key=metadata.labels.educational`
or `label_key=metadata.labels.topic`. A page is a quotation in the prompt, whatever it says. Answers are kept in the
step's folder as they come: a run that was killed asks for none of them twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from megaphi.config import FilePath, Range
from megaphi.conversation import Message
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.requests.asking import Missed, ask_values
from megaphi.curation.requests.cost import Cost, CountTokens, of_value
from megaphi.curation.requests.dry_run import Expected
from megaphi.curation.requests.metered import FRAME_TOKENS
from megaphi.curation.requests.opening import Prices, open_samplers
from megaphi.curation.step import ModelName, OfMany, StepContext
from megaphi.errors import InputError
from megaphi.foreign.files import read_text
from megaphi.judging.asking import JsonQuestion, fields_of, text_of
from megaphi.judging.fence import make_fence
from megaphi.sampling import Sampling

LABELS = "labels"
"""Metadata key: {reasons, educational, topic, format}."""
NAMES = ("reasons", "educational", "topic", "format")
TOPICS = tuple(
    "mathematics physics chemistry_and_materials biology_and_medicine computing engineering earth_and_space economics "
    "law politics_and_society history philosophy_and_religion literature_and_arts language_learning education "
    "everyday_life sports_and_entertainment commerce other".split()
)
FORMATS = tuple(
    "textbook article documentation question_and_answer discussion news blog reference exercise creative_writing code "
    "list_or_navigation product_page legal_notice fragment other".split()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPages:
    """Let a model label pages (metadata `labels`); pages that it does not label are rejected, with the reason."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"batch_documents", "prompt_price", "answer_price"})
    sampler: ModelName
    """A server's model as http://HOST:PORT/v1=MODEL, or a checkpoint."""
    rubric: FilePath = ""
    """A prompt of your own, with {topics} and {formats} where their names belong, asking for the same four fields."""
    topics: tuple[str, ...] = TOPICS
    formats: tuple[str, ...] = FORMATS
    shown_characters: Annotated[int, Range(minimum=100)] = 6_000
    """Characters of a page that the model sees."""
    max_tokens: Annotated[int, Range(minimum=16)] = 400
    attempts: Annotated[int, Range(minimum=1, maximum=10)] = 3
    """Times that a page is asked for until the answer can be read."""
    budget_tokens: Annotated[int, Range(minimum=1)] | None = None
    """Prompts and answers together, of all processes and runs in this folder."""
    prompt_price: Annotated[float, Range(minimum=0)] = 0.0
    """Money for a million tokens of prompts, to be shown."""
    answer_price: Annotated[float, Range(minimum=0)] = 0.0
    """Money for a million tokens of answers."""
    batch_documents: Annotated[int, Range(minimum=1)] = 256
    """Pages that are asked for together."""
    seed: int = 0

    @property
    def label(self) -> str:
        return "labels"

    def open_batch(self, context: StepContext) -> OfMany:
        """Raises InputError for a rubric that cannot be read, or a sampler that cannot be opened."""
        rubric = self._rubric()
        samplers = open_samplers(
            context,
            writer=self.sampler,
            judge="",
            budget_tokens=self.budget_tokens,
            prices=Prices(self.prompt_price, self.answer_price),
            label=self.label,
        )

        def label(documents: Sequence[Document]) -> list[Outcome]:
            pages = [document for document in documents if document.text.strip()]
            answers = ask_values(
                samplers.writer,
                [self._question(rubric, page) for page in pages],
                Sampling(max_tokens=self.max_tokens, seed=self.seed),
                schema=self._schema(),
                memory=samplers.journal,
                seeds=[self.seed] * len(pages),
                attempts=self.attempts,
            )
            samplers.show_costs()
            found = iter(answers)
            return [_outcome(page, next(found) if page.text.strip() else Missed("empty")) for page in documents]

        return label

    def bound(self, expected: Expected, count: CountTokens) -> tuple[Cost, list[Expected]]:
        """The question about a page, as often as it may be asked."""
        text = expected.document.text if expected.document is not None else ""
        empty = Document(id="", source="", place="")
        question = self._question(self._rubric(), empty.with_text(text))
        shown = 0 if text else min(expected.tokens, 4 * self.shown_characters)
        tokens = sum(count(message.content) for message in question.messages) + shown + FRAME_TOKENS
        return of_value(tokens, self.max_tokens, attempts=self.attempts), [expected]

    def _rubric(self) -> str:
        path = Path(self.rubric) if self.rubric else Path(__file__).with_name("rubric.txt")
        try:
            text = read_text(path)
        except InputError as error:
            raise InputError(f"rubric: {error}") from None
        if not self.topics or not self.formats:
            raise InputError("topics and formats must not be empty")
        return text.replace("{topics}", ", ".join(self.topics)).replace("{formats}", ", ".join(self.formats))

    def _question(self, rubric: str, document: Document) -> JsonQuestion[dict[str, Any]]:
        text = document.text[: self.shown_characters]
        fence = make_fence(seed=self.seed, name="page", texts=[text])
        messages = (Message("system", f"{rubric.strip()}\n\n{fence.rule}"), Message("user", fence.quote("page", text)))
        return JsonQuestion(messages, partial(read_labels, topics=self.topics, formats=self.formats))

    def _schema(self) -> dict[str, Any]:
        fields = {
            "reasons": {"type": "string"},
            "educational": {"type": "integer", "minimum": 0, "maximum": 5},
            "topic": {"enum": list(self.topics)},
            "format": {"enum": list(self.formats)},
        }
        return {"type": "object", "properties": fields, "required": list(NAMES), "additionalProperties": False}


def read_labels(value: Any, *, topics: Sequence[str], formats: Sequence[str]) -> dict[str, Any]:
    """The labels of an answer. Raises InputError that says what is wrong, and quotes nothing of it."""
    found = fields_of(value, NAMES)
    score = found["educational"]
    if not isinstance(score, int) or isinstance(score, bool) or not 0 <= score <= 5:
        raise InputError("the field 'educational' must be a whole number from 0 to 5")
    for name, known in (("topic", topics), ("format", formats)):
        if found[name] not in known:
            raise InputError(f"the field {name!r} must be one of {', '.join(known)}")
    return {**{name: found[name] for name in NAMES}, "reasons": text_of(found["reasons"], "reasons")}


def _outcome(document: Document, labels: dict[str, Any] | Missed) -> Outcome:
    if isinstance(labels, Missed):
        return Rejected(document, labels.reason, labels.detail)
    return document.known(**{LABELS: labels})
