"""Gather statistics of clean text for the step Corruption: character n-grams and compression, by language.

Give text that you trust: books, manuals, encyclopedias, a few hundred pages a language, of the kinds that are to be
kept (code and formulas too). Every fifth text is kept out of the counts and says where clean windows lie.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megaphi.config import user_path

HELP = "statistics of clean text, for finding corrupted text"
EXAMPLE = """example:
  megaphi curate train-statistics clean.jsonl --language-key metadata.language --output clean.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", type=user_path, nargs="+", metavar="FILE", help="JSON lines or Parquet")
    parser.add_argument("--text-key", default="text", metavar="KEY", help="field with the text (default text)")
    parser.add_argument(
        "--language-key", default="language", metavar="KEY", help="field with its language; en where there is none"
    )
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE", help="the statistics")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.curation.filter.corruption.corruption import languages_with_statistics
    from megaphi.curation.filter.corruption.statistics import statistics_by_language, write_statistics
    from megaphi.curation.filter.record_fields import value_at
    from megaphi.data.text.bad_records import BadRecords
    from megaphi.data.text.documents import read_records

    bad = BadRecords("error")
    pairs = []
    for path in arguments.texts:
        for place, record in read_records(Path(path), refuse=bad.add):
            text = value_at(record, arguments.text_key)
            if isinstance(text, str):
                pairs.append((str(value_at(record, arguments.language_key) or "en"), text))
            else:
                bad.add(place, f"no text in the field {arguments.text_key!r}")
    bad.raise_if_refused()
    found = statistics_by_language(pairs)
    write_statistics(Path(arguments.output), found)
    print(f"{arguments.output}: {languages_with_statistics(found)}")
    return 0
