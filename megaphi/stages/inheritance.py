"""The tokenizer and the context that a run inherits from the model that it starts from.

That model is the run's own newest checkpoint, or else `start.initial_checkpoint`. Without either, the tokenizer is the
one that `tokenizer.path` names, or Phi-4's, and the context is the run's longest sequence. Both are written into the
configuration, and so into every checkpoint. A run that names think tokens renames placeholders of what it inherits; the
files of such a tokenizer are written for its context, because no other place holds the names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from megaphi.checkpoint.format import CARRIED_FOLDER, CheckpointReader
from megaphi.checkpoint.manifest import MANIFEST
from megaphi.checkpoint.model_tokenizer import (
    NO_TOKENIZER,
    check_one_tokenizer,
    context_of,
    longest_sequence,
    tokenizer_of,
)
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.config import to_plain
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_tokenizer import with_names_of, with_think_tokens
from megaphi.engine.saving.latest_checkpoint import candidates
from megaphi.engine.saving.writer import checkpoint_folders
from megaphi.engine.start.resume import OpenWeights
from megaphi.errors import InputError
from megaphi.files import copy_files
from megaphi.log import logger
from megaphi.parallel.agreement import agreed
from megaphi.parallel.world import World
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.open_tokenizer import TOKENIZER_FILES, open_path
from megaphi.tokenizer.phi4 import Phi4Tokenizer, load_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Inheritance:
    """A run with what it inherits."""

    run: RunConfig
    """The run with `model.context`, `tokenizer.fingerprint` and the think tokens filled in."""
    tokenizer: Tokenizer | None
    """None: the model has no tokenizer, and its data must hold ids."""


def inherit(run: RunConfig, world: World, open_weights: OpenWeights) -> Inheritance:
    """Find tokenizer and context, copy the tokenizer's files into the run folder, and log both. Collective.

    Raises:
        InputError: the model's tokenizer is not the one that is asked for, or cannot be read.
    """
    found = agreed(world, lambda: inheritance_of(run, open_weights))
    tokenizer = found.tokenizer
    agreed(world, lambda: _write_files(found) if world.is_main else None)
    named = "none, data must hold ids" if tokenizer is None else f"{tokenizer}, {tokenizer.fingerprint[:12]}"
    logger.info("tokenizer: %s; context: %d tokens", named, found.run.model.context)
    return found


def _write_files(found: Inheritance) -> None:
    """Write the tokenizer's files into the run folder, which every checkpoint copies them from."""
    tokenizer, folder = found.tokenizer, Path(found.run.folder) / CARRIED_FOLDER
    if isinstance(tokenizer, Phi4Tokenizer) and tokenizer.think is not None:
        export_tokenizer(tokenizer, folder, model_max_length=found.run.model.context)
    elif tokenizer is not None:
        copy_files({name: path for name, path in tokenizer.files.items() if name in TOKENIZER_FILES}, folder)


def inheritance_of(run: RunConfig, open_weights: OpenWeights) -> Inheritance:
    """`inherit` for this process alone: nothing is written or logged."""
    reader = _predecessor(run, open_weights)
    tokenizer = _tokenizer(run, reader)
    fingerprint = NO_TOKENIZER if tokenizer is None else tokenizer.fingerprint
    if run.tokenizer.fingerprint not in ("", fingerprint):
        raise InputError(
            f"tokenizer.fingerprint={run.tokenizer.fingerprint}: the run's tokenizer has the fingerprint {fingerprint}"
        )
    model = replace(run.model, context=_context(run, reader))
    section = with_names_of(replace(run.tokenizer, fingerprint=fingerprint), tokenizer)
    return Inheritance(run=replace(run, model=model, tokenizer=section), tokenizer=tokenizer)


def _predecessor(run: RunConfig, open_weights: OpenWeights) -> WeightReader | None:
    """Return the weights that the run continues: its own newest checkpoint that opens, or the initial one."""
    for folder in candidates(checkpoint_folders(run)) if run.start.resume else ():
        if (folder / MANIFEST).is_file():
            try:
                return CheckpointReader(folder)
            except InputError:  # whether a checkpoint is complete is decided, and logged, when it is loaded
                continue
    return None if run.start.initial_checkpoint is None else open_weights(run.start.initial_checkpoint)


def _tokenizer(run: RunConfig, reader: WeightReader | None) -> Tokenizer | None:
    section, vocabulary = run.tokenizer, run.model.vocabulary
    path, ranks_file = section.path, section.ranks_file
    given = None if path is None else open_path(path, vocabulary=vocabulary, ranks_file=ranks_file)
    if reader is None:
        return with_think_tokens(given or load_tokenizer(vocabulary, ranks_file=ranks_file), section)
    own = tokenizer_of(reader, ranks_file=ranks_file)
    # The run's own checkpoint has the think tokens already, the initial one need not.
    given, own = (None if one is None else with_think_tokens(one, section) for one in (given, own))
    check_one_tokenizer(own, given, path=f"tokenizer.path={path}", model=str(reader.folder))
    return with_think_tokens(given or own, section)


def _context(run: RunConfig, reader: WeightReader | None) -> int:
    longest, given = longest_sequence(to_plain(run)), run.model.context
    if given:
        return given
    before = 0 if reader is None else context_of(reader)
    if before and longest > before:
        logger.info("the model's context becomes %d tokens, from %d: the run has longer sequences", longest, before)
    return max(before, longest)
