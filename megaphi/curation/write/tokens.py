"""Documents straight to tokens: one PREFIX.bin/.idx/.json for the whole run, as `megaphi tokenize` writes it.

Every shard is tokenised by the process that finished it, and the shards are joined in shuffled order at the end. Ids,
order and so the bytes are those of `megaphi tokenize` over the run's JSON lines, whose code this is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from megaphi.curation.document import Document
from megaphi.curation.document_record import json_line
from megaphi.curation.write.shard_files import open_lines
from megaphi.data.tokenize.join import join_shards
from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.plan import parts_folder_of, plan_of_shards
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.data.tokenize.shards import tokenizer_at
from megaphi.tokenizer.open_tokenizer import PHI4

PREFIX = "tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteTokens:
    """One tokenised dataset: tokens.bin, tokens.idx, tokens.json."""

    VERSION: ClassVar[int] = 1

    tokenizer: str = PHI4
    """`phi4`, or the path of a tokenizer.json."""
    vocabulary_size: int | None = None
    """Number of Phi-4's tokens; None means all."""
    ranks_file: str | None = None
    """Phi-4's file of tokens; None looks for it where `megaphi tokenize` does."""
    encoder: str | None = None
    """Encoder that makes the ids; None means the first that the tokenizer has."""
    shuffle_seed: int | None = 0
    """Seed of the documents' order; None keeps that of the run."""

    def settings(self) -> TokenizeSettings:
        """The same settings as `megaphi tokenize` takes them."""
        return TokenizeSettings(
            tokenizer=self.tokenizer,
            vocabulary_size=self.vocabulary_size,
            ranks_file=self.ranks_file,
            encoder=self.encoder,
            shuffle_seed=self.shuffle_seed,
        )

    def write(self, documents: Iterable[Document], folder: Path) -> None:
        lines, texts = folder / "texts.jsonl", 0
        with open_lines(lines, level=None) as file:
            for document in documents:
                texts += bool(document.text)
                file.write(json_line({"text": document.text}))
        if texts:
            settings = replace(self.settings(), shuffle_seed=None)
            tokenize_documents([lines], folder / PREFIX, settings, processes=1, show_progress=False)
        lines.unlink()

    def join(self, folders: Sequence[Path], output: Path, lineage: Mapping[str, Any]) -> None:
        prefixes = [folder / PREFIX for folder in folders if (folder / f"{PREFIX}.idx").exists()]
        if not prefixes:
            return
        settings = self.settings()
        tokenizer = tokenizer_at(settings.tokenizer, settings.vocabulary_size, settings.ranks_file)
        plan = plan_of_shards(
            prefixes, output / PREFIX, tokenizer=tokenizer, settings=settings.decided(tokenizer), lineage=lineage
        )
        parts = parts_folder_of(plan.output)
        parts.mkdir()
        join_shards(plan, show_progress=False)
        parts.rmdir()
