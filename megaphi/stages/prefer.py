"""Direct preference optimisation: raise what is preferred above what is not (paper, section 4.3; Rafailov et al. 2023).

In this order: read the pairs and pack them, take the starting weights, compute the reference's log-probabilities where
they are not known yet, train. The first step must cost ln 2 a pair, because nothing has been learnt yet: a run whose
reference is not its own start says so and stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from megaphi.checkpoint.format import CheckpointReader
from megaphi.data.packed.held_out import split_by_source
from megaphi.data.packed.pair_rows import content_of, length_of, pair_batch, units_of
from megaphi.data.packed.preference_pairs import PreferencePair, read_pairs
from megaphi.data.packed.settings import Preferences
from megaphi.engine.model.training_model import build_training_model
from megaphi.engine.run_config import RunConfig
from megaphi.engine.saving.shards import load_weights
from megaphi.engine.start.resume import OpenWeights
from megaphi.engine.start.run_folder import start_run
from megaphi.engine.start.same_run import agree_on_data, agree_on_weights
from megaphi.engine.training.loop import RunResult, training_loop
from megaphi.engine.training.train_step import StepResult
from megaphi.errors import RunFailed
from megaphi.log import logger
from megaphi.parallel.agreement import agreed
from megaphi.parallel.world import World
from megaphi.stages.finetune import hold_out, open_rows
from megaphi.stages.inheritance import inherit
from megaphi.stages.losses import loss_before_the_first_update
from megaphi.stages.preference import PreferenceObjective
from megaphi.stages.reference_log_probabilities import fill_reference_log_probabilities, reference_model_key
from megaphi.tokenizer.interface import Tokenizer

TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""Tolerance of the first loss: rounding, because the neighbours in a row differ."""


def prefer(run: RunConfig, *, open_weights: OpenWeights = CheckpointReader) -> RunResult:
    """Train on `run.preferences`. Every rank of the job calls this."""
    rules = run.preferences
    assert rules is not None
    world = start_run(run)
    inherited = inherit(run, world, open_weights)
    run, padding_token = inherited.run, inherited.padding_token
    training, sources = agreed(world, lambda: _read(run, rules, inherited.tokenizer))
    held_out = [pair for part in sources.values() for pair in part]
    pairs = [*training, *held_out]
    reference_N2 = np.zeros((len(pairs), 2))
    references = np.split(reference_N2, np.cumsum([len(training), *map(len, sources.values())])[:-1])
    # With a cross-entropy in the loss the softmax is needed anyway; two logits are not enough then.
    split_units = partial(units_of, single_tokens=rules.sft_weight == 0)
    units = split_units(training)
    parts = {name: split_units(part) for name, part in sources.items()}
    capacity = run.batch.sequence_length
    make = partial(pair_batch, capacity=capacity, padding_token=padding_token)
    run, data = agreed(
        world,
        lambda: open_rows(
            run,
            name="pairs",
            lengths=[length_of(unit) for unit in units],
            make_batch=make(units, references[0]),
            content=content_of(training),
            held_out=hold_out(
                {
                    name: ([length_of(unit) for unit in part], make(part, reference))
                    for (name, part), reference in zip(parts.items(), references[1:], strict=True)
                },
                capacity=capacity,
                content=content_of(held_out),
            ),
        ),
    )
    agree_on_data(world, data.training, data.validation)
    model = build_training_model(run, world)
    if run.start.initial_checkpoint is not None:
        path = run.start.initial_checkpoint
        reader = agreed(world, lambda: open_weights(path))
        agree_on_weights(world, reader)
        load_weights(model, reader)
    key = reference_model_key(model, tokenizer_fingerprint=run.tokenizer.fingerprint)
    folder = Path(rules.reference_folder or f"{run.folder}/reference") / key[:32]
    computed = fill_reference_log_probabilities(
        model, pairs, split_units(pairs), reference_N2, folder=folder, padding_token=padding_token
    )
    logger.info("reference log-probabilities: %d pairs computed, %d looked up", computed, len(pairs) - computed)
    return training_loop(
        model,
        data,
        open_weights=open_weights,
        objective=PreferenceObjective(rules),
        check_step=partial(check_first_loss, rules, run.precision.parameters, world),
    )


def _read(
    run: RunConfig, rules: Preferences, tokenizer: Tokenizer | None
) -> tuple[Sequence[PreferencePair], dict[str, Sequence[PreferencePair]]]:
    """The pairs to train on, and those held out, by source."""

    def read(split: str, paths: Sequence[str]) -> tuple[list[PreferencePair], dict[str, int]]:
        pairs, report = read_pairs(
            paths,
            tokenizer,
            sequence_length=run.batch.sequence_length,
            append_eos=rules.append_eos,
            max_completion_tokens=rules.max_completion_tokens,
            too_long=rules.too_long,
            bad_records=rules.bad_records,
            vocabulary=run.model.vocabulary,
        )
        for line in report.lines():
            logger.info("%s: %s", split, line)
        return pairs, report.kept_of

    training, _ = read("training", rules.paths)
    held_out = split_by_source(*read("validation", rules.validation_paths)) if rules.validation_paths else {}
    return training, held_out


def check_first_loss(rules: Preferences, precision: str, world: World, step: int, result: StepResult) -> None:
    """Raises RunFailed if the first step of the run does not cost what it must."""
    if step != 1:
        return
    expected = loss_before_the_first_update(rules.loss, beta=rules.beta)
    found, allowed = result.means["preference_loss"], TOLERANCE[precision] * max(1.0, expected)
    if abs(found - expected) <= allowed:
        return
    raise RunFailed(
        f"the first preference loss is {found:.6f} and not {expected:.6f} (within {allowed:g}): the reference "
        "log-probabilities are not those of the weights that training began with"
        if world.is_main
        else ""
    )
