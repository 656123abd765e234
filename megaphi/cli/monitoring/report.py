"""Write one HTML page about a run, or several side by side: losses, speed, memory, events, sources, configuration.

The page holds everything itself, loads nothing from a network and runs no script, so it can be sent and kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megaphi.config import user_path
from megaphi.errors import InputError

HELP = "one HTML page about a run, or about several side by side"
EXAMPLE = """examples:
  megaphi report runs/quickstart/run                            writes runs/quickstart/run/report.html
  megaphi report runs/first runs/second --output both.html      the same charts, over tokens
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="run folders")
    parser.add_argument(
        "--output", type=user_path, metavar="FILE", help="default: report.html in the folder of the only run"
    )


def run(arguments: argparse.Namespace) -> int:
    from megaphi.files import write_text
    from megaphi.monitoring.observed_run import open_runs
    from megaphi.monitoring.page import page

    runs = open_runs(arguments.runs)
    if arguments.output is None and len(runs) > 1:
        raise InputError("of several runs --output FILE says where the page goes")
    output = Path(arguments.output) if arguments.output else runs[0].folder / "report.html"
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output {output}: the report is an HTML page, name it so: {output.with_suffix('.html')}")
    text = page(runs)
    write_text(output, text)
    print(f"{output}: {len(text):,} characters")
    return 0
