"""Tables of what a run reads: by stage, and by source over the whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megaphi.data.order.report import MixtureReport, SourceReport
    from megaphi.engine.run_config import RunConfig


def report_run(run: RunConfig) -> MixtureReport:
    """Report what a run reads from its first step to its last."""
    from megaphi.data.order.report import report_mixture
    from megaphi.stages.pretrain import mixture_of

    return report_mixture(
        mixture_of(run),
        steps=run.training.steps,
        sequence_length=run.batch.sequence_length,
        global_batch=run.batch.global_batch,
    )


def print_stages(report: MixtureReport) -> None:
    """Every stage with what it reads of each source that takes part in it."""
    for stage in report.stages:
        print()
        print(f"Stage {stage.name}: steps {stage.first_step:,} to {stage.first_step + stage.steps:,}")
        print(f"  {stage.tokens:,} tokens in {stage.steps:,} steps, sequence length {stage.sequence_length:,}")
        print(f"  {'source':<14}{'share':>8}{'tokens':>22}{'epochs':>9}")
        for source in stage.sources:
            print(f"  {source.name:<14}{source.share:>8.1%}{source.tokens:>22,}{_epochs(source.epochs):>9}")


def print_sources(report: MixtureReport) -> None:
    """Every source over the whole run, and where its size is from."""
    print()
    print("Sources, whole run")
    print(
        f"  {'source':<14}{'share':>8}{'tokens':>22}{'unique tokens':>22}{'epochs':>9}{'begun by stage':>18}  size is"
    )
    for source in report.sources:
        size = f"{source.unique_tokens:,}" if source.unique_tokens else "not known"
        begun = "?" if source.epochs_begun is None else ", ".join(map(str, source.epochs_begun))
        row = f"  {source.name:<14}{source.share:>8.1%}{source.tokens:>22,}{size:>22}{_epochs(source.epochs):>9}"
        print(f"{row}{begun:>18}  {_origin(source)}")


def _origin(source: SourceReport) -> str:
    """The origin of a source's size, and how much of it are copies."""
    if not source.counted or not source.held_tokens or source.unique_tokens is None:
        return "expected" if source.unique_tokens else "no files"
    known = [one.unique_tokens is not None for one in source.datasets]
    if source.datasets and not any(known):
        return "counted, copies not known"
    copies = 1 - source.unique_tokens / source.held_tokens
    return f"counted, {copies:.1%} copies" + ("" if all(known) else ", not known of all files")


def print_lineage(report: MixtureReport) -> None:
    """A line for every curated folder that a source's documents come from; nothing where none is known."""
    from megaphi.data.lineage.summary import describe_lineage

    lines = [
        f"  {source.name:<14}{described}"
        for source in report.sources
        for described in dict.fromkeys(
            describe_lineage(record) for dataset in source.datasets for record in dataset.lineage
        )
    ]
    if lines:
        print("", "Lineage", *lines, sep="\n")


def _epochs(epochs: float | None) -> str:
    if epochs is None:
        return "?"
    return f"{epochs:.1f}" if epochs >= 1 else f"{epochs:.2f}"
