"""Write docs/evaluation_formats.md: how each way of writing an answer is graded, by both protocols.

    python tools/evaluation_formats.py

The formats and their outcomes stand in tests/evaluation/tasks/answer_formats; the tests compare them with what the
tasks do and with a second writing of the public rules. This tool adds the switches that change each outcome.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megaphi.config import user_path
from megaphi.conversation import Conversation
from megaphi.evaluation.task import (
    EvaluationTask,
    Grade,
    GradingTools,
    Item,
    TaskResponse,
    switches_on,
)
from megaphi.evaluation.tasks import find_task
from megaphi.evaluation.tasks.multiple_choice.gpqa import ShuffledChoices
from megaphi.files import write_text
from megaphi.grading.grader import Grader
from megaphi.sampling import Sampling

ROOT = Path(__file__).parents[1]
FORMATS = ROOT / "tests/evaluation/tasks/answer_formats"
PAGE = ROOT / "docs/evaluation_formats.md"
GOLD_COLUMN = {"math": "answer", "mgsm": "answer_number", "gsm8k": "answer", "gsm8k_base": "answer"}
SECTIONS = (
    ("choices.jsonl", "Multiple choice", "mmlu", "MMLU", (("mmlu", "mmlu"), ("gpqa", "plain"), ("gpqa", "corrected"))),
    ("problems.jsonl", "MATH", "math", "MATH", (("math", "published"), ("math", "corrected"))),
    ("numbers.jsonl", "MGSM and GSM8K", "mgsm", "MGSM", (("mgsm", "published"), ("mgsm", "corrected"))),
    (
        "hashes.jsonl",
        "GSM8K for base models",
        "gsm8k_base",
        "",
        (("gsm8k_base", "published"), ("gsm8k_base", "corrected")),
    ),
    ("papers.jsonl", "AMC", "amc", "AMC", (("amc", "published"), ("amc", "corrected"))),
)
SOURCES = """\
## What is known, and what is ours

- MMLU, GPQA, MATH and MGSM follow simple-evals as it was in November 2024: one message of the user, temperature 0.5, at
  most 2,048 tokens, ten answers to each question of GPQA and MATH, a judge at temperature 0.5 for MATH. A change of
  January 2025, by which white space around the colon no longer crosses lines, is not in it.
- Not in simple-evals: MMLU-Pro, ARC-Challenge and exams, which are asked and graded here as its GPQA, and GSM8K for
  chat models, which is graded as its MGSM in English. There `phi4-2024-11` means the same rules and no published
  protocol; Phi-4's own prompts for MMLU-Pro are not known.
- AMC: boxes, points and the 78 questions are the report's. It does not say how a response without a box is graded.
- Log-likelihoods are scored as by lm-eval 0.4.13, under both protocols. For GSM8K for base models, `phi4-2024-11` is
  its strict form; how Phi-4's authors read the answers is not known.
- Not known: the system message that Phi-4 was given (none here), and which invisible characters stand behind the second
  `Answer:` of MMLU's list of languages (six zero-width spaces here).
- The prompts are our own words in the published order, with the same last line. A score can differ from a published one
  for that alone. `wording` of a task takes the published sentences from those who have them.
