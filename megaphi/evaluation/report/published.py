"""Phi-4's published scores, with their protocols and the noise of that many questions.

Technical report (arXiv 2412.08905): its main table, the ablation of post-training, and the figure of the AMC. Numbers
of questions are those of the public datasets. Each score is one measurement of one model: its noise is the 95 %
half-width of Wilson's interval with one answer to each question, as the report does not say how answers scattered;
with ten answers to each the true one is smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from megaphi.evaluation.statistics.clustered import CONFIDENCE
from megaphi.pivotal.methods.findings import Counts
from megaphi.pivotal.methods.statistics.intervals import wilson

SIMPLE_EVALS = "simple-evals of November 2024, temperature 0.5"
OWN = "Microsoft's own prompts"
STAGES = ("fine-tuned", "first DPO round", "second DPO round only", "both DPO rounds")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedScore:
    """A published headline score of Phi-4, in points of 100."""

    score: float
    questions: int
    protocol: str
    note: str = ""
    figure: str = ""
    """The task's figure that it is, where it is not the headline score: one that is a function of means."""
    stages: tuple[float, ...] = field(default=())
    """The same after the stages of post-training, in the order of `STAGES`."""

    @property
    def half_width(self) -> float:
        """Noise in points of 100, half the length of the 95 % interval."""
        right = round(self.questions * self.score / 100)
        band = wilson(Counts(right, self.questions - right), CONFIDENCE)
        return 50 * (band.high - band.low)


PUBLISHED: Mapping[str, PublishedScore] = {
    "mmlu": PublishedScore(score=84.8, questions=14_042, protocol=SIMPLE_EVALS, stages=(82.8, 84.8, 84.2, 84.8)),
    "gpqa": PublishedScore(score=56.1, questions=198, protocol=SIMPLE_EVALS, stages=(47.3, 53.6, 52.4, 56.1)),
    "math": PublishedScore(score=80.4, questions=5_000, protocol=SIMPLE_EVALS, stages=(77.1, 80.5, 77.6, 80.4)),
    "humaneval": PublishedScore(score=82.6, questions=164, protocol=SIMPLE_EVALS, stages=(79.5, 81.6, 81.5, 82.6)),
    "mgsm": PublishedScore(score=80.6, questions=2_750, protocol=SIMPLE_EVALS),
    "simpleqa": PublishedScore(
        score=3.0, questions=4_326, protocol=SIMPLE_EVALS, note="share of correct answers; the F1 is 5.05"
    ),
    "drop": PublishedScore(score=75.5, questions=9_535, protocol=SIMPLE_EVALS, note="F1"),
    "mmlu_pro": PublishedScore(score=70.4, questions=12_032, protocol=OWN),
    "humaneval_plus": PublishedScore(score=82.8, questions=164, protocol=OWN),
    "arena_hard": PublishedScore(
        score=75.4, questions=500, protocol=OWN, figure="win_rate", stages=(56.7, 66.5, 69.8, 75.4)
    ),
    "ifeval": PublishedScore(
        score=63.0,
        questions=541,
        protocol=OWN,
        note="which of the four figures is not known",
        stages=(66.2, 63.0, 63.0, 63.0),
    ),
    "amc": PublishedScore(score=61.2, questions=78, protocol=OWN, note="91.8 of 150 points"),
}
