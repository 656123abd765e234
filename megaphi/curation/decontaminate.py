"""The step that keeps benchmark items out of the training data, by the rule of Phi-4's report (Appendix B.1).

It is the code of `megaphi decontaminate report` (megaphi/decontamination). A document is compared as a whole; prompts
of fine-tuning data, conversations and synthetic data stand in fields of the metadata, which can be named. Every text is
compared by itself, and the worst of them decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from megaphi.config import FilePath
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.step import OfOne, StepContext
from megaphi.data.contamination.benchmark_items import read_items
from megaphi.decontamination.allow_list import read_allow_list
from megaphi.decontamination.item_index import ItemIndex, index_items
from megaphi.decontamination.matching import ItemMatch, match_text
from megaphi.decontamination.rule import ContaminationRule
from megaphi.errors import InputError

CONTAMINATION = "contamination"
"""Metadata of a document that is contaminated in part: {set, item, shared, of}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """Files of one evaluated set."""

    path: FilePath
    """JSON lines, JSON or Parquet with the hub's column names; or a folder of them."""
    name: str = ""
    """Empty: that of each file."""
    item_keys: tuple[str, ...] = ()
    """Columns that make up the text of an item; none: its question and its options."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decontaminate:
    """Take out the documents that hold an item of a benchmark."""

    VERSION: ClassVar[int] = 1

    benchmarks: tuple[Benchmark, ...]
    allow_list: FilePath | None = None
    """Long runs of words that are common anyway, as `megaphi decontaminate allow-list` writes them."""
    rule: ContaminationRule = field(default_factory=ContaminationRule)
    partial: Literal["mark", "reject"] = "mark"
    """A document of which a part is an item's: kept, and said so in its metadata, or rejected."""
    fields: tuple[str, ...] = ("text",)
    """Texts that are compared: `text`, and keys of the metadata. A value there may be a text, a list of texts, or a
    conversation, of which the contents of all messages are one text. A document that lacks a key is rejected."""

    def open(self, context: StepContext) -> OfOne:
        """Read the benchmarks. Raises InputError for one without items, or that cannot be read."""
        index = self._index()
        return lambda document: self._decided(document, index)

    def _index(self) -> ItemIndex:
        if not self.benchmarks or not self.fields:
            raise InputError("decontaminate: name at least one benchmark and one field")
        items = []
        for benchmark in self.benchmarks:
            given = f"{benchmark.name}={benchmark.path}" if benchmark.name else benchmark.path
            items += read_items([given], keys=benchmark.item_keys)
        if not items:
            raise InputError(f"no items in {', '.join(benchmark.path for benchmark in self.benchmarks)}")
        if self.allow_list is None:
            return index_items(items, self.rule)
        allowed = read_allow_list(self.allow_list, exact_words=self.rule.exact_words)
        return index_items(items, self.rule, allowed=allowed)

    def _decided(self, document: Document, index: ItemIndex) -> Outcome:
        worst: ItemMatch | None = None
        for name in self.fields:
            if name != "text" and name not in document.metadata:
                return Rejected(document, "no_field", f"no {name!r} in its metadata, which the benchmarks are held to")
            text = document.text if name == "text" else "\n".join(_texts(document.metadata[name]))
            for match in match_text(text, index).matches:
                worst = match if worst is None or _badness(match) > _badness(worst) else worst
        if worst is None:
            return document
        status = index.rule.status(has_exact=worst.exact is not None, share=worst.share)
        if status == "contaminated":
            return Rejected(document, "contaminated", _described(worst, index))
        if status == "clean":
            return document
        if self.partial == "reject":
            return Rejected(document, "partly_contaminated", _described(worst, index))
        item = index.items[worst.item]
        about = {"set": item.set, "item": item.name, "shared": worst.shared, "of": worst.smaller}
        return document.known(**{CONTAMINATION: about})


def _badness(match: ItemMatch) -> tuple[bool, float]:
    return match.exact is not None, match.share


def _described(match: ItemMatch, index: ItemIndex) -> str:
    item = index.items[match.item]
    runs = f"{match.shared} of {match.smaller} runs of {index.rule.overlap_words} words"
    exact = "" if match.exact is None else f": {match.exact!r}"
    return f"{item.set}, item {item.name}, {runs}{exact}"


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of the metadata; of a message its content alone."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in [value["content"]] if "content" in value else value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