"""
TASKS = (
    *("mmlu", "mmlu_base", "mmlu_pro", "gpqa", "arc_challenge", "arc_challenge_base", "arc_challenge_base_25"),
    *("exam", "exam_base", "exam_base_letters", "math", "math_base", "gsm8k", "gsm8k_base", "mgsm", "amc"),
)
FORMS = (
    "A right option is an index from 0, a letter, or one of ARC's labels, for exams also the option's words. Options "
    "are a list of texts, ARC's object with `text` and `label`, or columns A, B, C and so on; in CSV, a list is JSON "
    "in its cell. `math` reads the last box of `solution` where there is no `answer`, `gsm8k` what follows `####`. "
    "`mgsm` needs a column `language`, which the hub's files have in their names only; problems at one place of the "
    "files of several languages are translations, and share a cluster. `amc` has `exam`, as 10A or 10A,12A, `number`, "
    "`problem`, five `choices` and `answer`. Worked examples are records of the same form: the first of the files "
    "that the manifest names for them, for `mmlu_base` the first of the question's subject."
)
INTRODUCTION = {
    "choices.jsonl": "Options: Mercury, Venus, Earth, Mars; B is right. The first column is MMLU's, the second that of "
    "GPQA, MMLU-Pro, ARC-Challenge and exams; corrected, all are graded alike.",
    "problems.jsonl": "The published protocol asks a judge; what it writes stands in the column beside the key.",
    "numbers.jsonl": "GSM8K for chat models is graded as MGSM's English.",
    "hashes.jsonl": "The headline score, `exact_match`. The second one, `flexible`, takes the last number and has no "
    "switches.",
    "papers.jsonl": "Options: 1/3, 1/2, 2/3, 1, 2; B is right. ½ marks a blank, which earns 1.5 of 6 points.",
}


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """A way of writing an answer, and its outcomes: what is extracted, and ✓, ✗ or ½."""

    row: Mapping[str, Any]
    records: Mapping[str, Mapping[str, Any]]

    def item(self, task: EvaluationTask) -> Item:
        record = dict(self.records[task.name])
        if task.name in GOLD_COLUMN:
            record[GOLD_COLUMN[task.name]] = self.row["gold"]
        if task.name == "mgsm":
            record["language"] = self.row["language"]
        item = task.read(record)
        if isinstance(item.key, ShuffledChoices):  # Venus, the right one, comes first there
            return replace(item, key=replace(item.key, by_row=((1, 0, 2, 3),), by_question=((1, 0, 2, 3),)))
        return item

    def grade(self, task: EvaluationTask, on: frozenset[str], grader: Grader) -> Grade:
        item = self.item(task)
        finish = self.row.get("finish", "stop")
        asked = task.ask(item, [], on) if task.shots == 0 and task.name != "gpqa" else None
        response = TaskResponse(item=item, asked=asked, text=self.row["answer"], finish=finish)  # pyright: ignore[reportArgumentType]
        return task.grade([response], on, GradingTools(grader=grader, judge=RecordedJudge(self.row)))[0]

    def outcome(self, task: EvaluationTask, on: frozenset[str], grader: Grader) -> str:
        grade = self.grade(task, on, grader)
        score = grade.scores[task.scores[0]]
        return f"{grade.extracted or '—'} {'✓' if score == 1 else '½' if score else '✗'}"

    def moved_by(self, task: EvaluationTask, grader: Grader) -> list[str]:
        """Switches that change the outcome, from all on or from all off."""
        found = []
        all_on, none = switches_on(task, "phi4-2024-11", {}), frozenset()
        for switch in task.switches:
            if switch.changes == "grading" and (
                self.outcome(task, all_on, grader) != self.outcome(task, all_on - {switch.name}, grader)
                or self.outcome(task, none, grader) != self.outcome(task, frozenset({switch.name}), grader)
            ):
                found.append(switch.name)
        return found


@dataclass(slots=True)
class RecordedJudge:
    """A judge that says what the format records: always, at a temperature, or when the answer can address it."""

    row: Mapping[str, Any]
    name: str = "recorded"

    def answers(self, prompts: Sequence[Conversation], rules: Sampling) -> list[str | None]:
        return [self._answer(prompt, rules) for prompt in prompts]

    def _answer(self, prompt: Conversation, rules: Sampling) -> str | None:
        asked = prompt.messages[-1].content
        if re.search(r"Second:\s+(?:---[^\n]*\n)?None\b", asked):
            return self.row.get("judge_none", "No")
        is_fenced = " begin second ---" in asked
        if "judge_raw" in self.row and not is_fenced:
            return self.row["judge_raw"]
        if "judge_sampled" in self.row and rules.temperature > 0:
            return self.row["judge_sampled"]
        return self.row["judge"]


def read_formats(file: str) -> list[AnswerFormat]:
    """All formats of a file, whose first line has a record for each task."""
    head, *rows = [json.loads(line) for line in (FORMATS / file).read_text(encoding="utf-8").splitlines()]
    return [AnswerFormat(row, head["records"]) for row in rows]


def page(grader: Grader) -> str:
    """The whole document."""
    parts = [
        "# Answer formats, and how they are graded\n",
        wrapped(
            "Written by `tools/evaluation_formats.py` from the formats in `tests/evaluation/tasks/answer_formats`. "
            "Each cell has what was extracted, and ✓ for right or ✗ for wrong; — means that nothing was. "
            "`phi4-2024-11` is the behaviour of simple-evals as of November 2024, all switches on; `corrected` has "
            "them off. The last column names the switches that change the outcome, turned off from all on or on from "
            "all off. ⏎ is a line end, · an invisible character."
        ),
        SOURCES,
        "## Tasks and their columns\n",
        wrapped(FORMS),
        *_task_lines(),
    ]
    for file, title, moving, _, columns in SECTIONS:
        formats = read_formats(file)
        parts.append(f"## {title}\n\n{wrapped(INTRODUCTION[file])}")
        parts.append("".join(_switch_lines([find_task(name) for name in dict.fromkeys(task for task, _ in columns)])))
        parts.append(_table(formats, find_task(moving), columns, grader))
    return "\n".join(parts)


def _task_lines() -> list[str]:
    lines = ["| task | measures | columns | worked examples | scores |", "|---|---|---|---|---|"]
    for task in map(find_task, TASKS):
        columns = ", ".join(f"`{name}`".replace("|", "` or `") for name in task.columns)
        scores = ", ".join(f"`{name}`" for name in (*task.scores, *task.derived))
        lines.append(f"| `{task.name}` | {task.about} | {columns} | {task.shots or ''} | {scores} |")
    return [*lines, ""]


def _switch_lines(tasks: Sequence[EvaluationTask]) -> list[str]:
    switches = {switch.name: switch for task in tasks for switch in task.switches}
    return [wrapped(f"- `{one.name}` ({one.changes}). On: {one.on} Off: {one.off}") for one in switches.values()]


def wrapped(text: str) -> str:
    """The text in lines of a document; a point of a list is indented."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False) + "\n"


