"""report.md, fit.json and fit.png of a mixture fit."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from megaphi.files import whole_file, write_json, write_text
from megaphi.foreign.markdown_cell import in_cell
from megaphi.planning.mixture.fit import Estimate, MixtureFit, TargetFit


def write_fit(fit: MixtureFit, folder: Path, *, recipe: str) -> None:
    """Write all three."""
    write_json(folder / "fit.json", asdict(fit))
    write_text(folder / "report.md", "\n".join(report_lines(fit, recipe=recipe)) + "\n")
    _plot(fit, folder / "fit.png")


def report_lines(fit: MixtureFit, *, recipe: str) -> Iterator[str]:
    """The report as Markdown."""
    yield f"# Mixture fit of {in_cell(recipe)}\n"
    targets = ", ".join(f"{target.weight:.2g} {in_cell(target.name)}" for target in fit.targets)
    yield f"Target: {targets}, in bits per byte"
    yield f"(the recipe's mixture under other seeds: standard deviation {fit.noise:.4f}).\n"
    yield "| source | recipe | proposed | 90 % of resampled fits propose |\n|---|---|---|---|"
    for name, base, proposed, (low, high) in zip(fit.sources, fit.base, fit.proposed, fit.proposed_range, strict=True):
        yield f"| {in_cell(name)} | {base:.3f} | {proposed:.3f} | {low:.3f} to {high:.3f} |"
    yield "\nGain of the proposed mixture, in bits per byte (positive: it is better), with 95 % intervals:\n"
    yield "| against | predicted | measured by training, in pairs of one seed |\n|---|---|---|"
    for name, words in (("base", "the recipe's mixture"), ("uniform", "equal shares")):
        yield f"| {words} | {_shown(fit.predicted_gain[name])} | {_shown(fit.measured_gain[name])} |"
    yield "\nThe predicted interval knows the fit's uncertainty, but not that the best of many mixtures was taken:"
    yield "trust the measured one.\n"
    yield from _target_lines(fit.targets)
    yield from _held_out_lines(fit)
    changes = " ".join(
        f"task.mixture.sources.{name}.weight={share:g}" for name, share in zip(fit.sources, fit.proposed, strict=True)
        if share > 0
    )  # fmt: skip
    yield f"Train with it: `megaphi train {recipe} {changes}`"
    if left_out := [name for name, share in zip(fit.sources, fit.proposed, strict=True) if share == 0]:
        named = ", ".join(map(in_cell, left_out))
        yield f"\nIt leaves out {named}: take these sources out of the recipe, a weight cannot be 0."


def _target_lines(targets: tuple[TargetFit, ...]) -> Iterator[str]:
    yield "| validation set | error of the law | error of a plain mean | noise | floor | slopes |"
    yield "|---|---|---|---|---|---|"
    for target in targets:
        slopes = ", ".join(f"{in_cell(name)} {slope:+.2f}" for name, slope in target.slopes.items())
        yield (
            f"| {in_cell(target.name)} | {target.left_out_error:.4f} | {target.mean_error:.4f} | {target.noise:.4f} |"
            f" {target.floor:.3f} | {slopes} |"
        )
    yield "\nErrors are of trials that were left out of the fit one at a time (root mean square, bits per byte);"
    yield "noise is the standard deviation of repeats, below which no error can be expected to fall.\n"


def _held_out_lines(fit: MixtureFit) -> Iterator[str]:
    if not fit.held_out:
        return
    known = "" if fit.rank_correlation is None else f" (rank correlation {fit.rank_correlation:.2f})"
    yield f"Mixtures that the fit did not see{known}:\n\n| trial | predicted | measured |\n|---|---|---|"
    for name, predicted, measured in fit.held_out:
        yield f"| {in_cell(name)} | {predicted:.4f} | {measured:.4f} |"
    yield ""


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"


def _plot(fit: MixtureFit, path: Path) -> None:
    """Shares as bars; predicted against measured for held-out mixtures, where there are any."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (shares, held_out) = pyplot.subplots(1, 2, figsize=(10, 4.2), dpi=120, layout="constrained")
    places = range(len(fit.sources))
    spread = [
        [max(0.0, share - low) for share, (low, _) in zip(fit.proposed, fit.proposed_range, strict=True)],
        [max(0.0, high - share) for share, (_, high) in zip(fit.proposed, fit.proposed_range, strict=True)],
    ]
    shares.bar([place - 0.2 for place in places], fit.base, 0.4, label="recipe", color="#56B4E9")
    shares.bar([place + 0.2 for place in places], fit.proposed, 0.4, yerr=spread, label="proposed", color="#D55E00")
    shares.set_xticks(list(places), fit.sources, rotation=20)
    shares.set(ylabel="share", title="mixtures (bars: 90 % of resampled fits)")
    shares.legend(frameon=False)
    if fit.held_out:
        _, predicted, measured = zip(*fit.held_out, strict=True)
        ends = [min(*predicted, *measured), max(*predicted, *measured)]
        held_out.plot(ends, ends, color="#333333", linewidth=0.8)
        held_out.plot(predicted, measured, "o", color="#0072B2")
    held_out.set(xlabel="predicted bits per byte", ylabel="measured", title="mixtures that the fit did not see")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    with whole_file(path) as file:
        file.write(buffer.getvalue())
