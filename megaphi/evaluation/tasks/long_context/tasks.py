"""The long-context tasks by name, each for chat models and, as `NAME_base`, for base models that continue a text.

Long answers and summaries have a form that a judge grades by criteria too, `NAME_judged`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from megaphi.errors import InputError
from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, Switch, TaskResponse
from megaphi.evaluation.tasks.columns import with_repetitions
from megaphi.evaluation.tasks.guided.agreement import weighted_kappa
from megaphi.evaluation.tasks.guided.guides import Criterion, Guide
from megaphi.evaluation.tasks.guided.judge_passes import MOST_REQUESTS
from megaphi.evaluation.tasks.guided.tasks import SCORES, graded_by_guides
from megaphi.evaluation.tasks.long_context import documents, many_shot, passages, recall
from megaphi.evaluation.tasks.long_context.filling import FilledContext, Making
from megaphi.evaluation.tasks.long_context.metrics import is_found, ndcg, rouge_l, word_f1
from megaphi.evaluation.tasks.quirks import without_answer
from megaphi.sampling import Sampling
from megaphi.tokenizer.interface import Tokenizer

JUDGE_TOKENS = 2_048
Scored = tuple[Mapping[str, float], str]
"""Scores by name, and the answer that was found."""


def no_record(record: Record) -> Item:
    raise InputError("this task makes its items and reads none: take its files out of the manifest")


@dataclass(frozen=True, kw_only=True, slots=True)
class LongContextTask:
    """A task that fills a context of given length with one question and what surrounds its answer."""

    name: str
    about: str
    columns: tuple[str, ...] = ()
    scores: tuple[str, ...]
    item: Callable[[Record], Item] = no_record
    make: Callable[[Making], list[Item]]
    score: Callable[[FilledContext, str], Scored]
    room: int
    """Tokens of an answer at most."""
    chat: bool = True
    stop: tuple[str, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    """Criteria of a judge, who grades in the place of `score` if there are any."""
    wording: Mapping[str, str]
    items_wanted: int = 100
    shots: int = 0
    switches: tuple[Switch, ...] = ()
    derived: Mapping[str, Callable[[Mapping[str, float]], float]] = field(default_factory=dict)

    def judge_requests(self, on: frozenset[str]) -> int:
        return MOST_REQUESTS if self.criteria else 0

    def read(self, record: Record) -> Item:
        return self.item(record)

    def arranged(self, items: Sequence[Item]) -> list[Item]:
        return with_repetitions(items)

    def generate(
        self,
        items: Sequence[Item],
        shots: Sequence[Item],
        *,
        tokens: int,
        count: int,
        seed: int,
        tokenizer: Tokenizer,
    ) -> list[Item]:
        """Items that fill `tokens` tokens, as `task.GeneratedTask` says."""
        return self.make(
            Making(
                task=self.name,
                chat=self.chat,
                room=self.room,
                wording=self.wording,
                items=items,
                shots=shots,
                tokens=tokens,
                count=count,
                seed=seed,
                tokenizer=tokenizer,
            )
        )

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        if not isinstance(item.key, FilledContext):
            raise InputError(f"{self.name}: items fill a context of a length in tokens: give --lengths")
        return Continue(prompt=item.key.prompt, rules=Sampling(max_tokens=self.room, stop=self.stop))

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        if not self.criteria:
            return [self._grade(response) for response in responses]
        guides = [Guide(self.criteria, "\n".join(one.item.key.answers)) for one in responses]
        grades = graded_by_guides(responses, guides, tools, judge_tokens=JUDGE_TOKENS)
        return [
            replace(grade, details={**one.item.key.facts, **grade.details})
            for one, grade in zip(responses, grades, strict=True)
        ]

    def _grade(self, response: TaskResponse) -> Grade:
        scores, extracted = self.score(response.item.key, response.text)
        details: dict[str, Any] = dict(response.item.key.facts)
        problem = "" if extracted else without_answer(response)
        return Grade(scores=scores, extracted=extracted, problem=problem, details=details)


def _score_recall(key: FilledContext, answer: str) -> Scored:
    value = recall.recalled(answer)
    return {"exact": float(value == key.answers[0]), "contained": float(key.answers[0] in answer)}, value


def _score_short(key: FilledContext, answer: str) -> Scored:
    stated = answer.strip()
    scores = {"found": is_found(key.answers, stated), "f1": word_f1(key.answers, stated)}
    return {name: float(value) for name, value in scores.items()}, stated


def _score_qa(key: FilledContext, answer: str) -> Scored:
    scores, stated = _score_short(key, answer)
    return {**scores, "rouge_l": rouge_l(key.answers, stated)}, stated


def _score_summary(key: FilledContext, answer: str) -> Scored:
    return {"rouge_l": rouge_l(key.answers, answer), "f1": word_f1(key.answers, answer)}, answer.strip()


def _score_label(key: FilledContext, answer: str) -> Scored:
    label = many_shot.label_in(answer)
    return {"accuracy": float(bool(label) and int(label) == int(key.answers[0]))}, label


def _score_ranking(key: FilledContext, answer: str) -> Scored:
    ranking = passages.ranking_of(answer, dict(key.relevance))
    return {"ndcg_at_10": ndcg(key.relevance, ranking)}, " > ".join(ranking)


RECALL = LongContextTask(
    name="recall",
    about="The value of a key in a JSON object of random pairs; made, no files (json_kv of HELMET).",
    scores=("exact", "contained"),
    make=partial(recall.make_recall, spelling=recall.uuid),
    score=_score_recall,
    room=100,
    wording=recall.WORDING,
)
QA = LongContextTask(
    name="long_qa",
    about="Questions about a long document (NarrativeQA, InfiniteBench in HELMET).",
    columns=(documents.CONTEXT, "question|query", "answers|answer"),
    scores=("found", "f1", "rouge_l"),
    item=documents.qa_item,
    make=documents.make_documents,
    score=_score_qa,
    room=100,
    wording=documents.QA_WORDING,
)
SUMMARY = LongContextTask(
    name="long_summary",
    about="A summary of a long document: ROUGE-L (Multi-LexSum, InfiniteBench in HELMET).",
    columns=(documents.CONTEXT, "summary|summaries|answer"),
    scores=("rouge_l", "f1"),
    item=documents.summary_item,
    make=documents.make_documents,
    score=_score_summary,
    room=400,
    wording=documents.SUMMARY_WORDING,
)
CHAT_TASKS = (
    RECALL,
    LongContextTask(
        name="rag",
        about="Short answers from passages, one of which has the answer (KILT's questions in HELMET).",
        columns=("question|query", "answers|answer", "ctxs"),
        scores=("found", "f1"),
        item=passages.rag_item,
        make=passages.make_rag,
        score=_score_short,
        room=40,
        wording=passages.RAG_WORDING,
    ),
    LongContextTask(
        name="rerank",
        about="The ten best passages for a query, in order: nDCG@10 (MS MARCO in HELMET).",
        columns=("query|question", "ctxs"),
        scores=("ndcg_at_10",),
        item=passages.rerank_item,
        make=passages.make_rerank,
        score=_score_ranking,
        room=200,
        wording=passages.RERANK_WORDING,
    ),
    LongContextTask(
        name="icl",
        about="Labels of texts, learnt from as many examples as fit (TREC, BANKING77, CLINC150, NLU in HELMET).",
        columns=("text|question|sentence", "label|coarse_label|intent"),
        scores=("accuracy",),
        item=many_shot.labelled_item,
        make=many_shot.make_many_shot,
        score=_score_label,
        room=20,
        shots=1,
        wording=many_shot.WORDING,
    ),
    QA,
    SUMMARY,
)


def base_form(task: LongContextTask) -> LongContextTask:
    """The task as a text that a base model continues, up to the end of the answer's line, or of the quoted value."""
    stop = ('"', "\n") if task.name == "recall" else ("\n",)
    return replace(task, name=f"{task.name}_base", about=f"{task.about} For base models.", chat=False, stop=stop)


def judged_form(task: LongContextTask, criteria: tuple[Criterion, ...]) -> LongContextTask:
    """The task with a judge in two passes, who compares with the right answers, in the place of shared words."""
    return replace(
        task,
        name=f"{task.name}_judged",
        about=f"{task.about} By a judge.",
        scores=SCORES,
        derived={"weighted_kappa": weighted_kappa},
        criteria=criteria,
    )


TASKS = (
    *CHAT_TASKS,
    judged_form(QA, documents.QA_CRITERIA),
    judged_form(SUMMARY, documents.SUMMARY_CRITERIA),
    *map(base_form, CHAT_TASKS),
    replace(
        base_form(RECALL),
        name="recall_small_base",
        about="Recall with numbers of five digits, for small base models and short contexts.",
        make=partial(recall.make_recall, spelling=recall.five_digits),
        room=16,
    ),
)
