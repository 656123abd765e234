"""Fit the mixture of a recipe: train many small models on sampled mixtures, and propose the best one.

RECIPE is the run that the mixture is for: it gives the sources, their shares, and how many tokens will be read. The
fields after it make the small runs (fewer layers, fewer steps). Each trains on a sampled mixture and is measured on the
held-out text of every source; a response is fitted to all, the best mixture under it is trained with several seeds, and
so are the recipe's and the uniform one. FOLDER gets report.md, fit.json, fit.png, and results.jsonl with every run. A
fit that was stopped goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.config import user_path

if TYPE_CHECKING:
    from megaphi.data.order.report import MixtureReport
    from megaphi.engine.run_config import RunConfig
    from megaphi.planning.mixture.fit import FitSettings
    from megaphi.planning.mixture.swarm import SwarmSettings

HELP = "propose a mixture, from many small runs"
EXAMPLE = """examples:
  megaphi mixture fit phi4_14b_pretrain model.layers=12 model.hidden=768 model.feed_forward=2048 model.heads=12 \\
      model.key_value_groups=4 model.head_size=64 training.steps=4000 batch.global_batch=256 layout.tensor=1 \\
      layout.pipeline=1 layout.sequence_parallel=false --runs 64 --processes 8 --output runs/mixture
  megaphi mixture fit quickstart_pretrain training.steps=60 layout.tensor=1 layout.sequence_parallel=false \\
      --target code=2 --target web --output runs/mixture --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=user_path, metavar="RECIPE", help="a recipe's name, or file.py:function")
    parser.add_argument("fields", metavar="field=value", nargs="*", help="change a field of the small runs")
    parser.add_argument("--output", type=user_path, required=True, metavar="FOLDER", help="folder of the fit")
    parser.add_argument("--runs", type=int, default=32, metavar="N", help="runs that the response is fitted to (32)")
    parser.add_argument(
        "--repeats", type=int, default=4, metavar="N", help="seeds of the recipe's, uniform and proposed mixture (4)"
    )
    parser.add_argument("--held-out", type=int, default=8, metavar="N", help="runs that test the fit (8)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampled mixtures and the runs (0)")
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="SOURCE[=WEIGHT]",
        help="a source whose held-out text counts; several times (default: all that have any, equally)",
    )
    parser.add_argument(
        "--most-epochs",
        type=float,
        default=4.0,
        metavar="N",
        help="times that RECIPE's run may read a source, where its size is known (4)",
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="ranks of each run (1)")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="runs at the same time (1)")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and their commands, and start none")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.cli.mixture_tables import report_run
    from megaphi.config import override
    from megaphi.engine.run_config import check
    from megaphi.log import set_up_logging
    from megaphi.planning.mixture.fit import fit_mixture
    from megaphi.planning.mixture.report import report_lines, write_fit
    from megaphi.planning.mixture.swarm import Swarm
    from megaphi.recipes import load_recipe

    set_up_logging()
    wanted = load_recipe(arguments.recipe)
    small = check(override(wanted, arguments.fields), world_size=_positive(arguments, "processes"))
    base, report = _base_shares(wanted), report_run(wanted)
    weights = _target_weights(arguments.target, small)
    most = most_shares(report, epochs=arguments.most_epochs)
    fit_settings, settings = _settings(arguments)
    if arguments.dry_run:
        return _print_plan(base, fit_settings, settings, small)
    bits = {name: bits_per_nat(small, name) for name in weights}
    swarm = Swarm(settings, small)
    try:
        fit = fit_mixture(swarm, base, fit_settings, bits_per_byte=bits, weights=weights, most_shares=most)
    finally:
        swarm.close()
    write_fit(fit, settings.folder, recipe=arguments.recipe)
    print(*report_lines(fit, recipe=arguments.recipe), sep="\n")
    return 0


