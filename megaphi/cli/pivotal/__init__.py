"""Preference and fine-tuning data as Phi-4 was made with: pivotal token search, judged pairs, hallucination data.

Samplers are named: a model that our engine runs in any layout, or a server's as http://HOST:PORT/v1=MODEL. Answers are
kept, so a command that was ended goes on where it was, and one that is repeated pays for nothing twice.

megaphi pivotal VERB --help explains a verb and shows an example.
"""

from __future__ import annotations

import argparse
import importlib

from megaphi.cli import add_verb

HELP = "preference data: pivotal token search, judged pairs, hallucination data, best of n"
EXAMPLE = """examples:
  megaphi pivotal search questions.jsonl --sampler runs/sft --output runs/pivotal
  megaphi pivotal read events.jsonl
  megaphi pivotal judge prompts.jsonl --model runs/sft --judge http://127.0.0.1:8000/v1=phi-4 --output data/judged
  megaphi pivotal hallucination trivia.jsonl --model runs/sft --writer downloads/phi-4 --output data/unknown
  megaphi pivotal best questions.jsonl --model runs/sft --samples 16 --output data/best
"""
VERBS = ("search", "read", "judge", "hallucination", "best")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar=" | ".join(VERBS), required=True)
    for name in VERBS:
        add_verb(verbs, name, importlib.import_module(f"megaphi.cli.pivotal.{name}"))


def run(arguments: argparse.Namespace) -> int:
    return importlib.import_module(f"megaphi.cli.pivotal.{arguments.verb}").run(arguments)
