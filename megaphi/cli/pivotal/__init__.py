"""Preference data as Phi-4 was made with: pivotal token search, and what is read from and for other programs.

megaphi pivotal VERB --help explains a verb and shows an example.
"""

from __future__ import annotations

import argparse
import importlib

HELP = "preference data: pivotal token search"
EXAMPLE = """examples:
  megaphi pivotal search questions.jsonl --sampler runs/sft --output runs/pivotal
  megaphi pivotal read events.jsonl
"""
VERBS = ("search", "read")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar=" | ".join(VERBS), required=True)
    for name in VERBS:
        module = importlib.import_module(f"megaphi.cli.pivotal.{name}")
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=module.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)


def run(arguments: argparse.Namespace) -> int:
    return importlib.import_module(f"megaphi.cli.pivotal.{arguments.verb}").run(arguments)
