"""Evaluation during training: tasks by log-likelihood, scored by the model in training on its own ranks.

Everything that can be wrong with names, files and columns is found before the first step, by the plan of
`megaphi evaluate`. Items become tokens once, at the start; then every evaluation scores the same tokens, and grades
them in the same way. Tasks whose answers are written are refused: the inference engine has other layouts than training,
and weights of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import EvaluationPasses
from megaphi.errors import InputError
from megaphi.evaluation.plan import EvaluationPlan, PlannedTask, make_plan
from megaphi.evaluation.results import TaskResult
from megaphi.evaluation.run import AnsweredTask, result_of
from megaphi.evaluation.statistics.clustered import clustered_mean
from megaphi.evaluation.task import PHI4, Choose, GradingTools, LogLikelihood, TaskResponse
from megaphi.evaluation.tasks import all_tasks, find_task
from megaphi.evaluation.tasks.multiple_choice.likelihood import LikelihoodTask
from megaphi.grading.grader import Grader
from megaphi.log import logger
from megaphi.parallel.rendezvous.place import detect
from megaphi.tokenizer.interface import Tokenizer

if TYPE_CHECKING:
    from megaphi.engine.model.training_model import TrainingModel
    from megaphi.engine.training.text_scores import ScoredText
    from megaphi.evaluation.asking.likelihoods import TokenPair


def check_tasks(names: Sequence[str]) -> None:
    """Raises InputError for a name of `evaluation.tasks` that is none, or of a task whose answers are written."""
    for name in names:
        if not isinstance(find_task(name), LikelihoodTask):
            fitting = ", ".join(name for name, one in all_tasks().items() if isinstance(one, LikelihoodTask))
            raise InputError(
                f"evaluation.tasks: answers to {name} are written, and during training only log-likelihoods are "
                f"computed: {fitting}. Evaluate checkpoints on it with megaphi evaluate"
            )


def plan_of(section: EvaluationPasses) -> EvaluationPlan:
    """The tasks of a run with their items, from the files of its manifest. Raises InputError for anything wrong."""
    check_tasks(section.tasks)
    assert section.data is not None  # `run_config.check` has seen to it
    return make_plan(
        section.tasks,
        data=Path(section.data),
        protocol=PHI4,
        switches={},
        wording={},
        limit=section.limit,
        lengths=(),
        max_tokens=None,
        has_judge=False,
        seed=0,
    )


def open_evaluation(run: RunConfig, tokenizer: Tokenizer) -> TrainingEvaluation:
    """The evaluation of a run; `stages.train` calls it. Raises InputError."""
    longest = max(shape.sequence_length for shape in run.task.batch_shapes(run))
    return TrainingEvaluation(plan_of(run.evaluation), tokenizer, longest=longest)


class TrainingEvaluation:
    """Implements `engine.training.evaluations.Evaluate`."""

    def __init__(self, plan: EvaluationPlan, tokenizer: Tokenizer, *, longest: int) -> None:
        """`longest`: most tokens of a text before its last one. Raises InputError if no item of a task fits."""
        self._tasks = [_TokenTask(plan, one, tokenizer, longest=longest) for one in plan.tasks]

    def facts(self) -> Mapping[str, str]:
        """See `Evaluate`."""
        return {f"evaluation, tokens of {one.name}": one.digest() for one in self._tasks}

    def scores(self, model: TrainingModel, *, step: int) -> dict[str, float]:
        """See `Evaluate`."""
        found: dict[str, float] = {}
        with Grader() as grader:
            for one in self._tasks:
                found |= one.scores(model, GradingTools(grader), step=step)
        return found


class _TokenTask:
    """A task's continuations as tokens. An item with one that cannot be scored is refused, and so counts as wrong."""

    def __init__(self, plan: EvaluationPlan, planned: PlannedTask, tokenizer: Tokenizer, *, longest: int) -> None:
        from megaphi.engine.training.text_scores import ScoredText
        from megaphi.evaluation.asking.likelihoods import token_pair

        self._planned, self.name = planned, planned.task.name
        self._texts: dict[ScoredText, int] = {}
        self._unanswered: list[tuple[TaskResponse, list[int]]] = []
        items = plan.items_of(planned, tokenizer)
        for item, asked in zip(items, plan.asked_of(planned, items), strict=True):
            assert isinstance(asked, Choose)
            pairs = [token_pair(asked.context, one, tokenizer) for one in asked.continuations]
            reasons = [reason for pair in pairs if (reason := _reason_against(pair, longest))]
            texts = [ScoredText((*pair.context, *pair.continuation), len(pair.continuation)) for pair in pairs]
            numbers = [] if reasons else [self._texts.setdefault(text, len(self._texts)) for text in texts]
            self._unanswered.append((TaskResponse(item=item, asked=asked, refused="".join(reasons[:1])), numbers))
        self._report_refused()

    @property
    def items(self) -> int:
        return len(self._unanswered)

    def _report_refused(self) -> None:
        refused = [one for one, _ in self._unanswered if one.refused]
        if len(refused) == self.items:
            raise InputError(f"evaluation.tasks: no item of {self.name} can be scored: {refused[0].refused}")
        if refused and detect().rank == 0:
            first = f"{refused[0].item.name}: {refused[0].refused}"
            count = f"{len(refused):,} of {self.items:,} items"
            logger.warning("%s: %s cannot be scored, and count as wrong. %s", self.name, count, first)

    def digest(self) -> str:
        """Identity of the tokens and of the items."""
        asked = [(one.item.name, one.item.gold, numbers) for one, numbers in self._unanswered]
        return hashlib.sha256(json.dumps([asked, list(self._texts)]).encode()).hexdigest()[:16]

    def scores(self, model: TrainingModel, tools: GradingTools, *, step: int) -> dict[str, float]:
        """Means over all items, and the figures that are derived from them; the log has intervals too. Collective."""
        from megaphi.engine.training.text_scores import score_texts

        texts = list(self._texts)
        scored = zip(texts, score_texts(model, texts), strict=True)
        found = [LogLikelihood(score.log_probability, text.scored, score.is_greedy) for text, score in scored]
        responses = [
            replace(one, likelihoods=tuple(found[number] for number in numbers)) for one, numbers in self._unanswered
        ]
        planned = self._planned
        answered = AnsweredTask(
            task=planned.task,
            on=planned.on,
            files=planned.files,
            items_in_files=len(planned.data.items),
            responses=responses,
        )
        return self._told(result_of(answered, tools), step)

    def _told(self, result: TaskResult, step: int) -> dict[str, float]:
        clusters = [one.cluster for one in result.responses]
        means, shown = {}, []
        for name in result.scores:
            estimate = clustered_mean([one.scores[name] for one in result.responses], clusters)
            means[name], band = estimate.estimate, estimate.interval()
            shown.append(f"{name} {estimate.estimate:.4f} ({band.low:.3f} to {band.high:.3f})")
        logger.info("after step %d: %s %s, %d items, 95 %% intervals", step, self.name, ", ".join(shown), self.items)
        return {f"evaluation/{self.name}/{name}": value for name, value in {**means, **result.derived}.items()}


def _reason_against(pair: TokenPair, longest: int) -> str | None:
    """The reason for which a pair cannot be scored by a run whose sequences have `longest` tokens."""
    if not pair.continuation:
        return "a continuation has no token of its own"
    passing = len(pair.context) + len(pair.continuation) - 1
    return f"{passing:,} tokens do not fit into the run's sequences of {longest:,}" if passing > longest else None
