"""NLTK's data by which sentences are split, made without abbreviations, where NLTK finds it: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def sentence_data(folder: Path) -> Iterator[None]:
    """The data in `folder` while the block lasts."""
    import nltk

    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (english / name).write_text("")
    nltk.data.path.insert(0, str(folder))
    try:
        yield
    finally:
        nltk.data.path.remove(str(folder))
