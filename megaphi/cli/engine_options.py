"""What the verbs that generate through the engine share: its options, its ranks, and the engine itself.

With more than one process the verb starts itself anew once per rank; only the first rank talks to anybody.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.generation.json_constraint import Constraints
    from megaphi.generation.requests import Generator
    from megaphi.tokenizer.interface import Tokenizer


class Opened(NamedTuple):
    """A model with what belongs to it."""

    generators: list[Generator]
    """One for each replica."""
    tokenizer: Tokenizer
    constraints: Constraints


def add_engine_arguments(parser: argparse.ArgumentParser, *, batch: int) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint, a run folder (its newest one), or a Hugging Face folder"
    )
    parser.add_argument(
        "--batch", type=int, default=batch, metavar="N", help=f"answers generated at a time (default {batch})"
    )
    add_tokenizer_argument(parser)
    parser.add_argument("--tensor", type=int, default=1, metavar="N", help="processes that share every matrix")
    parser.add_argument("--pipeline", type=int, default=1, metavar="N", help="processes that share the layers")
    add_operators_argument(parser)
    parser.set_defaults(replicas=1)


def add_operators_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-slow-operators",
        type=_operators,
        default=(),
        metavar="NAMES",
        help="kernels, separated by commas, that PyTorch may stand in for on a GPU where they are not compiled",
    )


def _operators(text: str) -> tuple[str, ...]:
    from megaphi.model.architecture import check_operators

    names = tuple(text.split(","))
    check_operators(names, field="--allow-slow-operators ")
    return names


def add_tokenizer_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer", metavar="PATH", help="of a model that came without one: folder with tokenizer.json, or phi4"
    )


def on_every_rank(arguments: argparse.Namespace, work: Callable[[argparse.Namespace], int]) -> int:
    """Do `work` here, or in as many processes as the layout takes; returns the exit code."""
    from megaphi.parallel import launcher
    from megaphi.parallel.place import detect

    for name in ("batch", "tensor", "pipeline", "replicas"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name} {getattr(arguments, name)}: must be at least 1")
    processes = arguments.tensor * arguments.pipeline * arguments.replicas
    if processes > 1 and detect().launcher == "single":
        from megaphi.conversion.open_weights import open_weights

        open_weights(arguments.checkpoint)  # a wrong path should not cost a start of ranks
        command = [sys.executable, "-m", "megaphi", *arguments.words]
        return launcher.start_processes(command, processes=processes)
    return work(arguments)


def open_engine(arguments: argparse.Namespace) -> Opened:
    """A model, ready to generate. Comes back on the first rank; the others follow it in here until it ends.

    Only the first rank acts on Ctrl-C and SIGTERM: the others must stay for its last step.
    """
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.model_tokenizer import text_tokenizer_of
    from megaphi.generation.json_constraint import Constraints
    from megaphi.generation.leader import open_generators
    from megaphi.kernels.loading import allow_slow
    from megaphi.parallel.layout import ParallelLayout
    from megaphi.parallel.place import detect

    if detect().rank > 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    allow_slow(arguments.allow_slow_operators)
    layout = ParallelLayout(tensor=arguments.tensor, pipeline=arguments.pipeline, data=arguments.replicas)
    reader = open_weights(arguments.checkpoint)
    tokenizer = text_tokenizer_of(reader, path=arguments.tokenizer)
    constraints = Constraints(tokenizer)
    generators = open_generators(reader, layout=layout, rows=arguments.batch, constraints=constraints)
    return Opened(generators, tokenizer, constraints)
