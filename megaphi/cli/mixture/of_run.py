"""Show what a run would read: shares, tokens and epochs of every source, stage by stage and over the whole run.

Sizes are counted in the data files where they are there, else they are what the recipe expects. Epochs are counted by
unique tokens, without the copies of documents. Sources that are read more than four times are named: up to about four,
repeated data is as good as new data (arXiv 2305.16264); and so are those whose files hold less than the recipe expects.
What is known of how the files were made is shown, and files that do not match their record are refused. Nothing is
written unless --plot or --write names a file. Stages are a field of the mixture, each with the tokens it lasts and its
shares:

    Mixture(sources=..., stages=(Stage(name="broad", tokens=9_000_000_000_000),
                                 Stage(name="late", shares=(Share(name="synthetic", weight=1.0),))))
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from megaphi.config import user_path
from megaphi.foreign.visible_text import print_text

if TYPE_CHECKING:
    from megaphi.data.order.report import MixtureReport, Repeat, Shortage

HELP = "what a run reads: tokens, shares and epochs of every source"
EXAMPLE = """examples:
  megaphi mixture phi4_14b_pretrain
  megaphi mixture phi4_14b_pretrain task.mixture.sources.web.weight=0.3 --warn-epochs 10 --plot mixture.png
  megaphi mixture my_recipes.py:my_run --json
  megaphi mixture phi4_7b_s_w --from runs/curated/* --write s_w.json
  megaphi mixture phi4_14b_pretrain 'task.mixture.stages=[{"name": "broad", "tokens": 9e12},
      {"name": "late", "shares": [{"name": "synthetic", "weight": 2}, {"name": "code", "weight": 1}]}]'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=user_path, metavar="RECIPE", help="a recipe's name, or file.py:function")
    parser.add_argument("fields", metavar="field=value", nargs="*", help="change a field of the recipe")
    parser.add_argument(
        "--from",
        dest="folders",
        nargs="+",
        default=[],
        metavar="[NAME=]FOLDER",
        help="read the sources from folders of megaphi curate, each named as its source, or NAME=FOLDER",
    )
    parser.add_argument(
        "--write", type=user_path, metavar="FILE.json", help="write the run, to be given to megaphi train"
    )
    parser.add_argument("--warn-epochs", type=float, default=4.0, metavar="N", help="name sources read more often (4)")
    parser.add_argument(
        "--plot", type=user_path, metavar="FILE.png", help="draw shares and epochs over the run into this file"
    )
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


def run(arguments: argparse.Namespace) -> int:
    import math

    from megaphi.cli.mixture_tables import print_lineage, print_sources, print_stages, report_run
    from megaphi.config import override, to_plain
    from megaphi.data.order.report import repeats, shortages
    from megaphi.engine.run_config import check
    from megaphi.errors import InputError
    from megaphi.files import write_json
    from megaphi.log import set_up_logging
    from megaphi.recipes import load_recipe

    limit = arguments.warn_epochs
    if not (math.isfinite(limit) and limit > 0):
        raise InputError(f"--warn-epochs {limit:g}: must be a positive number of epochs")
    set_up_logging()
    configuration, unused = override(load_recipe(arguments.recipe), arguments.fields), []
    if arguments.folders:
        from megaphi.recipes.curated import with_curated

        configuration, unused = with_curated(configuration, arguments.folders)
    layout = configuration.layout
    report = report_run(check(configuration, world_size=layout.model_ranks * (layout.data or 1)))
    if arguments.plot is not None:
        from megaphi.data.order.plot import plot_mixture

        plot_mixture(report, arguments.plot, title=configuration.recipe, warn_epochs=limit)
    if arguments.write is not None:
        write_json(arguments.write, to_plain(configuration))
    found = repeats(report, above=limit)
    if arguments.json:
        _print_json(configuration.recipe, report, found, limit=limit)
        return 0
    print(f"{configuration.recipe}: {report.tokens:,} tokens in {report.steps:,} steps")
    print_stages(report)
    print_sources(report)
    print_lineage(report)
    _print_repeats(found, limit=limit)
    _print_shortages(shortages(report))
    if unused:
        print()
        print(f"not read by {configuration.recipe}: {', '.join(unused)}")
    return 0


def _print_repeats(found: tuple[Repeat, ...], *, limit: float) -> None:
    if found:
        print()
    for source, epochs, stage in found:
        print(f"warning: {source} is read {epochs:.1f} times; it passes {limit:g} epochs in stage {stage}")
    if found:
        print("Up to about 4 epochs, repeated data is as good as new data (arXiv 2305.16264).")


def _print_shortages(found: tuple[Shortage, ...]) -> None:
    if found:
        print()
    for one in found:
        print(
            f"warning: {one.source} is read {one.epochs:,.1f} times, {one.expected_epochs:.1f} times by the recipe: it"
            f" holds {one.unique_tokens:,} unique tokens, and {one.expected_tokens:,} are expected"
        )


def _print_json(recipe: str, report: MixtureReport, found: tuple[Repeat, ...], *, limit: float) -> None:
    import json

    from megaphi.config import to_plain
    from megaphi.data.order.report import shortages

    warnings = [repeat._asdict() for repeat in found]
    plain = {"recipe": recipe, **to_plain(report), "warn_epochs": limit, "warnings": warnings}
    plain["shortages"] = [shortage._asdict() for shortage in shortages(report)]
    print_text(json.dumps(plain, indent=2, ensure_ascii=False))
