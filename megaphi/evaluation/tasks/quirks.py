"""Switches that several tasks share, and what the tasks say of a response without an answer.

Equal names mean the same quirk everywhere. Each behaviour with the switch on was read from simple-evals as of November
2024; a task that simple-evals does not have takes over those of the nearest one that it has.
"""

from __future__ import annotations

from megaphi.evaluation.task import Problem, Switch, TaskResponse

FIRST_ANSWER = Switch(
    name="first-answer",
    on="The first answer that the response announces counts.",
    off="The last one counts: what is said while thinking aloud is no answer.",
    changes="grading",
)
ANSWER_ACROSS_LINES = Switch(
    name="answer-across-lines",
    on="White space around the colon of `Answer:` may hold line ends: the next line of text is the answer.",
    off="The answer stands on the line of its announcement.",
    changes="grading",
)
PUBLISHED_FORM_ONLY = Switch(
    name="published-form-only",
    on="An answer in another form than the one that was asked for, as in a box, is none.",
    off="What megaphi/grading reads as the stated answer counts.",
    changes="grading",
)
MARKUP_KEPT = Switch(
    name="markup-kept",
    on="Emphasis and LaTeX are part of the text: `**Answer:** B` announces no answer.",
    off="They are taken away before the answer is looked for.",
    changes="grading",
)
JUDGE_READS_IT_RAW = Switch(
    name="judge-reads-it-raw",
    on="The answer stands in the judge's prompt as it is: it can tell the judge what to say.",
    off="It is quoted within a fence that its writer could not know.",
    changes="grading",
)
JUDGE_SAMPLES = Switch(
    name="judge-samples",
    on="The judge answers at temperature 0.5: the same pair can be equal once and different once.",
    off="It answers at temperature 0, each pair once.",
    changes="grading",
)


def without_answer(response: TaskResponse) -> Problem:
    """The problem of a response in which no answer was found."""
    return "truncated" if response.finish == "length" else "no answer extracted"
