"""The shared part of the verbs that generate through the engine: its options, its ranks, and the engine itself.

With more than one process the verb starts itself once per rank; only the first rank talks to anybody. What only it does
is handed over as a function, so that no code of a verb runs on a rank that follows it.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from megaphi.cli.job_end import ending_together, told_to_all_ranks
from megaphi.config import user_path
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.checkpoint.weight_reader import WeightReader
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.decoding.interface import Generator
    from megaphi.generation.decoding.json_constraint import Constraints
    from megaphi.parallel.liveness.patience import Patience
    from megaphi.tokenizer.interface import Tokenizer


class Opened(NamedTuple):
    """A model that is ready to generate, on the first rank."""

    generators: list[Generator]
    """One for each replica."""
    tokenizer: Tokenizer
    constraints: Constraints


class OpenedEngine(NamedTuple):
    """This rank's part of a model that is ready to generate."""

    engine: InferenceEngine
    tokenizer: Tokenizer
    constraints: Constraints
    reader: WeightReader


def add_engine_arguments(parser: argparse.ArgumentParser, *, batch: int) -> None:
    """The checkpoint, and how to run it."""
    parser.add_argument(
        "checkpoint",
        type=user_path,
        metavar="CHECKPOINT",
        help="a checkpoint, a run folder (its newest one), or a Hugging Face folder",
    )
    add_layout_arguments(parser, batch=batch)


def add_layout_arguments(parser: argparse.ArgumentParser, *, batch: int) -> None:
    parser.add_argument(
        "--batch", type=int, default=batch, metavar="N", help=f"answers generated at a time (default {batch})"
    )
    parser.add_argument(
        "--tokenizer",
        type=user_path,
        metavar="PATH",
        help="for a model that came without one: folder with tokenizer.json, or phi4",
    )
    parser.add_argument("--tensor", type=int, default=1, metavar="N", help="processes that share every matrix")
    parser.add_argument(
        "--pipeline", type=int, default=1, metavar="N", help="processes that share the layers, any number up to theirs"
    )
    parser.add_argument(
        "--heartbeat-seconds",
        type=float,
        metavar="N",
        help="a process that is silent for longer is named, and all end (default 40; 0: never)",
    )
    parser.add_argument(
        "--allow-slow-operators",
        type=_operators,
        default=(),
        metavar="NAMES",
        help="kernels, separated by commas, that PyTorch may replace on a GPU where they are not compiled",
    )
    parser.set_defaults(replicas=1)


def add_replicas(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        "--replicas",
        dest="replicas",
        type=int,
        default=1,
        metavar="N",
        help="copies of the model that share the prompts (default 1)",
    )


def _operators(text: str) -> tuple[str, ...]:
    from megaphi.model.architecture import check_operators

    names = tuple(text.split(","))
    check_operators(names, field="--allow-slow-operators ")
    return names


def on_every_rank(
    arguments: argparse.Namespace,
    work: Callable[[argparse.Namespace], int],
    *,
    checkpoints: Sequence[str] | None = None,
) -> int:
    """Run `work` here, or in as many processes as the layout takes; returns the exit code.

    `checkpoints`: the models that it opens, where that is not `arguments.checkpoint`.
    """
    from megaphi.parallel import launcher
    from megaphi.parallel.rendezvous.place import detect

    patience_of(arguments)
    for name in ("batch", "tensor", "pipeline", "replicas"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name} {getattr(arguments, name)}: must be at least 1")
    processes = arguments.tensor * arguments.pipeline * arguments.replicas
    if processes > 1 and detect().launcher == "single":
        from megaphi.conversion.open_weights import open_weights
        from megaphi.parallel.layout import ParallelLayout

        for path in checkpoints or [arguments.checkpoint]:
            model = open_weights(path).architecture  # a wrong path or layout should not cost a start of ranks
            layout = ParallelLayout(tensor=arguments.tensor, pipeline=arguments.pipeline)
            layout.with_stages_for(model.layers).check_model(
                layers=model.layers,
                heads=model.heads,
                feed_forward=model.feed_forward,
                sequence_length=1,
            )
        command = [sys.executable, "-m", "megaphi", *arguments.words]
        return launcher.start_processes(command, processes=processes)
    return ending_together(lambda: work(arguments))


def patience_of(arguments: argparse.Namespace) -> Patience:
    """Time that the ranks wait for each other: as in training, unless the options say otherwise."""
    from megaphi.config import check_values
    from megaphi.parallel.liveness.patience import Patience

    if arguments.heartbeat_seconds is None:
        return Patience()
    try:
        return check_values(Patience(heartbeat_seconds=arguments.heartbeat_seconds))
    except InputError as error:
        raise InputError(str(error).replace("heartbeat_seconds=", "--heartbeat-seconds ")) from None


def on_first_rank(arguments: argparse.Namespace, work: Callable[[Opened], int], *, phase: str = "serving") -> int:
    """Open the model on every rank, and do `work` with it on the first; the others follow that one until it ends.

    `phase`: what this rank says that it does, where another one is lost.

    Returns the exit code of `work`; 0 on the others. Only the first rank acts on Ctrl-C and SIGTERM: the others must
    stay for its last step.
    """
    from megaphi.generation.decoding.driver import drive, follow

    stay_for_the_last_step()
    opened = open_engine(arguments.checkpoint, arguments)
    if not opened.engine.model.world.is_main:
        follow(opened.engine)
        return 0
    generators = drive(opened.engine)
    opened.engine.model.world.activity.phase = phase
    return work(Opened(generators, opened.tokenizer, opened.constraints))


def stay_for_the_last_step() -> None:
    """Ranks that follow leave Ctrl-C and SIGTERM to the first one."""
    from megaphi.parallel.rendezvous.place import detect

    if detect().rank > 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def open_engine(checkpoint: str, arguments: argparse.Namespace) -> OpenedEngine:
    """A model on every rank, by the options of the command line. Collective."""
    from megaphi.checkpoint.model_tokenizer import text_tokenizer_of
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.decoding.json_constraint import Constraints
    from megaphi.kernels.loading import allow_slow
    from megaphi.parallel.layout import ParallelLayout

    allow_slow(arguments.allow_slow_operators)
    layout = ParallelLayout(tensor=arguments.tensor, pipeline=arguments.pipeline, data=arguments.replicas)
    with told_to_all_ranks():
        reader = open_weights(checkpoint)
        found = text_tokenizer_of(reader, path=arguments.tokenizer)
        constraints = Constraints(found)
    model = open_model(reader, layout, patience=patience_of(arguments))
    engine = InferenceEngine(model, slots=arguments.batch, constraints=constraints)
    return OpenedEngine(engine, found, constraints, reader)
