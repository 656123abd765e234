"""Files of the tests of models with tokenizers of their own: records, a tokenised mixture, and a short run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.tokenize.pipeline import tokenize_documents
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import Start, TrainingLength
from tests.engine.layout_runs import tiny_run


def json_lines(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def tokenized(folder: Path, texts: Iterable[str]) -> Mixture:
    """Tokenise texts by `folder`/tokenizer, into the dataset `folder`/data."""
    documents = json_lines(folder / "documents.jsonl", [{"text": text} for text in texts])
    settings = TokenizeSettings(tokenizer=str(folder / "tokenizer"))
    tokenize_documents([documents], folder / "data", settings, processes=1, show_progress=False)
    return Mixture(sources=(Source(name="text", weight=1.0, paths=(str(folder / "data"),)),))


def short_run(
    folder: Path, *, steps: int, batch: BatchShape, optimizer: Optimizer, start: Path | str | None = None, **fields: Any
) -> RunConfig:
    return tiny_run(
        folder=str(folder),
        training=TrainingLength(steps=steps),
        start=Start(initial_checkpoint=None if start is None else str(start)),
        batch=batch,
        optimizer=optimizer,
        **fields,
    )
