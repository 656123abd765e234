"""The check that a run's tokenizer fits its model, before the run starts and in a dry run.

It is not part of `run_config.check`, because the engine itself trains on any ids. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from megaphi.config import FilePath
from megaphi.errors import InputError
from megaphi.tokenizer.open_tokenizer import PHI4, open_path
from megaphi.tokenizer.phi4 import Phi4Tokenizer, check_vocabulary_size
from megaphi.tokenizer.think_tokens import DEFAULT_PLACEHOLDERS, think_tokens

if TYPE_CHECKING:
    from megaphi.engine.run_config import RunConfig
    from megaphi.tokenizer.interface import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTokenizer:
    """The tokenizer of the data (config section `tokenizer`); its ids fit into `model.vocabulary`."""

    path: FilePath | None = None
    """Folder with tokenizer.json, or `phi4`; none: that of the initial checkpoint, else Phi-4's, cut to the model."""
    fingerprint: str = ""
    """Filled in when the run starts; one that is given must be the tokenizer's. `none`: the model has no tokenizer."""

    ranks_file: FilePath | None = None
    """Path of cl100k_base.tiktoken; none looks in TIKTOKEN_CACHE_DIR and in the installed packages."""
    think_tokens: tuple[str, ...] = ()
    """Names of the tokens around the reasoning, <think>,</think>; none: those that the model has, if any."""
    think_placeholders: tuple[str, ...] = DEFAULT_PLACEHOLDERS
    """Placeholders of Phi-4's vocabulary that get the names of think_tokens, in the order of their ids."""


def check_tokenizer(run: RunConfig) -> None:
    """Check the tokenizer of a new model: Phi-4's unless the run names another, and no larger than the model's.

    Raises:
        InputError: the tokenizer cannot be read, has more tokens than the model, or cannot have the think tokens.
    """
    think_tokens(run.tokenizer.think_tokens, run.tokenizer.think_placeholders)
    if run.tokenizer.path not in (None, PHI4):
        with_think_tokens(open_path(run.tokenizer.path, vocabulary=run.model.vocabulary), run.tokenizer)
    elif run.tokenizer.path == PHI4 or run.start.initial_checkpoint is None:
        try:
            check_vocabulary_size(run.model.vocabulary)
        except InputError as error:
            raise InputError(f"model.vocabulary: {error}; or name another tokenizer in tokenizer.path") from None


def with_think_tokens(tokenizer: Tokenizer | None, section: RunTokenizer) -> Tokenizer | None:
    """The model's tokenizer with the placeholders renamed that the run names.

    Raises:
        InputError: it is not Phi-4's, or its think tokens have other names or ids already.
    """
    think = think_tokens(section.think_tokens, section.think_placeholders)
    if think is None:
        return tokenizer
    asked = f"tokenizer.think_tokens={','.join(think.names)}"
    if not isinstance(tokenizer, Phi4Tokenizer):
        raise InputError(
            f"{asked} renames placeholders of Phi-4's tokenizer, and the model has {tokenizer or 'none'}: leave it out"
            " (another tokenizer.json names its tokens itself)"
        )
    if tokenizer.think not in (None, think):
        theirs = ",".join(tokenizer.think.names), ",".join(tokenizer.think.placeholders)
        raise InputError(
            f"{asked} for {','.join(think.placeholders)}: the model has {theirs[0]} for {theirs[1]} already, and was"
            " trained with them: leave the fields out, the model's own are used"
        )
    return tokenizer.renamed(think)


def with_names_of(section: RunTokenizer, tokenizer: Tokenizer | None) -> RunTokenizer:
    """The section with the think tokens that the tokenizer has."""
    think = tokenizer.think if isinstance(tokenizer, Phi4Tokenizer) else None
    if think is None:
        return section
    return replace(section, think_tokens=think.names, think_placeholders=think.placeholders)
