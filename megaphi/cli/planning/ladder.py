"""Predict the loss of a larger model from small runs of a recipe, and the learning rate that it wants.

One dial, the number of parameters, gives shape, tokens, batch and a first learning rate; every size is trained with
several rates and seeds. The best rates give the target's rate, the losses there its loss, with an interval, which is
written down before the target is trained (--measure). RECIPE with the fields after it is the run that the rules go
through. FOLDER gets report.md, ladder.png, ladder.json, ladder.csv, prediction.json, and results.jsonl with every run.
A ladder that was stopped goes on when the same command is given again.

Exit code 0, or 1 if the target was measured and the prediction was wrong.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.engine.run_config import RunConfig
    from megaphi.planning.ladder.plan import LadderSettings

HELP = "predict a larger model's loss and learning rate from small runs"
EXAMPLE = """examples:
  megaphi ladder phi4_14b_pretrain layout.pipeline=1 layout.virtual_pipeline=1 layout.stage_layers= \\
      --sizes 50M,100M,200M,400M --target 1B --processes 8 --output runs/ladder --dry-run
  megaphi ladder quickstart_pretrain layout.tensor=1 layout.sequence_parallel=false --sizes 25k,100k,250k,350k \\
      --target 640k --tokens-per-parameter 3 --output runs/ladder --measure
"""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=user_path, metavar="RECIPE", help="a recipe's name, or file.py:function")
    parser.add_argument("fields", metavar="field=value", nargs="*", help="change a field of every run")
    parser.add_argument("--output", type=user_path, required=True, metavar="FOLDER", help="folder of the ladder")
    parser.add_argument(
        "--sizes", required=True, metavar="N,N,...", help="parameters of the layers: 50M,100M,200M,400M"
    )
    parser.add_argument("--target", required=True, metavar="N", help="the size to predict: 1B")
    parser.add_argument("--tokens-per-parameter", type=float, default=20.0, metavar="X", help="length of runs (20)")
    parser.add_argument(
        "--learning-rates", default="0.5,1,2", metavar="N,N,...", help="multiples of the rule's rate (0.5,1,2)"
    )
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="runs of every size and rate (2)")
    parser.add_argument("--target-seeds", type=int, default=1, metavar="N", help="runs of the target (1)")
    parser.add_argument("--seed", type=int, default=1_234, metavar="N", help="the first seed (1234)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="ranks of each run (1)")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="runs at the same time (1)")
    parser.add_argument("--measure", action="store_true", help="train the target, too, after it was predicted")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and their cost, and start none")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.config import override
    from megaphi.engine.run_config import check
    from megaphi.log import set_up_logging
    from megaphi.planning.ladder.plan import plan_ladder
    from megaphi.planning.ladder.report import plan_lines
    from megaphi.recipes import load_recipe

    set_up_logging()
    settings = settings_of(arguments)
    base = check(override(load_recipe(arguments.recipe), arguments.fields), world_size=settings.processes)
    ladder = plan_ladder(settings, base)
    if arguments.dry_run:
        print(*plan_lines(settings, ladder, base), sep="\n")
        return 0
    return _climb(settings, base, measure=arguments.measure)


def _climb(settings: LadderSettings, base: RunConfig, *, measure: bool) -> int:
    """Run the sweep, predict, perhaps train the target, and report."""
    from megaphi.planning.ladder.plan import plan_ladder, sweep_runs, target_runs
    from megaphi.planning.ladder.prediction import keep_prediction, outcome_of
    from megaphi.planning.ladder.report import Report
    from megaphi.planning.small_runs import SmallRuns

    ladder = plan_ladder(settings, base)
    runs = SmallRuns(settings.folder, base, processes=settings.processes, at_once=settings.at_once)
    try:
        sweep = sweep_runs(settings, ladder)
        runs.run(sweep, label="ladder")
        wanted = {one.name for one in sweep}
        targets = [name for name, one in runs.results.items() if one["parameters"] == ladder.target.parameters]
        known = {name: runs.results[name] for name in (*wanted, *targets)}
        prediction = keep_prediction(settings, ladder, known)
        if measure:
            last = target_runs(settings, ladder, rate=prediction.learning_rate.value)
            runs.run(last, label="target")
            known |= {one.name: runs.results[one.name] for one in last}
    finally:
        runs.close()
    report = Report(settings, ladder, base, dict(sorted(known.items())))
    outcome = outcome_of(prediction, report.targets)
    report.write(prediction, outcome)
    print(*report.lines(prediction, outcome), sep="\n")
    return 0 if outcome is None or outcome.is_right else 1


def settings_of(arguments: argparse.Namespace) -> LadderSettings:
    """The options as settings. Raises InputError."""
    from megaphi.planning.ladder.plan import LadderSettings

    for name in ("processes", "at_once"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: must be at least 1")
    if not 0 < arguments.tokens_per_parameter < float("inf"):
        raise InputError(f"--tokens-per-parameter {arguments.tokens_per_parameter:g}: must be above 0")
    return LadderSettings(
        recipe=arguments.recipe,
        fields=tuple(arguments.fields),
        folder=Path(arguments.output),
        sizes=tuple(_number(word, "--sizes") for word in arguments.sizes.split(",")),
        target=_number(arguments.target, "--target"),
        tokens_per_parameter=arguments.tokens_per_parameter,
        rate_factors=tuple(_number(word, "--learning-rates") for word in arguments.learning_rates.split(",")),
        seeds=arguments.seeds,
        target_seeds=arguments.target_seeds,
        seed=arguments.seed,
        processes=arguments.processes,
        at_once=arguments.at_once,
    )


def _number(word: str, option: str) -> float:
    """A number such as 1.5M."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)([kmb]?)", word.strip().lower())
    if match is None:
        raise InputError(f"{option} {word}: expected a number such as 250k, 1.5M or 7B")
    return float(match[1]) * UNITS[match[2]]
