"""Find the fastest layout of a run on a number of GPUs, without a GPU and without data.

Every choice of tensor, pipeline, virtual pipeline and context ranks, of the split of the layers, the micro-batch and
what is recomputed is priced: bytes of every rank, and seconds of a step. Weights, gradients and optimizer state are
exact (--count-modules compares them with the real modules), activations the dry run's estimate; buffers and time are a
model's, from rates that are printed, or from measured rows of benchmarks/mfu.py. What does not work is counted by its
reason. A field that is given (layout.tensor=2) is decided; the others are searched. With --days a claim is checked:
exit code 1 if it is not met.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.config import user_path
from megaphi.errors import InputError, RunFailed

if TYPE_CHECKING:
    from megaphi.cli.planning.plan_tables import PlanReport
    from megaphi.engine.run_config import RunConfig
    from megaphi.planning.search.calibration import MeasuredRatio
    from megaphi.planning.search.search import Found
    from megaphi.planning.search.space import PlanQuestion
    from megaphi.planning.step.device import Device

HELP = "find the fastest layout of a run on so many GPUs"
EXAMPLE = """examples:
  megaphi plan phi4_14b_pretrain --gpus 512
  megaphi plan phi4_14b_pretrain --gpus 512 --tokens 10T --days 10          can that be?
  megaphi plan phi4_14b_pretrain --gpus 64 --device h200 --top 3 --write launch/planned
  megaphi plan phi4_14b_pretrain --gpus 512 layout.tensor=2 recompute=none   only what is left open
  megaphi plan phi4_14b_pretrain model.layers=60 --gpus 1024 --sequence 8192 --global-batch 2048 --json
