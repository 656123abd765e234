"""The schema of metrics.jsonl: every name that a step may have there, with its unit, its meaning, and when it is there.

docs/monitoring.md shows it (`python -m tests.engine.reporting.test_metric_names` rewrites the table there), and tests
hold the records of whole runs against it. SOURCE, TASK, SCORE and PHASE in a name stand for the run's own. Names that
are not here belong to the objective: the means that it reports beside its loss. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from megaphi.errors import InputError
from megaphi.json_text import is_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One name of the schema; words in capitals are placeholders."""

    name: str
    unit: str
    meaning: str
    when: str = "every step"
    whole: bool = False
    """True for a number that is always an integer."""

    def fits(self, name: str) -> bool:
        """Return whether a record's name is this metric."""
        return _pattern(self.name).fullmatch(name) is not None


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub("[A-Z]+", "(.+)", re.escape(name)), re.DOTALL)


SKIPPED = "steps that the guard left out: NaN and infinity are not written, nor what was not computed"
_VALIDATED = "steps that validate: every `validation.every`, and the last"
_SAVED = "steps that save: every `saving.every`, and the last"
METRICS = (
    Metric(name="step", unit="updates", meaning="number of this optimizer step; the first is 1", whole=True),
    Metric(
        name="loss",
        unit="the objective's",
        meaning="mean of the objective before the update: of pretraining and "
        "fine-tuning the cross-entropy in nats per trained token",
    ),
    Metric(name="gradient_norm", unit="", meaning="global L2 norm of the gradient before clipping"),
    Metric(name="learning_rate", unit="", meaning="rate of this update"),
    Metric(name="skipped", unit="updates", meaning="1: the update was left out", when=SKIPPED, whole=True),
    Metric(name="samples", unit="samples", meaning="samples read since the run began, this step included", whole=True),
    Metric(name="tokens", unit="tokens", meaning="tokens read since the run began, padding included", whole=True),
    Metric(
        name="seconds",
        unit="s",
        meaning="duration of the step, waiting for data included; validation, evaluation and saving are not",
    ),
    Metric(name="tokens_per_second", unit="tokens/s", meaning="tokens of the step over `seconds`"),
    Metric(name="tokens_per_second_per_device", unit="tokens/s", meaning="the same over the number of ranks"),
    Metric(
        name="teraflops_per_device",
        unit="TFLOP/s",
        meaning="model FLOPs: 6 per weight in a matrix product and "
        "token, causal attention counted half, recomputation not counted",
    ),
    Metric(
        name="mfu",
        unit="share",
        meaning="the same over the device's dense bf16 peak",
        when="devices whose peak is known (`PEAK_BF16_FLOPS` in `model/arithmetic.py`); never on a CPU",
    ),
    Metric(
        name="seconds/PHASE",
        unit="s",
        meaning="time of rank 0 in a phase since the record before (its validation, "
        "evaluation and save included): all phases together are the time between two records",
        when="phases that occurred",
    ),
    Metric(
        name="host_memory_bytes", unit="bytes", meaning="largest resident memory of rank 0's process so far", whole=True
    ),
    Metric(
        name="device_memory_bytes",
        unit="bytes",
        meaning="largest memory allocated on rank 0's device so far",
        when="GPUs",
        whole=True,
    ),
    Metric(name="steps_since_checkpoint", unit="updates", meaning="steps that would be lost now", whole=True),
    Metric(name="checkpoint_failures", unit="saves", meaning="checkpoints that this process gave up", whole=True),
    Metric(
        name="tokens/SOURCE",
        unit="tokens",
        meaning="tokens taken from a source since the run began",
        when=_SAVED,
        whole=True,
    ),
    Metric(name="validation_loss", unit="the objective's", meaning="mean over all held-out samples", when=_VALIDATED),
    Metric(
        name="validation_loss/SOURCE",
        unit="the objective's",
        meaning="mean over the held-out samples of a source",
        when=_VALIDATED,
    ),
    Metric(
        name="evaluation/TASK/SCORE",
        unit="the score's",
        meaning="a score of a benchmark",
        when="every `evaluation.every`, and the last step",
    ),
    Metric(name="evaluation_seconds", unit="s", meaning="duration of the evaluation", when="the same"),
)
MAY_BE_SKIPPED = ("loss", "gradient_norm")
"""Names that a step lacks whose update was left out, if they are not finite, or were not computed."""
OF_HELD_OUT_DATA = "validation_"
"""Prefix of the objective's means over held-out data; with /SOURCE, over that of one source."""


def metric_of(name: str) -> Metric | None:
    """The schema's row of a name; None if the name is an objective's, or nobody's."""
    return next((metric for metric in METRICS if metric.fits(name)), None)


def check_objective_names(names: Iterable[str]) -> None:
    """Refuse names of an objective's means that metrics.jsonl has for something else. Raises InputError."""
    for name in names:
        is_taken = metric_of(name) is not None or metric_of(OF_HELD_OUT_DATA + name) is not None
        if is_taken or name.startswith(OF_HELD_OUT_DATA):
            raise InputError(f"the objective reports a mean {name!r}, a name that metrics.jsonl has for another number")
        if not name or "/" in name:
            raise InputError(f"the objective reports a mean {name!r}: a name has no / (that is for sources)")


def problems_of(record: Mapping[str, Any], *, objective: Iterable[str] = ()) -> list[str]:
    """Differences between a record and the schema, whose objective reports these names."""
    own = {form for name in objective for form in (name, OF_HELD_OUT_DATA + name)}
    always = [metric.name for metric in METRICS if metric.when == "every step"]
    missing = [name for name in always if name not in record and not ("skipped" in record and name in MAY_BE_SKIPPED)]
    problems = [f"{name} is missing" for name in missing]
    for name, value in record.items():
        metric = metric_of(name)
        if metric is None and name.partition("/")[0] not in own:
            problems.append(f"{name} is not in the schema")
        if not is_number(value) or (metric is not None and metric.whole and type(value) is not int):
            problems.append(f"{name} is {value!r}")
    return problems
