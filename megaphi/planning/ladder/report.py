"""A ladder as text, JSON, table and picture: the plan before it runs, the fit, and predicted against measured."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from megaphi.engine.run_config import RunConfig
from megaphi.files import whole_file, write_json, write_text
from megaphi.foreign.markdown_cell import in_cell
from megaphi.planning.ladder.law import Interval, LadderLaw, Sweep, fit_law, left_out
from megaphi.planning.ladder.plan import Ladder, LadderSettings, flops_of, sweep_of
from megaphi.planning.ladder.prediction import Measurement, Prediction, Record
from megaphi.planning.small_runs import LOSS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("what", "parameters", "tokens", "learning_rate", "seed", "loss", "low", "high", "seconds")


def plan_lines(settings: LadderSettings, ladder: Ladder, base: RunConfig) -> Iterator[str]:
    """The runs and what they cost."""
    yield "| parameters of layers | layers x width | tokens | steps of sequences | learning rates | runs | PFLOP |"
    yield "|---|---|---|---|---|---|---|"
    runs = len(settings.rate_factors) * settings.seeds
    total = 0.0
    for rung in (*ladder.rungs, ladder.target):
        is_target = rung is ladder.target
        count = settings.target_seeds if is_target else runs
        cost = count * flops_of(rung, base)
        total += cost
        factors = [] if is_target else settings.rate_factors
        rates = ", ".join(f"{rung.usual_rate * factor:.2e}" for factor in factors) or "as fitted"
        yield (
            f"| {rung.parameters:,}{' (target)' * is_target} | {rung.model.layers} x {rung.model.hidden} |"
            f" {rung.tokens:,} | {rung.steps} of {rung.global_batch} | {rates} | {count} | {cost / 1e15:.4g} |"
        )
    yield f"\n{len(ladder.rungs) * runs + settings.target_seeds} runs, {total / 1e15:.4g} PFLOP in all"
    yield "(6 per weight of a matrix product and token, attention counted causal)."


class Report:
    """Results, fit and texts of a ladder."""

    def __init__(
        self, settings: LadderSettings, ladder: Ladder, base: RunConfig, results: Mapping[str, Record]
    ) -> None:
        self.settings, self.ladder, self.base = settings, ladder, base
        self.targets = [one for one in results.values() if one["parameters"] == ladder.target.parameters]
        self.records = [one for one in results.values() if one["parameters"] != ladder.target.parameters]
        self.sweep: Sweep = sweep_of(ladder, self.records)
        self.law: LadderLaw = fit_law(self.sweep)

    def write(self, prediction: Prediction, outcome: Measurement | None) -> None:
        """report.md, ladder.json, ladder.csv and ladder.png."""
        folder = self.settings.folder
        write_json(folder / "ladder.json", self.plain(prediction, outcome))
        write_text(folder / "report.md", "\n".join(self.lines(prediction, outcome)) + "\n")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *self.rows(prediction, outcome)])
        write_text(folder / "ladder.csv", text.getvalue())
        picture = _picture(self, prediction, outcome)
        with whole_file(folder / "ladder.png") as file:
            file.write(picture)

    def plain(self, prediction: Prediction, outcome: Measurement | None) -> dict[str, Any]:
        law = self.law
        return {
            "law": {"floor": law.floor, "scale": law.scale, "power": law.power, "misfit": law.misfit},
            "rate": {"p": law.rate[0], "q": law.rate[1]},
            "noise": law.optima.noise,
            "left_out": [dict(zip(("parameters", "predicted", "measured"), one, strict=True)) for one in self.left_out],
            "prediction": {**asdict(prediction), "sha256": prediction.sha256},
            "outcome": None if outcome is None else asdict(outcome),
        }

    @property
    def left_out(self) -> list[tuple[float, float, float]]:
        return left_out(self.sweep)

    def rows(self, prediction: Prediction, outcome: Measurement | None) -> Iterator[tuple[Any, ...]]:
        """Every run, then the prediction, then the mean that was measured; by COLUMNS."""
        for name, records in (("run", self.records), ("target", self.targets)):
            for one in records:
                facts = (one["parameters"], one["tokens"], one["learning_rate"], one["seed"])
                yield (name, *facts, f"{one[LOSS]:.5f}", "", "", one["seconds"])
        rate, loss = prediction.learning_rate, prediction.loss
        facts = (prediction.parameters, prediction.tokens)
        yield ("predicted rate", *facts, f"{rate.value:.4g}", "", "", f"{rate.low:.4g}", f"{rate.high:.4g}", "")
        limits = (f"{loss.low:.5f}", f"{loss.high:.5f}")
        yield ("predicted", *facts, f"{rate.value:.4g}", "", f"{loss.value:.5f}", *limits, "")
        if outcome is not None:
            verdict = "measured, within" if outcome.is_right else "measured, WRONG"
            yield (verdict, *facts, f"{rate.value:.4g}", "", f"{outcome.mean:.5f}", "", "", "")

    def lines(self, prediction: Prediction, outcome: Measurement | None) -> Iterator[str]:
        """The report as Markdown."""
        yield f"# Ladder of {in_cell(self.settings.recipe)}\n"
        yield from self._verdict(prediction, outcome)
        yield from self._sizes()
        yield from self._fit()
        yield "\n## Plan\n"
        yield from plan_lines(self.settings, self.ladder, self.base)

    def _verdict(self, prediction: Prediction, outcome: Measurement | None) -> Iterator[str]:
        rate, runs = prediction.learning_rate, "one run" if prediction.runs == 1 else f"{prediction.runs} runs"
        yield f"Predicted at {prediction.written}, before the target was trained (sha256 {prediction.sha256[:16]}):"
        yield f"a model of {prediction.parameters:,} parameters in its layers, trained on {prediction.tokens:,} tokens"
        yield f"at a learning rate of {shown(rate, '.3e')}, has a held-out loss of **{shown(prediction.loss, '.4f')}**"
        yield f"(nats per token, mean of {runs}, 95 %).\n"
        if outcome is None:
            yield "Not measured yet: give the same command with `--measure`.\n"
            return
        each = ", ".join(f"{loss:.4f}" for loss in outcome.measured)
        word = "within the interval" if outcome.is_right else "OUTSIDE the interval: the prediction was WRONG"
        yield f"Measured: **{outcome.mean:.4f}** ({each}), {outcome.error:+.4f} from the prediction, {word}.\n"

    def _sizes(self) -> Iterator[str]:
        optima = self.law.optima
        yield "| parameters | best learning rate | loss there | law | law of the others |\n|---|---|---|---|---|"
        others = {parameters: predicted for parameters, predicted, _ in self.left_out}
        for size, parameters in enumerate(self.sweep.parameters_Z):
            edge = "" if optima.is_inside_Z[size] else " (at the end of those tried)"
            predicted = f"{others[parameters]:.4f}" if parameters in others else ""
            yield (
                f"| {parameters:,.0f} | {math.exp(optima.log_rate_Z[size]):.3e}{edge} | {optima.least_Z[size]:.4f} |"
                f" {self.law.loss(parameters):.4f} | {predicted} |"
            )

    def _fit(self) -> Iterator[str]:
        law = self.law
        yield f"\nloss = {law.floor:.3f} + {law.scale:.4g} N^-{law.power:.3f};"
        yield f"best learning rate = {math.exp(law.rate[0]):.4g} N^{law.rate[1]:.3f}."
        yield f"Noise of a run: {law.optima.noise:.4f} ({law.optima.freedom} degrees of freedom);"
        yield f"sizes lie {law.misfit:.2f} times as far from the law as noise explains (at least 1)."
        yield f"\n{len(law.optima.least_Z)} sizes hardly fix three numbers: floor and power can be traded for each"
        yield "other, which the interval knows. Tokens grow with parameters, so the law is of both together."


def shown(interval: Interval, form: str) -> str:
    return f"{interval.value:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def _picture(report: Report, prediction: Prediction, outcome: Measurement | None) -> bytes:
    """Loss by size with the interval; the sweep of every size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_size, by_rate) = pyplot.subplots(1, 2, figsize=(10, 4.2), dpi=120, layout="constrained")
    _draw_sizes(by_size, report, prediction, outcome)
    _draw_rates(by_rate, report.sweep, report.records)
    for axes in (by_size, by_rate):
        axes.xaxis.set_minor_formatter("")  # they would overlap
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return buffer.getvalue()


