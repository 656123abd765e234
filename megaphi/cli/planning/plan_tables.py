"""Tables of a plan: its assumptions, the fastest layouts, their memory and price, and the choices that do not work."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megaphi.planning.search.buffers import explain_buffers
from megaphi.planning.search.calibration import MeasuredRatio
from megaphi.planning.search.claim import POWER_SHARE, ClaimVerdict, RunCost, cost_of
from megaphi.planning.search.planned import fields_of
from megaphi.planning.search.search import Found, Plan
from megaphi.planning.search.space import PlanQuestion

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """Everything that is printed."""

    recipe: str
    fields: tuple[str, ...]
    """As given."""
    question: PlanQuestion
    found: Found
    tokens: float
    """0 if it is not known how many the run will see."""
    calibration: MeasuredRatio | None
    days: float | None
    claim: ClaimVerdict | None

    @property
    def title(self) -> str:
        question, batch = self.question, self.question.run.batch
        tokens = f", {self.tokens:,.0f} tokens" if self.tokens else ""
        return (
            f"{self.recipe} on {question.devices:,} {question.device.name}: {batch.global_batch:,} sequences of"
            f" {batch.sequence_length:,} tokens a step{tokens}"
        )

    @property
    def chosen_fields(self) -> tuple[str, ...]:
        """The given fields, and those that the first plan decides."""
        chosen = fields_of(self.found.plans[0].choice)
        decided = {field.partition("=")[0] for field in chosen}
        return (*(field for field in self.fields if field.partition("=")[0] not in decided), *chosen)

    def cost(self, plan: Plan) -> RunCost:
        return cost_of(self.question, tokens=self.tokens, tokens_per_second=plan.time.tokens_per_second)


def print_report(report: PlanReport, written: Sequence[Path] = ()) -> None:
    print(f"Plan of {report.title}")
    if report.question.other_batches:
        sizes = ", ".join(f"{size:,}" for size in sorted(report.question.other_batches))
        print(f"every plan works at the run's other batches too ({sizes}); time and cost are those of the batch above")
    _print_assumptions(report)
    found = report.found
    print()
    print(
        f"{found.space:,} choices, of which {found.fitting:,} fit in"
        f" {report.question.memory_bytes / GIGA:g} GB a device"
    )
    if found.plans:
        _print_plans(report)
        _print_memory(report)
    _print_refusals(report)
    if report.claim is not None:
        print()
        print(claim_text(report))
    if found.plans:
        fields = " ".join(shlex.quote(field) for field in report.chosen_fields)
        print()
        print("The first plan as a command")
        print(f"  megaphi train {shlex.quote(report.recipe)} {fields}")
    if written:
        print()
        print(f"Written to {written[0].parent}: {', '.join(path.name for path in written)}")
        print(f"  megaphi train {written[0]}:planned --dry-run --world-size {report.question.devices}")


def _print_assumptions(report: PlanReport) -> None:
    device, precision = report.question.device, report.question.run.precision
    found = report.calibration
    if found is None:
        print("not calibrated: no measured row of this device; its rates are assumed (megaphi/planning/step/device.py)")
    else:
        print(
            f"calibrated: {found.rows} rows of benchmarks/mfu.py took {found.ratio:.2f} times as long as the model said"
            f" (commit {', '.join(found.commits)}); the network's rates are assumed"
        )
    fp8 = f", {(device.products_fp8 or 0) / TERA:,.0f} in FP8" if precision.fp8 != "none" else ""
    print(
        f"  {device.products / TERA:,.0f} TFLOP/s in bf16 products without end{fp8}, {device.attention / TERA:,.0f} in"
        f" attention, {device.memory / TERA:.2f} TB/s,"
    )
    print(
        f"  {device.node_bytes / GIGA:.0f} GB/s within a node of {device.node_devices},"
        f" {device.network_bytes / GIGA:.0f} GB/s between nodes for each device"
    )
    print(
        f"  MFU is of {device.peak / TERA:,.1f} TFLOP/s dense bf16, by 6 FLOPs a matrix number and token, attention"
        " counted causal or full, no recomputation;"
    )
    print("  the time is a model's, without failures, stragglers, checkpoints and evaluation")


def _print_plans(report: PlanReport) -> None:
    cost = f"{'days':>8}{'GPU-hours':>12}{'MWh':>8}" if report.tokens else ""
    print()
    print(f"{'':>4}{'layout':<38}{'micro':>6}{'recompute':>11}{'s/step':>10}{'tokens/s':>12}", end="")
    print(f"{'per GPU':>11}{'causal':>8}{'full':>7}{'bubble':>8}{cost}")
    for number, plan in enumerate(report.found.plans, 1):
        time, choice = plan.time, plan.choice
        bubble = max(0.0, time.parts.get("pipeline bubble", 0.0)) / time.seconds
        print(
            f"{number:>3} {choice!s:<38}{choice.micro_batch:>6}{choice.recompute:>11}{time.seconds:>10.3f}"
            f"{time.tokens_per_second * choice.layout.world_size:>12,.0f}{time.tokens_per_second:>11,.0f}"
            f"{time.utilisation('causal'):>8.1%}{time.utilisation('full'):>7.1%}{bubble:>8.1%}",
            end="",
        )
        price = report.cost(plan) if report.tokens else None
        print(f"{price.days:>8.1f}{price.device_hours:>12,.0f}{price.kilowatt_hours / 1e3:>8,.1f}" if price else "")
    if report.tokens:
        device = report.question.device
        print(f"    energy: {POWER_SHARE:.0%} of {device.watts:.0f} W a device, without hosts and cooling")


def _print_memory(report: PlanReport) -> None:
    print()
    print("GB a rank, on the stage that needs most (weights, gradients and optimizer exact, activations estimated)")
    print(f"{'':>4}{'stage':<6}{'weights':>9}{'gradients':>11}{'optimizer':>11}{'activations':>13}", end="")
    print(f"{'buffers':>9}{'total':>8}  layers of each stage")
    for number, plan in enumerate(report.found.plans, 1):
        stage = plan.memory[plan.largest]
        sizes = (stage.rank.weights, stage.rank.gradients, stage.rank.optimizer, stage.rank.activations)
        columns = zip((*sizes, stage.buffers, stage.total), (9, 11, 11, 13, 9, 8), strict=True)
        row = "".join(f"{size / GIGA:>{width}.2f}" for size, width in columns)
        print(f"{number:>3} {plan.largest:<6}{row}  {_layers(report, plan)}")
    print(f"    {explain_buffers()}")


def _layers(report: PlanReport, plan: Plan) -> str:
    """`2+2+2+2+3, 2+2+2+2+2`: chunks of every stage, from the bottom up."""
    layout = plan.choice.layout
    chunks = layout.chunk_layers(report.question.run.model.layers)
    rows = ["+".join(map(str, chunks[stage :: layout.pipeline])) for stage in range(layout.pipeline)]
    return ", ".join(rows) if len({*rows}) > 1 else f"{rows[0]} each" if len(rows) > 1 else rows[0]


def _print_refusals(report: PlanReport) -> None:
    found = report.found
    print()
    print("Choices that do not work, by the first reason, with an example")
    for reason, count in found.refused.most_common():
        print(f"  {count:>9,}  {reason} ({found.examples[reason]})")
    if not found.misses:
        return
    print()
    of = f"of {report.question.memory_bytes / GIGA:g}"
    print(
        "The smallest that are too large, one for the same ranks; first those that might be faster than the first plan"
    )
    for miss in found.misses:
        print(
            f"  {miss.choice}, micro-batch {miss.choice.micro_batch}, recompute {miss.choice.recompute}:"
            f" {miss.bytes / GIGA:.1f} GB on stage {miss.stage} {of}; at least {miss.seconds:.3f} s a step"
        )


def claim_text(report: PlanReport) -> str:
    """The verdict on a claim in one sentence, with its arithmetic."""
    claim, question = report.claim, report.question
    assert claim is not None
    what = f"{report.tokens / TERA:g}T tokens in {report.days:g} days on {question.devices:,} {question.device.name}"
    needs = (
        f"it needs {claim.needed / TERA:,.0f} TFLOP/s of every device with attention counted causal,"
        f" {claim.needed_full / TERA:,.0f} counted full; the data sheet's peak is {claim.peak / TERA:,.0f}"
    )
    if claim.kind == "impossible":
        return f"{what}: impossible, {needs}"
    if not report.found.plans:
        return f"{what}: nothing fits, and {needs}"
    best = report.cost(report.found.plans[0])
    if claim.kind == "too fast":
        return (
            f"{what}: no plan is so fast, {needs}; the first plan takes {best.days:.1f} days, and at its speed it would"
            f" take {claim.devices_needed:,.0f} devices"
        )
    return f"{what}: possible by the model, in {best.days:.1f} days without failures; {needs}"


def as_json(report: PlanReport, written: Sequence[Path] = ()) -> None:
    """Print one object: what the tables have, in bytes, seconds and FLOP/s."""
    found, question = report.found, report.question
    calibration = None if report.calibration is None else asdict(report.calibration)
    value = {
        "recipe": report.recipe,
        "fields": report.fields,
        "devices": question.devices,
        "device": asdict(question.device),
        "calibration": calibration,
        "memory_bytes": question.memory_bytes,
        "tokens": report.tokens,
        "choices": found.space,
        "fitting": found.fitting,
        "refused": dict(found.refused),
        "plans": [_plan_as_json(report, plan) for plan in found.plans],
        "too_large": [
            {"layout": str(miss.choice), "bytes": miss.bytes, "stage": miss.stage, "seconds_at_least": miss.seconds}
            for miss in found.misses
        ],
        "written": [str(path) for path in written],
        "claim": None if report.claim is None else {**asdict(report.claim), "text": claim_text(report)},
    }
    print(json.dumps(value, indent=1))


def _plan_as_json(report: PlanReport, plan: Plan) -> dict[str, Any]:
    time = plan.time
    return {
        "layout": str(plan.choice),
        "fields": fields_of(plan.choice),
        "seconds": time.seconds,
        "parts": dict(time.parts),
        "tokens_per_second": time.tokens_per_second * plan.choice.layout.world_size,
        "tokens_per_second_per_device": time.tokens_per_second,
        "mfu_causal": time.utilisation("causal"),
        "mfu_full": time.utilisation("full"),
        "stages": [{**asdict(stage.rank), "buffers": stage.buffers, "total": stage.total} for stage in plan.memory],
        "cost": asdict(report.cost(plan)) if report.tokens else None,
    }
