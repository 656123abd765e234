"""The check that a run's tokenizer fits its model, before the run starts and in a dry run.

It is not part of `run_config.check`, because the engine itself trains on any ids. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from megaphi.config import FilePath
from megaphi.errors import InputError
from megaphi.tokenizer.open_tokenizer import PHI4, open_path
from megaphi.tokenizer.phi4 import check_vocabulary_size

if TYPE_CHECKING:
    from megaphi.engine.run_config import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTokenizer:
    """The tokenizer of the data (config section `tokenizer`); its ids fit into `model.vocabulary`."""

    path: FilePath | None = None
    """Folder with tokenizer.json, or `phi4`; none: that of the initial checkpoint, else Phi-4's, cut to the model."""
    fingerprint: str = ""
    """Filled in when the run starts; one that is given must be the tokenizer's. `none`: the model has no tokenizer."""

    ranks_file: FilePath | None = None
    """Path of cl100k_base.tiktoken; none looks in TIKTOKEN_CACHE_DIR and in the installed packages."""


def check_tokenizer(run: RunConfig) -> None:
    """Check the tokenizer of a new model: Phi-4's unless the run names another, and no larger than the model's.

    Raises:
        InputError: the tokenizer cannot be read, or has more tokens than the model.
    """
    if run.tokenizer.path not in (None, PHI4):
        open_path(run.tokenizer.path, vocabulary=run.model.vocabulary)
    elif run.tokenizer.path == PHI4 or run.start.initial_checkpoint is None:
        try:
            check_vocabulary_size(run.model.vocabulary)
        except InputError as error:
            raise InputError(f"model.vocabulary: {error}; or name another tokenizer in tokenizer.path") from None