def _table(
    formats: Sequence[AnswerFormat], moving: EvaluationTask, columns: Sequence[tuple[str, str]], grader: Grader
) -> str:
    extra = [name for name in ("language", "gold", "judge") if name in formats[0].row]
    heads = {"mmlu": "MMLU", "plain": "GPQA and others", "published": "phi4-2024-11", "corrected": "corrected"}
    head = ["answer", "shows", *extra, *(heads[column] for _, column in columns), "moved by"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in formats:
        tasks = [moving, *(find_task(name) for name, _ in columns if name != moving.name)]
        moved = dict.fromkeys(name for task in tasks for name in one.moved_by(task, grader))
        cells = [_code(one.row["answer"]), one.row["shows"], *(_plain(one.row[name]) for name in extra)]
        cells += [_outcome(one.row[column]) for _, column in columns]
        lines.append(f"| {' | '.join([*cells, ', '.join(moved)])} |")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    return "refused" if value is None else _code(str(value))


def _outcome(text: str) -> str:
    extracted, _, mark = text.rpartition(" ")
    return text if extracted == "—" else f"{_code(extracted)} {mark}"


def _code(text: str) -> str:
    shown = text.replace("\n", "⏎").replace("|", "\\|").replace("\u202f", " ").replace("\u200b", "·")
    fence = "``" if "`" in shown else "`"
    return f"{fence} {shown} {fence}" if "`" in shown else f"`{shown}`" if shown.strip() else "(nothing)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=user_path, default=str(PAGE), metavar="FILE", help=f"default {PAGE.name}")
    return parser


def main() -> None:
    arguments = _parser().parse_args()
    with Grader(processes=1) as grader:
        write_text(arguments.output, page(grader))


if __name__ == "__main__":
    main()
