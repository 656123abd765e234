"""Compare layouts of a recipe's small twin with one process on this machine or cluster, and write a certificate.

The twin has the recipe's features (variant, ratio of heads, kernels, precision, recomputation, stages, documents) at a
toy size. Alone with --processes N, or under torchrun, mpirun or srun: first every rank trains the twin by itself, then
all of them together under each layout. Loss, gradient norm, every gradient and every weight must agree within what the
arithmetic allows; what does not is named. In bfloat16 a layout may err twice as much as one process does.

Exit code 0 if all layouts agree, 1 if not (or if a certificate does not cover RECIPE, with --check), 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from megaphi.cli.job_end import ending_together, told_to_all_ranks
from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.engine.run_config import RunConfig
    from megaphi.parallel.layout import ParallelLayout

HELP = "compare layouts of a recipe's small twin with one process, here"
EXAMPLE = """examples:
  megaphi parity quickstart_pretrain --processes 2
  megaphi parity phi4_14b_pretrain --processes 4 --layout tensor=2,pipeline=2 --precision float32
  torchrun --nproc-per-node 8 -m megaphi parity phi4_14b_pretrain --output certificate.json
  megaphi parity phi4_14b_pretrain --check certificate.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=user_path, metavar="RECIPE", help="a recipe's name, or file.py:function")
    parser.add_argument("fields", metavar="field=value", nargs="*", help="change a field of the recipe")
    parser.add_argument("--processes", type=int, metavar="N", help="start N ranks on this machine")
    parser.add_argument(
        "--layout",
        action="append",
        default=[],
        metavar="NAME=N,...",
        help="a layout to try: tensor=2,pipeline=2; stage_layers=4/2; several times (default: those that fit)",
    )
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="updates of every layout (4)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="number format (default: the recipe's)")
    parser.add_argument("--output", type=user_path, metavar="FILE", help="write the certificate, JSON")
    parser.add_argument("--check", type=user_path, metavar="FILE", help="does this certificate cover RECIPE here?")
    parser.add_argument("--dry-run", action="store_true", help="print the twin and its layouts, and start nothing")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.config import override
    from megaphi.log import set_up_logging
    from megaphi.parallel import launcher
    from megaphi.parallel.rendezvous.place import ALONE, detect
    from megaphi.planning.parity.twin import twin_of
    from megaphi.recipes import load_recipe

    starts_nothing = arguments.dry_run or arguments.check is not None
    place = ALONE if starts_nothing else detect()
    set_up_logging(rank=place.rank, world_size=place.world_size)
    if arguments.check is not None:
        return _check(arguments.check, override(load_recipe(arguments.recipe), arguments.fields))
    if arguments.processes is not None and place.launcher != "single":
        raise InputError(f"--processes was given to a rank that {place.launcher} had started already: leave it out")
    processes = place.world_size if arguments.processes is None else arguments.processes
    with told_to_all_ranks():
        if processes < 2 or arguments.steps < 1:
            raise InputError("parity compares at least two ranks (--processes 2, or torchrun) over at least one step")
        recipe = override(load_recipe(arguments.recipe), arguments.fields)
        twin = twin_of(recipe, world_size=processes, steps=arguments.steps, parameters=arguments.precision)
        layouts, left_out = _layouts(arguments, recipe, twin, processes)
    if arguments.dry_run:
        return _print_plan(twin, layouts, left_out)
    if arguments.processes is not None:
        return launcher.start_processes(_command(arguments), processes=processes)
    return ending_together(lambda: _compare(recipe, twin, layouts, left_out, output=arguments.output))


def _layouts(
    arguments: argparse.Namespace, recipe: RunConfig, twin: RunConfig, processes: int
) -> tuple[list[ParallelLayout], list[str]]:
    from megaphi.planning.parity.twin import default_layouts, named_layouts

    if arguments.layout:
        return named_layouts(twin, arguments.layout, world_size=processes), []
    layouts, left_out = default_layouts(recipe, twin, world_size=processes)
    if not layouts:
        raise InputError(f"no layout of {processes} ranks fits the twin: {'; '.join(left_out)}")
    return layouts, left_out


def _compare(
    recipe: RunConfig, twin: RunConfig, layouts: list[ParallelLayout], left_out: list[str], *, output: str | None
) -> int:
    """Train alone, then under every layout; rank 0 writes and prints the certificate."""
    import socket

    from megaphi.engine.start.same_run import run_facts
    from megaphi.files import write_json
    from megaphi.log import logger
    from megaphi.parallel.exchange import gathered
    from megaphi.planning.parity.certificate import certificate_of, table_lines
    from megaphi.planning.parity.made_batches import data_digest
    from megaphi.planning.parity.trial import differences_alone, differences_of, in_fp32, train_alone

    alone = train_alone(in_fp32(twin))
    own = None if twin.precision.parameters == "float32" else differences_alone(twin, alone)
    facts = {**run_facts(twin), "made data": data_digest(twin), "layouts": "; ".join(map(str, layouts))}
    results = []
    for layout in layouts:
        results.append((layout, differences_of(twin, layout, alone, facts=lambda: facts)))
        logger.info("compared %s", layout)
    certificate: dict[str, Any] = certificate_of(
        recipe, twin, results, own=own, left_out=left_out, hosts=gathered(socket.gethostname(), str), device=_device()
    )
    from megaphi.parallel.rendezvous.place import detect

    if detect().rank == 0:
        if output is not None:
            write_json(output, certificate)
        print(*table_lines(certificate), sep="\n")
    return 0 if certificate["passed"] else 1


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def _print_plan(twin: RunConfig, layouts: list[ParallelLayout], left_out: list[str]) -> int:
    from megaphi.config import leaves, to_plain

    print(*(f"{path}={value}" for path, value in leaves(to_plain(twin))), sep="\n")
    print("", *(f"layout: {layout}" for layout in layouts), *(f"not tried: {one}" for one in left_out), sep="\n")
    return 0


def _check(path: str, recipe: RunConfig) -> int:
    from megaphi.files import read_object
    from megaphi.planning.parity.certificate import problems_with

    certificate = read_object(path, what="certificate of parity")
    try:
        problems = problems_with(certificate, recipe)
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not a certificate that `megaphi parity --output` wrote") from None
    print(*(f"not covered: {problem}" for problem in problems), sep="\n", end="\n" if problems else "")
    if not problems:
        print(f"{path} of {certificate['made']} covers {recipe.recipe} here")
    return 1 if problems else 0


def _command(arguments: argparse.Namespace) -> list[str]:
    """The command of one rank."""
    words = ["parity", arguments.recipe, *arguments.fields, "--steps", str(arguments.steps)]
    words += [word for layout in arguments.layout for word in ("--layout", layout)]
    for option in ("precision", "output"):
        if getattr(arguments, option) is not None:
            words += [f"--{option}", getattr(arguments, option)]
    return [sys.executable, "-m", "megaphi", *words]
