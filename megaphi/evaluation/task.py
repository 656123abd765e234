"""A task: items of a benchmark, what a model is asked about each, and how its responses are graded.

    item = task.read(record)                        a row of a dataset file, with the hub's column names
    asked = task.ask(item, shots, on)               a prompt to continue, or continuations to score
    grades = task.grade(responses, on, tools)       one for each response

Two protocols exist side by side. `phi4-2024-11` is the behaviour of simple-evals as of 2024-11-20, by which Phi-4's
report measures (section 5); `corrected` is what that behaviour was meant to be. Every difference between them is a
`Switch` with a name: on, it is the published quirk; off, its correction. `on` is the set of names that are on. So a
result says exactly how it was made, and what each quirk is worth can be measured on the same responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from megaphi.conversation import Conversation
from megaphi.grading.grader import Grader
from megaphi.sampling import Finish, Sampling
from megaphi.tokenizer.interface import Tokenizer

Record = Mapping[str, Any]
"""A row of a dataset file."""
Problem = Literal["", "no answer extracted", "truncated", "judge failed", "undecided", "not answered"]
"""Reason that a response could not be graded as an answer. `truncated`: it reached its limit of tokens, and no answer
was extracted from it. `undecided`: a verifier could not tell. `not answered`: the sampler refused the prompt, as one
that does not fit its context. Results are reported with such responses as wrong, and without them."""
PHI4 = "phi4-2024-11"
CORRECTED = "corrected"


@dataclass(frozen=True, kw_only=True, slots=True)
class Switch:
    """One quirk of the published protocol, which can be on or off."""

    name: str
    """Words joined by hyphens, such as `first-answer`; equal names in several tasks mean the same quirk."""
    on: str
    """The behaviour with it on, that of simple-evals of 2024-11-20."""
    off: str
    """The behaviour with it off."""
    changes: Literal["prompt", "grading"]
    """A switch of grading can be turned on answers that exist; one of the prompt needs new answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question of a benchmark."""

    name: str
    """Unique in the task: the dataset's own id, or a hash of the question (`columns.item_name`)."""
    question: str
    """For people who browse items: what is asked, without instructions."""
    gold: str
    """For people who browse items: the right answer."""
    key: Any
    """The right answer in the form that the task grades by."""
    cluster: str = ""
    """Items of one cluster are not independent: they share a passage, or are translations of one question. Intervals
    resample clusters. "" means that the item stands alone."""
    group: str = ""
    """For sub-scores: a subject, a language, a level. `/` joins a wider group and a narrower one: `stem/anatomy`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Continue:
    """Ask for an answer, `repeats` times."""

    prompt: Conversation | str
    """A conversation for chat models; a text for base models."""
    rules: Sampling
    repeats: int = 1
    prompts: tuple[Conversation | str, ...] = ()
    """One prompt for each repeat where they differ, as in the order of options; `prompt` is the first of them then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choose:
    """Ask for the log-likelihood of each continuation of a text."""

    context: str
    continuations: tuple[str, ...]
    """As in lm-eval: each begins with what separates it from the context, mostly a space."""


Asked = Continue | Choose


@dataclass(frozen=True, slots=True)
class LogLikelihood:
    """The score of one continuation under the model."""

    total: float
    """Sum of the log-probabilities of its tokens, in nats."""
    tokens: int
    is_greedy: bool
    """True if every one of its tokens is the most probable one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResponse:
    """A model's answer to an item, one of several if it was asked repeatedly."""

    item: Item
    asked: Asked
    repeat: int = 0
    """Number of the answer among those to this item, from 0."""
    text: str = ""
    finish: Finish = "stop"
    tokens: int = 0
    likelihoods: tuple[LogLikelihood, ...] = ()
    """Scores of the continuations of a `Choose`, in their order."""
    refused: str = ""
    """The reason for which there is no answer; "" if there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """The grade of one response."""

    scores: Mapping[str, float]
    """By the names in `EvaluationTask.scores`, each from 0 to 1; with a problem too, as the protocol gives them."""
    extracted: str = ""
    """The answer that was found in the response."""
    problem: Problem = ""
    note: str = ""
    """For people who browse items: the grader's reason, or what the judge wrote."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Anything else that a report shows, as JSON."""


class Judge(Protocol):
    """A model that grades: any sampler, asked with the same rules and kept in the same journal as everything else."""

    name: str

    def answers(self, prompts: Sequence[Conversation], rules: Sampling) -> list[str | None]:
        """One answer to each prompt; None for one that the judge refused. Raises RunFailed if it does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class GradingTools:
    """Graders that tasks use."""

    grader: Grader
    """Mathematics, choices, exact answers, and programs in the sandbox."""
    judge: Judge | None = None
    """None if the user named none: a task that needs one is refused before anything is asked."""
    seed: int = 0


class EvaluationTask(Protocol):
    """A benchmark. Implementations are frozen dataclasses with defaults, in the files of `tasks/`."""

    @property
    def name(self) -> str:
        """As on the command line, such as `mmlu_pro`."""
        ...

    @property
    def about(self) -> str:
        """One line: what it measures, how many items it has, and its source."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a record must have, by the hub's names; alternatives are joined by `|`."""
        ...

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores of a grade; the first is the one that tables show."""
        ...

    @property
    def derived(self) -> Mapping[str, Callable[[Mapping[str, float]], float]]:
        """Figures of the whole task that are functions of the scores' means, as SimpleQA's F1 is."""
        ...

    @property
    def switches(self) -> tuple[Switch, ...]:
        """Quirks that apply to it."""
        ...

    @property
    def shots(self) -> int:
        """Worked examples before each question, taken from the manifest's `shots` files, never from the items."""
        ...

    def judge_requests(self, on: frozenset[str]) -> int:
        """Requests to a judge about one response, at most; 0 for a task that no judge grades under these switches."""
        ...

    def read(self, record: Record) -> Item:
        """Raises InputError that names the field, without the place of the record."""
        ...

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        """Args: shots: all items of the manifest's `shots` files; the task takes those that it shows. Raises InputError
        if there are too few."""
        ...

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        """One grade for each response, in order; responses with `refused` do not come here. Raises RunFailed."""
        ...


@runtime_checkable
class ArrangedTask(EvaluationTask, Protocol):
    """A task whose items depend on each other or on their place in the file: orders of options, translations."""

    def arranged(self, items: Sequence[Item]) -> list[Item]:
        """Args: items: all of the files, in their order, before any limit. Raises InputError that says which do not
        fit together."""
        ...


@runtime_checkable
class GeneratedTask(EvaluationTask, Protocol):
    """A task whose items are made to fill a context of given length, in tokens of the evaluated model."""

    @property
    def items_wanted(self) -> int:
        """Items that are made at each length if nobody says how many."""
        ...

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
        """Items for `ask`, whose prompts, with control tokens and the room of the answer, fill at most `tokens` tokens.

        Their group is the length, as text, and so are the first characters of their names, so that items of several
        lengths can stand side by side. Items of one record at several lengths share a cluster.

        Args:
            items: those of the manifest's files, in their order; empty if `columns` is, as the task needs no file.
            shots: those of its `shots` files.
            count: items to make: the first ones of `items`, or all of them if there are fewer.

        Raises:
            InputError: the length is too short for the task, or the files hold too little to fill it.
        """
        ...


def switches_on(task: EvaluationTask, protocol: str, changed: Mapping[str, bool]) -> frozenset[str]:
    """Names of the task's switches that are on: all of them, or none, by the protocol, but for those `changed`."""
    default = protocol == PHI4
    return frozenset(one.name for one in task.switches if changed.get(one.name, default))
