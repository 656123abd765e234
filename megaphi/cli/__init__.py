"""The command `megaphi`: one file per verb, imported when it is used.

Bad input ends with one message on standard error and exit code 2; a run that cannot go on with 1; a defect keeps its
traceback. Nothing here imports torch: `megaphi --help` is instant, and a wrong field costs no start-up of ranks.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NoReturn

from megaphi import __version__
from megaphi.cli.job_end import check_not_refused_before, tell_torchrun
from megaphi.errors import InputError, ReportedElsewhere, RunFailed
from megaphi.foreign.visible_text import VisibleStream, one_message

_OF_THEIR_OWN_NAME = "train tokenize generate chat serve convert inspect verify pivotal decontaminate".split()
VERBS = {name: name for name in _OF_THEIR_OWN_NAME} | {
    "watch": "monitoring.watch",
    "report": "monitoring.report",
    "profile": "monitoring.profile",
    "mixture": "mixture.of_run",
    "mixture fit": "mixture.fit",
    "plan": "planning.plan",
    "ladder": "planning.ladder",
    "parity": "planning.parity",
    "curate": "curate.curate",
    "curate label": "curate.label",
    "curate train-classifier": "curate.train_classifier",
    "curate train-statistics": "curate.train_statistics",
    "evaluate": "evaluation.evaluate",
    "compare": "evaluation.compare",
    "lm-eval": "evaluation.lm_eval",
    "doctor": "doctor.doctor",
    "hang-report": "monitoring.hang_report",
}
"""Verb to its module, in the order of `megaphi --help`. The second word of a verb is no recipe for the first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    _print_anything()
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    with redirect_stdout(_shown(sys.stdout)), redirect_stderr(_shown(sys.stderr)):
        return _run(parsed)


def _run(parsed: argparse.Namespace) -> int:
    try:
        check_not_refused_before()
        return parsed.command(parsed)
    except InputError as error:
        tell_torchrun(str(error))
        if not isinstance(error, ReportedElsewhere):
            print(f"megaphi: {one_message(str(error))}", file=sys.stderr)
        return 2
    except RunFailed as error:
        if str(error):  # only one rank of a job has something to say
            print(f"megaphi: {one_message(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("megaphi: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: not an error, but Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The words of a command line by name, `command` being what runs them; ends the program where they are none."""
    words = list(arguments)
    if (verb := " ".join(words[:2])) in VERBS:
        words[:2] = [verb]
    parser = _parser()
    parsed, rest = parser.parse_known_args(words)
    parsed.words = words  # as given, for verbs that start ranks of themselves
    if hasattr(parsed, "fields"):
        # argparse stops to collect field=value at the first option; they are welcome after it too.
        parsed.fields += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}{_as_fields(rest) if hasattr(parsed, 'fields') else ''}")
    return parsed


def _shown(stream: Any) -> Any:
    return stream if isinstance(stream, VisibleStream) else VisibleStream(stream)


def _print_anything() -> None:
    """Show characters that the terminal's encoding lacks as escapes, so that no text of a user's ends a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _as_fields(options: list[str]) -> str:
    """Explain which of our fields an option of another trainer corresponds to."""
    from megaphi.other_names import our_name

    known = {option: our_name(option.partition("=")[0]) for option in options}
    said = [f"{option.partition('=')[0]} is {ours}" for option, ours in known.items() if ours]
    return f" (fields are given as field=value: {'; '.join(said)})" if said else ""


def add_verb(verbs: Any, name: str, module: Any) -> argparse.ArgumentParser:
    """A parser for the verb whose module this is, among `verbs` (what `add_subparsers` returns)."""
    verb = verbs.add_parser(
        name,
        help=module.HELP,
        description=module.__doc__,
        epilog=module.EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(verb)
    return verb


class _Parser(argparse.ArgumentParser):
    """A parser, and those of its verbs, that quotes what it refuses as one message."""

    def error(self, message: str) -> NoReturn:
        tell_torchrun(message)
        super().error(one_message(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="megaphi",
        description="Train Phi-4, from raw pages to an aligned chat model, on NVIDIA Megatron-Core.",
        epilog="megaphi VERB --help explains a verb and shows an example.",
    )
    parser.add_argument("--version", action="version", version=f"megaphi {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, place in VERBS.items():
        module = importlib.import_module(f"megaphi.cli.{place}")
        add_verb(verbs, name, module).set_defaults(command=module.run)
    return parser
