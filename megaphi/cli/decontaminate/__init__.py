"""Look for benchmark items in training data, by the rule of Phi-4's report (Appendix B.1).

megaphi decontaminate VERB --help explains a verb and shows an example.
"""

from __future__ import annotations

import argparse
import importlib

from megaphi.cli import add_verb

HELP = "find benchmark items in training data"
EXAMPLE = """examples:
  megaphi decontaminate report --benchmark gsm8k=gsm8k/test.jsonl --data data/web data/sft.jsonl --output runs/leaks
  megaphi decontaminate allow-list --benchmark gsm8k=gsm8k/test.jsonl --reference pages/ --output allowed.txt
"""
VERBS = {"report": "report", "allow-list": "allow_list"}
"""Verb -> its module."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar=" | ".join(VERBS), required=True)
    for name, module in VERBS.items():
        add_verb(verbs, name, importlib.import_module(f"megaphi.cli.decontaminate.{module}"))


def run(arguments: argparse.Namespace) -> int:
    return importlib.import_module(f"megaphi.cli.decontaminate.{VERBS[arguments.verb]}").run(arguments)