"""
MEASURED = Path("benchmarks/results/gpu/mfu.csv")
AXES = (
    *("layout.tensor", "layout.pipeline", "layout.context", "layout.virtual_pipeline"),
    *("batch.micro_batch", "recompute"),
)
"""Fields that are searched unless they are given."""
CHOSEN = ("layout.data", "layout.stage_layers", "layout.sequence_parallel")
"""Fields that follow from those."""
LARGEST = 1 << 20
"""GPUs that a plan may have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", type=user_path, metavar="RECIPE", help="a recipe's name, file.py:function, or a run's config.json"
    )
    parser.add_argument("fields", metavar="field=value", nargs="*", help="change a field of the recipe, or decide one")
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="devices of the whole job")
    parser.add_argument(
        "--device", default="h100", metavar="NAME", help="whose rates are taken: h100 (default), h200, a100, b200"
    )
    parser.add_argument("--sequence", type=int, metavar="N", help="batch.sequence_length")
    parser.add_argument("--global-batch", type=int, metavar="N", help="batch.global_batch, in sequences")
    parser.add_argument("--tokens", metavar="N", help="of the whole run: 10T, 250B (default: the recipe's steps)")
    parser.add_argument("--days", type=float, metavar="N", help="claim to be checked: all tokens within so many days")
    parser.add_argument("--memory-gigabytes", type=float, metavar="N", help="of one device (default: the device's)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="plans to be shown (5)")
    parser.add_argument(
        "--measured",
        type=user_path,
        metavar="FILE.csv",
        help=f"rows of benchmarks/mfu.py instead of assumed rates (default: {MEASURED}, if it is there)",
    )
    parser.add_argument(
        "--count-modules",
        action="store_true",
        help="count the parameters of every shown plan from the real modules too, which takes longer",
    )
    parser.add_argument(
        "--write", type=user_path, metavar="FOLDER", help="write the first plan as a recipe, and files that start it"
    )
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.cli.planning.plan_tables import PlanReport, as_json, print_report
    from megaphi.config import override
    from megaphi.log import set_up_logging
    from megaphi.planning.search.claim import verdict_on
    from megaphi.planning.search.search import search
    from megaphi.recipes import load_recipe

    set_up_logging()
    fields = _all_fields(arguments)
    configuration = _checked(override(load_recipe(arguments.recipe), fields))
    tokens = _tokens(arguments.tokens, configuration)
    question, calibration = _question(arguments, configuration, fields)
    found = search(question, top=arguments.top)
    fastest = found.plans[0].time.tokens_per_second if found.plans else None
    claim = None
    if arguments.days is not None:
        claim = verdict_on(question, tokens=tokens, days=arguments.days, tokens_per_second=fastest)
    report = PlanReport(
        recipe=arguments.recipe,
        fields=fields,
        question=question,
        found=found,
        tokens=tokens,
        calibration=calibration,
        days=arguments.days,
        claim=claim,
    )
    if arguments.count_modules:
        _count_modules(question, found)
    written = _write(report, Path(arguments.write)) if arguments.write is not None and found.plans else []
    (as_json if arguments.json else print_report)(report, written)
    if not found.plans:
        raise RunFailed(_nothing_fits(question, found))
    return 0 if claim is None or claim.kind == "possible" else 1


def _all_fields(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The fields of the command line, options among them."""
    fields = list(arguments.fields)
    for name, value in (("batch.sequence_length", arguments.sequence), ("batch.global_batch", arguments.global_batch)):
        if value is not None:
            fields.append(f"{name}={value}")
    for field in fields:
        if (name := field.partition("=")[0]) in CHOSEN:
            raise InputError(f"{field}: the plan chooses {name}, leave it out")
    return tuple(fields)


def _checked(run: RunConfig) -> RunConfig:
    """The run, if its steps are of a kind that is modelled."""
    from megaphi.stages.prefer import Prefer

    if isinstance(run.task, Prefer):
        raise InputError(
            f"{run.recipe} optimises preferences: the time of its steps, with a reference's passes, is not modelled;"
            " `megaphi train --dry-run` has its memory"
        )
    shapes = run.task.batch_shapes(run)
    if len({(shape.sequence_length, shape.micro_batch) for shape in (run.batch, *shapes)}) > 1:
        raise InputError(
            f"{run.recipe} changes its sequence length or micro-batch during the run (task.mixture.stages): plan one"
            " stage at a time, with task.mixture.stages= and --sequence, --global-batch and --tokens of that stage"
        )
    run.model.check()
    return run


def _tokens(text: str | None, run: RunConfig) -> float:
    """Tokens of the whole run."""
    from megaphi.cli.mixture_tables import report_run
    from megaphi.stages.pretrain import Pretrain

    if text is None:
        stages = isinstance(run.task, Pretrain) and run.task.mixture.stages
        return float(report_run(run).tokens if stages else run.training.steps * run.batch.tokens_per_step)
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE]\d{1,2})?)([KMBT]?)", text.replace(",", "").strip())
    tokens = float(match[1]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[match[2]] if match else 0.0
    if not 0 < tokens <= 1e18:
        raise InputError(f"--tokens {text}: expected a number of tokens such as 10T, 250B or 9.8e12, at most 10^18")
    return tokens


def _question(
    arguments: argparse.Namespace, run: RunConfig, fields: tuple[str, ...]
) -> tuple[PlanQuestion, MeasuredRatio | None]:
    from megaphi.errors import did_you_mean
    from megaphi.planning.search.space import PlanQuestion
    from megaphi.planning.step.device import DEVICES

    if not 1 <= arguments.gpus <= LARGEST:
        raise InputError(f"--gpus {arguments.gpus}: must be from 1 to {LARGEST:,}")
    if not 1 <= arguments.top <= 100:
        raise InputError(f"--top {arguments.top}: must be from 1 to 100")
    if arguments.days is not None and not 0 < arguments.days <= 1e6:
        raise InputError(f"--days {arguments.days:g}: must be a positive number of days")
    if arguments.days is not None and not (arguments.tokens or run.training.steps):
        raise InputError("--days needs --tokens: the recipe has no training.steps to count them by")
    device = DEVICES.get(arguments.device.lower())
    if device is None:
        known = f"{did_you_mean(arguments.device, DEVICES)} There are {', '.join(DEVICES)}"
        raise InputError(f"--device {arguments.device}: its rates are not known.{known}")
    gigabytes = device.memory_gigabytes if arguments.memory_gigabytes is None else arguments.memory_gigabytes
    if not 0 < gigabytes < 1e6:
        raise InputError(f"--memory-gigabytes {gigabytes:g}: must be a positive number")
    if run.precision.fp8 != "none" and device.products_fp8 is None:
        raise InputError(f"precision.fp8={run.precision.fp8}: {device.name} has no FP8 products")
    calibration = _calibration(arguments.measured, device)
    given = {field.partition("=")[0] for field in fields}
    question = PlanQuestion(
        run=run,
        devices=arguments.gpus,
        device=calibration.of(device) if calibration else device,
        memory_bytes=gigabytes * 1e9,
        other_batches=frozenset(shape.global_batch for shape in run.task.batch_shapes(run)) - {run.batch.global_batch},
        fixed=frozenset(given & set(AXES)),
    )
    return question, calibration


def _calibration(path: str | None, device: Device) -> MeasuredRatio | None:
    """Measured rows, if there are any; a file that was named must have some."""
    from megaphi.planning.search.calibration import read_calibration

    if path is None and not MEASURED.exists():
        return None
    found = read_calibration(Path(path or MEASURED), device)
    if found is None and path is not None:
        raise InputError(
            f"--measured {path} has no row of megaphi on {device.name}; benchmarks/mfu.py --write adds some"
        )
    return found


def _count_modules(question: PlanQuestion, found: Found) -> None:
    """Compare the arithmetic of the search with the modules that every stage of a shown plan would build."""
    from megaphi.model.language_model import count_parameters

    for plan in found.plans:
        layout, length = plan.choice.layout, question.run.batch.sequence_length
        counted = [stage.local for stage in count_parameters(question.run.model, layout, sequence_length=length)]
        planned = [stage.rank.parameters for stage in plan.memory]
        if counted != planned:
            raise RuntimeError(f"{plan.choice}: stages were planned with {planned} numbers and have {counted}")


def _nothing_fits(question: PlanQuestion, found: Found) -> str:
    gigabytes = question.memory_bytes / 1e9
    if not found.least_bytes:
        return "no choice obeys the rules above: another number of GPUs, another batch, or fewer decided fields may"
    return (
        f"nothing fits in {gigabytes:g} GB: the smallest choice needs {found.least_bytes / 1e9:.1f} GB on one of"
        f" {question.devices} devices; use more devices, or leave recompute and the layout to the plan"
    )


def _write(report: PlanReport, folder: Path) -> list[Path]:
    """The recipe of the first plan, and the files that start it. Raises InputError."""
    from megaphi.files import write_text
    from megaphi.planning.launch.launch_files import write_launch_files
    from megaphi.planning.search.planned import RECIPE_FILE, found_anywhere, job_of, recipe_text

    job = job_of(report.question, folder)
    text = recipe_text(found_anywhere(report.recipe), report.chosen_fields, title=report.title)
    write_text(folder / RECIPE_FILE, text)
    return [folder / RECIPE_FILE, *write_launch_files(job)]
