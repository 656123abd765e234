r"""AMC 10 and 12: competition papers with five options, graded by points: 6, 1.5 for a blank, 0 for a wrong answer.

Phi-4's report asks the 78 questions of the four papers of November 2024, in boxes, and gives the mean score of a paper
out of 150. A question that stands in two papers counts in both, so it is asked once for each. The report does not say
what an answer without a box is; as on paper, it is a blank while `no-answer-is-blank` is on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from megaphi.errors import InputError
from megaphi.evaluation.task import Asked, Continue, Grade, GradingTools, Item, Record, Switch, TaskResponse
from megaphi.evaluation.tasks.columns import (
    column,
    has_column,
    item_name,
    json_value,
    label_column,
    shown,
    text_column,
    with_repetitions,
)
from megaphi.evaluation.tasks.multiple_choice.choice_records import OPTIONS, choice_item
from megaphi.evaluation.tasks.quirks import without_answer
from megaphi.evaluation.tasks.unjudged import UnjudgedTask
from megaphi.evaluation.tasks.wording import conversation, filled
from megaphi.grading.multiple_choice import chosen_option
from megaphi.grading.question import LETTERS, Choices, MathAnswer, Question
from megaphi.sampling import Sampling

NO_ANSWER_IS_BLANK = Switch(
    name="no-answer-is-blank",
    on="A response without a box leaves the question blank, for 1.5 points, even if it was cut off.",
    off="Only an empty box, or one that says blank, leaves it blank; without a box there are no points.",
    changes="grading",
)
RIGHT, BLANK, WRONG = 1.0, 0.25, 0.0
"""6, 1.5 and 0 points as parts of 6."""
PAPER = 150
"""Points of a paper: 25 questions."""
RULES = Sampling(max_tokens=2_048, temperature=0.5)
WORDING = {
    "system": "",
    "question": (
        "This is a question of a mathematical competition. Work it out in steps, then give the letter of your choice "
        "as \\boxed{LETTER}. A right letter earns 6 points, a wrong one none. An empty box, \\boxed{}, leaves the "
        "question blank and earns 1.5.\n\n{question}\n\n{options}"
    ),
}
BRACE = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)
SAYS_BLANK = re.compile(r"(?:\\text\s?\{)?\s*(?:blank|left blank|leave blank|skip)?\s*\}?", re.IGNORECASE)


def last_box(text: str) -> str | None:
    """Content of the last complete box, which may be empty; None if there is none."""
    opened: list[int | None] = []
    found = None
    for match in BRACE.finditer(text):
        if match[0] == "{":
            opened.append(None)
        elif match[0].endswith("{") and len(match[0]) > 2:
            opened.append(match.end())
        elif match[0] == "}" and opened and (start := opened.pop()) is not None:
            found = text[start : match.start()].strip()
    return found


def paper_item(record: Record) -> Item:
    """A question of one or more papers: `exam` is one name, several joined by commas, or a list."""
    question = text_column(record, "problem|question")
    item = choice_item({**record, "question": question})
    if len(item.key.options) != 5:
        raise InputError(f"a question of the AMC has 5 options, not {len(item.key.options)}")
    name, value = column(record, "exam")
    value = json_value(value)
    papers = value if isinstance(value, list | tuple) else str(value).split(",")
    papers = [one.strip() for one in papers if isinstance(one, str) and one.strip()]
    if not papers or len(set(papers)) < len(papers):
        raise InputError(f"column {name!r} must name papers, as 10A or 10A,12A, each once, not {shown(value)}")
    number = label_column(record, "number") if has_column(record, "number") else ""
    given = item_name(record, "id", question, *item.key.options)
    return replace(
        item, name=f"{papers[0]}-{number}" if number and not has_column(record, "id") else given, group=",".join(papers)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperTask(UnjudgedTask):
    """Questions of competition papers, graded by points."""

    name: str = "amc"
    about: str = "AMC 10 and 12 of November 2024: 78 questions of four papers, 6, 1.5 and 0 points (own format)"
    columns: tuple[str, ...] = ("problem|question", OPTIONS, "answer", "exam")
    switches: tuple[Switch, ...] = (NO_ANSWER_IS_BLANK,)
    rules: Sampling = RULES
    repeats: int = 10
    wording: Mapping[str, str] = field(default_factory=lambda: dict(WORDING))
    scores: tuple[str, ...] = ("points", "accuracy", "blank")
    derived: Mapping[str, Callable[[Mapping[str, float]], float]] = field(
        default_factory=lambda: {"points_of_150": lambda means: PAPER * means["points"]}
    )

    def read(self, record: Record) -> Item:
        return paper_item(record)

    def arranged(self, items: Sequence[Item]) -> list[Item]:
        return with_repetitions(
            [
                replace(item, name=f"{item.name} in {paper}", cluster=item.name, group=paper)
                for item in items
                for paper in item.group.split(",")
            ]
        )

    def ask(self, item: Item, shots: Sequence[Item], on: frozenset[str]) -> Asked:
        listed = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, item.key.options, strict=False))
        prompt = conversation(self.wording, filled(self.wording["question"], question=item.question, options=listed))
        return Continue(prompt=prompt, rules=self.rules, repeats=self.repeats)

    def grade(self, responses: Sequence[TaskResponse], on: frozenset[str], tools: GradingTools) -> list[Grade]:
        boxes = [last_box(one.text) for one in responses]
        by_value = _by_value(responses, boxes, tools)
        return [
            _points(response, box, by_value.get(place), on)
            for place, (response, box) in enumerate(zip(responses, boxes, strict=True))
        ]


def _by_value(responses: Sequence[TaskResponse], boxes: Sequence[str | None], tools: GradingTools) -> dict[int, str]:
    """Outcome for each box that names no option but may be the value of the right one, by place."""
    asked = [
        (place, Question(name=one.item.name, prompt="", key=MathAnswer(one.item.key.options[one.item.key.right])), box)
        for place, (one, box) in enumerate(zip(responses, boxes, strict=True))
        if box and not SAYS_BLANK.fullmatch(box) and _option(box, one.item.key) is None
    ]
    verdicts = tools.grader.grade([(question, f"\\boxed{{{box}}}") for _, question, box in asked])
    return {place: verdict.outcome for (place, _, _), verdict in zip(asked, verdicts, strict=True)}


def _option(box: str, key: Choices) -> int | None:
    chosen = chosen_option(f"\\boxed{{{box}}}", key.options)
    return chosen if isinstance(chosen, int) else None


def _points(response: TaskResponse, box: str | None, by_value: str | None, on: frozenset[str]) -> Grade:
    key: Choices = response.item.key
    is_blank = box is not None and SAYS_BLANK.fullmatch(box) is not None
    if box is None or is_blank:
        is_left = is_blank or NO_ANSWER_IS_BLANK.name in on
        return Grade(
            scores={"points": BLANK if is_left else WRONG, "accuracy": 0.0, "blank": float(is_left)},
            extracted="blank" if is_blank else "",
            problem="" if is_blank else without_answer(response),
        )
    chosen = _option(box, key)
    is_right = chosen == key.right if chosen is not None else by_value == "right"
    return Grade(
        scores={"points": RIGHT if is_right else WRONG, "accuracy": float(is_right), "blank": 0.0},
        extracted=box if chosen is None else LETTERS[chosen],
        problem="undecided" if by_value == "undecided" else "",
    )


TASKS = (PaperTask(),)
