"""Starting points of a run: its own newest checkpoint, the weights of another run, or nothing.

Weights and optimizer come from the checkpoint, the position in the data from its ledger. One rank compares the ledger
with the data, which may mean reading a little of every dataset, and broadcasts the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from megaphi.checkpoint.format import CARRIED_FOLDER, POSITION, CheckpointReader
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.config import difference, to_plain
from megaphi.data.order.ledger import DataContinuation, Origin
from megaphi.engine.learning_rate import check_rate_continues
from megaphi.engine.model.training_model import TrainingModel, draw_weights
from megaphi.engine.run_config import RunConfig
from megaphi.engine.saving.latest_checkpoint import newest_checkpoint, problem_of
from megaphi.engine.saving.shards import load_checkpoint, load_weights
from megaphi.engine.saving.writer import checkpoint_folders
from megaphi.engine.start.same_run import agree_on_weights
from megaphi.engine.training_data import RunData
from megaphi.errors import InputError
from megaphi.files import copy_files, write_json
from megaphi.log import logger
from megaphi.parallel.agreement import agreed, refuse
from megaphi.parallel.exchange import broadcast
from megaphi.parallel.world import World
from megaphi.tokenizer.open_tokenizer import TOKENIZER_FILES

OpenWeights = Callable[[str], WeightReader]
"""Function that opens `start.initial_checkpoint`: `CheckpointReader`, or one that knows other formats too."""


class InitialWeights:
    """The weights of `start.initial_checkpoint`, or drawn ones, set at most once in a model that is not trained yet.

    The model is built without: a run that continues its own checkpoint never needs them.
    """

    def __init__(self, model: TrainingModel, open_weights: OpenWeights) -> None:
        self._model, self._open_weights = model, open_weights
        self._loaded: WeightReader | None = None
        self._drawn = False

    def load(self) -> WeightReader | None:
        """Set them in the model, on the first call; None if the run has no initial checkpoint. Collective."""
        run, world = self._model.run, self._model.world
        path = run.start.initial_checkpoint
        if path is None and not self._drawn:
            draw_weights(self._model)
            self._drawn = True
        if path is None or self._loaded is not None:
            return self._loaded
        reader = agreed(world, lambda: self._open_weights(path))
        agree_on_weights(world, reader)
        if isinstance(reader, CheckpointReader) and run.saving.verify:
            problem = problem_of(reader.folder, world, verify=True)
            if problem is not None:
                refuse(world, problem)
        load_weights(self._model, reader)
        self._loaded = reader
        return reader


class StartingPoint(NamedTuple):
    """The point from which a run trains."""

    data: RunData
    """The data from there on."""
    step: int
    """Steps done."""
    state: Mapping[str, Any]
    """The state in the checkpoint that it continues from; empty at the beginning."""


def resume(model: TrainingModel, data: RunData, initial: InitialWeights, *, goes_back: bool = False) -> StartingPoint:
    """Load what the run resumes from, and write config.json.

    `goes_back`: the run has begun, and goes back to its newest checkpoint, whatever `start.resume` says.
    """
    run, world = model.run, model.world
    folder, state = Path(run.folder), {}
    newest = None
    if run.start.resume or goes_back:
        newest = newest_checkpoint(checkpoint_folders(run), world, verify=run.saving.verify)
    if newest is not None:
        agreed(world, lambda: check_state(newest, run))
        reader = load_checkpoint(model, newest)
        state = reader.state
        data = _continued(data, state, run, world)
        logger.info("continuing %s from step %d", folder, state["step"])
        agreed(world, lambda: _log_changes(reader, run))
        _carry(reader, run, world)
    elif run.start.initial_checkpoint is not None:
        data = _start_from(run.start.initial_checkpoint, model, data, initial)
    else:
        initial.load()
    agreed(world, lambda: write_json(folder / "config.json", to_plain(run)) if world.is_main else None)
    return StartingPoint(data, state.get("step", 0), state)


def _start_from(path: str, model: TrainingModel, data: RunData, initial: InitialWeights) -> RunData:
    """Load the weights of `path` and, with `start.continue_sources`, continue its sources."""
    run, world = model.run, model.world
    reader = initial.load()
    assert reader is not None
    logger.info("starting from the weights of %s", path)
    _carry(reader, run, world)
    if not run.start.continue_sources:
        return data
    return _at(data, lambda: data.training.continuation_of_sources(reader.state, where=path), world)


def _carry(reader: WeightReader, run: RunConfig, world: World) -> None:
    """Copy the files that came with the weights into the run folder, which every checkpoint copies them from.

    A tokenizer with think tokens has its own there already, which those of the initial model would undo.
    """
    own = TOKENIZER_FILES if run.tokenizer.think_tokens else ()
    files = {name: path for name, path in reader.carried.items() if name not in own}
    agreed(world, lambda: copy_files(files, Path(run.folder) / CARRIED_FOLDER) if world.is_main else None)


def _continued(data: RunData, state: Mapping[str, Any], run: RunConfig, world: World) -> RunData:
    position = Origin(step=state["step"], sample=state["samples"], tokens=state["tokens"])
    accept = run.start.accept_changed_data
    training = data.training
    return _at(data, lambda: training.continuation(state, position, accept_changes=accept, where=run.folder), world)


def _at(data: RunData, compare: Callable[[], DataContinuation], world: World) -> RunData:
    """The data from the point that the main rank finds, which alone compares. Collective."""
    found = agreed(world, lambda: compare() if world.is_main else None)
    continuation: DataContinuation = broadcast(found, DataContinuation)
    for note in continuation.notes:
        logger.info("  %s", note)
    return replace(data, training=agreed(world, lambda: data.training.continued(continuation)))


def check_state(newest: Path, run: RunConfig) -> None:
    """Refuse a checkpoint that is not a run's, or whose learning rate the run would leave."""
    reader = CheckpointReader(newest)
    if missing := [name for name in POSITION if name not in reader.state]:
        raise InputError(
            f"{newest / 'state.json'} does not say {' and '.join(missing)}: no run can resume from it; "
            "start.initial_checkpoint takes its weights"
        )
    check_rate_continues(reader.config, run, step=reader.state["step"])


def _log_changes(reader: CheckpointReader, run: RunConfig) -> None:
    for path, old, new in difference(reader.config, to_plain(run)):
        logger.info("  changed: %s from %s to %s", path, old, new)
