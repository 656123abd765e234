"""The tokenizer and the context that a run inherits from the model that it starts from.

That model is the run's own newest checkpoint, or else `start.initial_checkpoint`. Without either, the tokenizer is the
one that `tokenizer.path` names, or Phi-4's, and the context is the run's longest sequence. Both are written into the
configuration, and so into every checkpoint.
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
from megaphi.engine.saving.latest_checkpoint import candidates
from megaphi.engine.saving.writer import checkpoint_folders
from megaphi.engine.start.resume import OpenWeights
from megaphi.errors import InputError
from megaphi.files import copy_files
from megaphi.log import logger
from megaphi.parallel.agreement import agreed
from megaphi.parallel.world import World
from megaphi.tokenizer.interface import Tokenizer
from megaphi.tokenizer.open_tokenizer import TOKENIZER_FILES, open_path
from megaphi.tokenizer.phi4 import load_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Inheritance:
    """A run with what it inherits."""

    run: RunConfig
    """The run with `model.context` and `tokenizer.fingerprint` filled in."""
    tokenizer: Tokenizer | None
    """None: the model has no tokenizer, and its data must hold ids."""


def inherit(run: RunConfig, world: World, open_weights: OpenWeights) -> Inheritance:
    """Find tokenizer and context, copy the tokenizer's files into the run folder, and log both. Collective.

    Raises:
        InputError: the model's tokenizer is not the one that is asked for, or cannot be read.
    """
    found = agreed(world, lambda: inheritance_of(run, open_weights))
    tokenizer = found.tokenizer
    files = {} if tokenizer is None else {n: path for n, path in tokenizer.files.items() if n in TOKENIZER_FILES}
    folder = Path(run.folder) / CARRIED_FOLDER
    agreed(world, lambda: copy_files(files, folder) if world.is_main and files else None)
    named = "none, data must hold ids" if tokenizer is None else f"{tokenizer}, {tokenizer.fingerprint[:12]}"
    logger.info("tokenizer: %s; context: %d tokens", named, found.run.model.context)
    return found


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
    return Inheritance(
        run=replace(run, model=model, tokenizer=replace(run.tokenizer, fingerprint=fingerprint)), tokenizer=tokenizer
    )


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
    path, vocabulary, ranks_file = run.tokenizer.path, run.model.vocabulary, run.tokenizer.ranks_file
    given = None if path is None else open_path(path, vocabulary=vocabulary, ranks_file=ranks_file)
    if reader is None:
        return given or load_tokenizer(vocabulary, ranks_file=ranks_file)
    own = tokenizer_of(reader, ranks_file=ranks_file)
    check_one_tokenizer(own, given, path=f"tokenizer.path={path}", model=str(reader.folder))
    return given or own


def _context(run: RunConfig, reader: WeightReader | None) -> int:
    longest, given = longest_sequence(to_plain(run)), run.model.context
    if given:
        return given
    before = 0 if reader is None else context_of(reader)
    if before and longest > before:
        logger.info("the model's context becomes %d tokens, from %d: the run has longer sequences", longest, before)
    return max(before, longest)
