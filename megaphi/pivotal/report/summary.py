"""report.md of a search: what it was given, what it left out and why, what it found, what it cost, and a check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from megaphi.foreign.markdown_cell import in_cell
from megaphi.pivotal.methods.findings import Findings
from megaphi.pivotal.methods.pairs import PairReport
from megaphi.pivotal.methods.statistics.martingale import combined
from megaphi.pivotal.rollouts.runner import Tally
from megaphi.pivotal.search import QuestionResult


def summary_of(results: Sequence[QuestionResult], *, title: str, pivotal: int, pairs: PairReport, tally: Tally) -> str:
    """Args:
    pivotal: tokens whose effect stands over all questions.
    pairs: preference pairs made from them.
    """
    findings = [one.findings for result in results for one in result.answers]
    left_out = Counter(result.left_out for result in results if result.left_out)
    for result in results:
        left_out.update({f"answer: {reason}": number for reason, number in result.answers_left_out.items()})
    claimed = sum(len(one.tokens) for one in findings)
    found = {"tokens with an estimated effect": claimed, "pivotal tokens": pivotal, "pairs": len(pairs.records)}
    lines = [
        f"# {in_cell(title)}",
        "",
        f"{len(results):,} questions, {sum(not result.left_out for result in results):,} of them searched, "
        f"{len(findings):,} answers.",
        "",
        *_table("left out", left_out),
        *_table("found", found),
        *_table("pivotal tokens without a pair", pairs.left_out),
        *_table("spent", _costs(findings, tally)),
        *_undecided(tally),
        *_martingale(findings),
        *_notes(findings),
    ]
    return "\n".join(lines)


def _table(title: str, numbers: dict[str, int] | Counter[str]) -> list[str]:
    if not numbers:
        return []
    rows = [f"| {in_cell(name)} | {number:,} |" for name, number in sorted(numbers.items(), key=lambda item: -item[1])]
    return [f"| {title} | |", "|---|---:|", *rows, ""]


def _costs(findings: Sequence[Findings], tally: Tally) -> dict[str, int]:
    return {
        "rollouts generated": tally.generated_rollouts,
        "tokens generated": tally.generated_tokens,
        "rollouts from the store": tally.stored_rollouts,
        "rollouts shared between prefixes": sum(one.spent.saved_rollouts for one in findings),
        "tokens scored": tally.scored_tokens,
        "rollouts cut off": tally.censored,
        "rollouts that no grader could decide": sum(map(len, tally.undecided.values())),
    }


def _undecided(tally: Tally) -> list[str]:
    if not tally.undecided:
        return []
    named = ", ".join(map(in_cell, sorted(tally.undecided)[:20]))
    more = f" and {len(tally.undecided) - 20} more" if len(tally.undecided) > 20 else ""
    return [f"Questions with answers that no grader could decide (undecided.jsonl): {named}{more}.", ""]


def _martingale(findings: Sequence[Findings]) -> list[str]:
    """E[sum D_i^2] = p_0 (1 - p_0) along an answer: a search that finds more reports noise as effects."""
    found = combined([one.martingale for one in findings if one.martingale is not None])
    if found is None:
        return ["Martingale check: too few changes were estimated.", ""]
    verdict = "EXCEEDED: noise is reported as effects" if found.is_exceeded else "kept"
    return [
        f"Martingale check over {found.traces:,} answers: squared changes {found.squared_changes:.3f} an answer, "
        f"at most {found.bound:.3f} expected (standard error of the difference {found.standard_error:.3f}): {verdict}.",
        "",
    ]


def _notes(findings: Sequence[Findings]) -> list[str]:
    notes = Counter(note for one in findings for note in one.notes)
    return [f"- {in_cell(note)} ({number} answers)" for note, number in notes.most_common()]