def _draw_sizes(axes: Axes, report: Report, prediction: Prediction, outcome: Measurement | None) -> None:
    sizes_Z, loss = report.sweep.parameters_Z, prediction.loss
    first, last = math.log(sizes_Z[0]), math.log(prediction.parameters)
    line = [math.exp(first + (last - first) * place / 50) for place in range(51)]
    axes.plot(line, [report.law.loss(one) for one in line], color="#333333", linewidth=0.8, label="law")
    axes.plot(sizes_Z, report.law.optima.least_Z, "o", color="#0072B2", label="at the best rate")
    spread = [[loss.value - loss.low], [loss.high - loss.value]]
    axes.errorbar([prediction.parameters], [loss.value], yerr=spread, fmt="s", color="#D55E00", label="predicted, 95 %")
    if outcome is not None:
        places = [prediction.parameters] * len(outcome.measured)
        axes.plot(places, outcome.measured, "x", color="#009E73", markersize=9, label="measured")
    axes.set(xscale="log", xlabel="parameters of the layers", ylabel="held-out loss, nats per token", title="size")
    axes.legend(frameon=False)


def _draw_rates(axes: Axes, sweep: Sweep, records: Sequence[Record]) -> None:
    for parameters in sweep.parameters_Z:
        points = sorted((one["learning_rate"], one[LOSS]) for one in records if one["parameters"] == parameters)
        axes.plot(*zip(*points, strict=True), "o-", linewidth=0.8, label=f"{parameters:,.0f}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="held-out loss", title="sweep of learning rates")
    axes.legend(frameon=False)