def _settings(arguments: argparse.Namespace) -> tuple[FitSettings, SwarmSettings]:
    from megaphi.planning.mixture.fit import FitSettings
    from megaphi.planning.mixture.swarm import SwarmSettings

    fit = FitSettings(
        runs=arguments.runs, repeats=arguments.repeats, held_out=max(0, arguments.held_out), seed=arguments.seed
    )
    swarm = SwarmSettings(
        recipe=arguments.recipe,
        fields=tuple(arguments.fields),
        folder=Path(arguments.output),
        processes=arguments.processes,
        at_once=_positive(arguments, "at_once"),
    )
    return fit, swarm


def _positive(arguments: argparse.Namespace, name: str) -> int:
    from megaphi.errors import InputError

    value: int = getattr(arguments, name)
    if value < 1:
        raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    return value


def _base_shares(run: RunConfig) -> dict[str, float]:
    from megaphi.errors import InputError
    from megaphi.stages.pretrain import mixture_of

    mixture = mixture_of(run)
    if mixture.stages:
        raise InputError(f"{run.recipe} has {len(mixture.stages)} mixture stages: a fit is for one mixture")
    total = sum(source.weight for source in mixture.sources)
    return {source.name: source.weight / total for source in mixture.sources}


def _target_weights(words: list[str], run: RunConfig) -> dict[str, float]:
    """Weight of each target, summing to 1."""
    from megaphi.errors import InputError
    from megaphi.stages.pretrain import mixture_of

    measured = [source.name for source in mixture_of(run).sources if source.validation_paths]
    weights: dict[str, float] = {}
    for word in words or measured:
        name, _, weight = word.partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            weights[name] = 0.0
        if name not in measured or not 0 < weights[name] < float("inf"):
            raise InputError(
                f"--target {word}: expected SOURCE or SOURCE=WEIGHT with a positive weight, the sources with held-out"
                f" text being {', '.join(measured) or 'none: give them validation_paths'}"
            )
    if not weights:
        raise InputError(f"{run.recipe} has no held-out text: give its sources validation_paths")
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def most_shares(report: MixtureReport, *, epochs: float) -> dict[str, float]:
    """The share of each source with which the whole run reads it `epochs` times; 1 where its size is not known."""
    return {
        source.name: min(1.0, epochs * source.unique_tokens / report.tokens) if source.unique_tokens else 1.0
        for source in report.sources
    }


def bits_per_nat(run: RunConfig, name: str) -> float:
    """Bits per byte of a source's held-out text if its loss is one nat per token."""
    import math

    from megaphi.data.contamination.data_parts import plan_parts
    from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
    from megaphi.data.text.bad_records import refuse_at_once
    from megaphi.data.text.input_files import LeftOut
    from megaphi.stages.pretrain import mixture_of
    from megaphi.tokenizer.open_tokenizer import PHI4

    source = next(source for source in mixture_of(run).sources if source.name == name)
    tokenizer = run.tokenizer.path or PHI4
    part = plan_parts(
        source.validation_paths[:1], tokenizer=tokenizer, vocabulary=run.model.vocabulary, left_out=LeftOut()
    )[0]
    size = sum(len(text.encode()) for _, text in part.texts(0, text_key="text", refuse=refuse_at_once))
    tokens = part.size_bytes / IndexedDataset(source.validation_paths[0]).dtype.itemsize
    return tokens / size / math.log(2)


def _print_plan(base: dict[str, float], fit: FitSettings, settings: SwarmSettings, small: RunConfig) -> int:
    import shlex

    from megaphi.planning.mixture.swarm import command_of
    from megaphi.planning.mixture.trial import plan_trials

    trials = plan_trials(base, runs=fit.runs, repeats=fit.repeats, held_out=fit.held_out, seed=fit.seed)
    tokens = small.training.steps * small.batch.global_batch * small.batch.sequence_length
    total = len(trials) + 2 * fit.repeats
    print(f"{total} runs of {tokens:,} tokens ({total * tokens:,} in all); {2 * fit.repeats} of them after the fit")
    print()
    for trial in trials:
        shares = ", ".join(f"{name} {share:.3f}" for name, share in trial.shares.items())
        print(f"{trial.name:<14} seed {trial.seed:<6} {shares}")
    print("", "the first as a command:", shlex.join(command_of(settings, trials[0])), sep="\n")
    return 0
