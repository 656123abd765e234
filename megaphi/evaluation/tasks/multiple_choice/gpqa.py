"""GPQA: 198 questions of its diamond set, asked ten times, each time with the options in another order.

simple-evals draws the orders one after the other from one generator with seed 0, in the order of the file's rows and
then of the repeats: an order depends on the place of its row and on how many rows there are. With
`order-by-row` off it depends on the question and the number of the repeat only.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, Switch, TaskResponse
from megaphi.evaluation.tasks.columns import item_name, label_column, text_column, with_repetitions
from megaphi.evaluation.tasks.multiple_choice.announced_letters import ENGLISH, PLAIN_QUIRKS
from megaphi.evaluation.tasks.multiple_choice.chat import RULES, WORDING, choice_grade, choice_prompt
from megaphi.evaluation.tasks.unjudged import UnjudgedTask
from megaphi.evaluation.tasks.wording import conversation
from megaphi.grading.question import Choices
from megaphi.sampling import Sampling

OPTION_COLUMNS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
REPEATS = 10
ORDER_BY_ROW = Switch(
    name="order-by-row",
    on="Orders of options are drawn from one generator for the whole file, row by row.",
    off="They are drawn from the question and the number of the repeat: other rows and a shorter file change nothing.",
    changes="prompt",
)
OPTIONS_AS_STORED = Switch(
    name="options-as-stored",
    on="Question and options are shown with the white space and line ends that the file has around them.",
    off="White space around them is taken away.",
    changes="prompt",
)

Order = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShuffledChoices:
    """Options as stored, the right one first, and an order of them for each repeat."""

    options: tuple[str, ...]
    by_row: tuple[Order, ...] = ()
    by_question: tuple[Order, ...] = ()

    def shown(self, repeat: int, on: frozenset[str]) -> Choices:
        """Options as the repeat shows them; of two equal options the first is the right one."""
        order = (self.by_row if ORDER_BY_ROW.name in on else self.by_question)[repeat]
        options = self.options if OPTIONS_AS_STORED.name in on else tuple(text.strip() for text in self.options)
        shown = tuple(options[place] for place in order)
        return Choices(shown, shown.index(options[0]))


@dataclass(frozen=True, kw_only=True, slots=True)
class ShuffledChoiceTask(UnjudgedTask):
    """Questions whose options are shown in a new order for each repeat."""

    name: str = "gpqa"
    about: str = "GPQA diamond: 198 questions of graduate science, ten answers to each (Idavidrein/gpqa)"
    columns: tuple[str, ...] = ("Question", *OPTION_COLUMNS)
    switches: tuple[Switch, ...] = (ORDER_BY_ROW, OPTIONS_AS_STORED, *PLAIN_QUIRKS)
    rules: Sampling = RULES
    repeats: int = REPEATS
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))
    scores: tuple[str, ...] = ("accuracy",)

    def read(self, record: Record) -> Item:
        question = text_column(record, "Question")
        options = tuple(text_column(record, name) for name in OPTION_COLUMNS)
        return Item(
            name=item_name(record, "Record ID", question),
            question=question,
            gold=options[0].strip(),
            key=ShuffledChoices(options),
            group="/".join(
                filter(None, (label_column(record, "High-level domain"), label_column(record, "Subdomain")))
            ),
        )

    def arranged(self, items: Sequence[Item]) -> list[Item]:
        draws = random.Random(0)
        by_repeat = [[tuple(draws.sample(range(4), 4)) for _ in items] for _ in range(self.repeats)]
        return with_repetitions(
            [
                replace(
                    item,
                    key=replace(
                        item.key,
                        by_row=tuple(orders[row] for orders in by_repeat),
                        by_question=tuple(_order(item, repeat) for repeat in range(self.repeats)),
                    ),
                )
                for row, item in enumerate(items)
            ]
        )

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        question = item.question if OPTIONS_AS_STORED.name in on else item.question.strip()
        prompts = tuple(
            conversation(self.wording, choice_prompt(self.wording, question, item.key.shown(repeat, on).options))
            for repeat in range(self.repeats)
        )
        return Continue(prompt=prompts[0], rules=self.rules, repeats=self.repeats, prompts=prompts)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        return [choice_grade(one, one.item.key.shown(one.repeat, on), on, ENGLISH) for one in responses]


def _order(item: Item, repeat: int) -> Order:
    def drawn(place: int) -> bytes:
        return hashlib.sha256(f"{repeat}\0{item.question}\0{item.key.options[place]}\0{place}".encode()).digest()

    return tuple(sorted(range(4), key=drawn))


TASKS = (ShuffledChoiceTask(),)
