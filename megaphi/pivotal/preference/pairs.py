"""Preference pairs from judged responses: the better one by accuracy, or by the mean of the three scores.

Pairs of the same prompt only. Judged alone, two responses differ by their scores. Compared in both orders, the two
verdicts must name the same winner; where they do not, the order decided and not the response, and that is a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Literal, get_args

from megaphi.errors import InputError
from megaphi.pivotal.preference.judging import Judgement
from megaphi.pivotal.preference.record_files import MissingItems
from megaphi.pivotal.preference.responses import Response

By = Literal["accuracy", "overall"]
Ties = Literal["drop", "overall", "shorter"]
Pick = Literal["extremes", "all"]
BELOW_MARGIN = "the difference is below the margin"
TIE = "a tie"


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRule:
    """Rules by which two judged responses become a pair."""

    by: By = "accuracy"
    """The score that decides: accuracy, or the mean of accuracy, style and detail."""
    margin: float = 0.0
    """Least difference; any difference above 0 is enough where this is 0."""
    ties: Ties = "drop"
    """For two equal ones: no pair, the higher mean of the three, or the shorter."""
    pick: Pick = "extremes"
    """Pairs of one prompt: the best over the worst, or every two."""

    def check(self) -> None:
        """Raises InputError that names the option."""
        for name, value, known in (
            ("by", self.by, get_args(By)),
            ("ties", self.ties, get_args(Ties)),
            ("pairs", self.pick, get_args(Pick)),
        ):
            if value not in known:
                raise InputError(f"--{name} {value}: choose one of {', '.join(known)}")
        if not 0 <= self.margin <= 4:
            raise InputError(f"--margin {self.margin}: scores differ by 0 to 4")
        if self.ties == "overall" and self.by == "overall":
            raise InputError(
                "--ties overall: the mean of the three decides already (--by overall); use drop or shorter"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedPair:
    """A pair, and the difference that made it one."""

    chosen: Response
    rejected: Response
    difference: float
    """Difference of the score that decides; 0 where the tie policy did."""
    broken_tie: bool = False


def score_of(judgement: Judgement, by: By) -> float:
    return float(judgement.accuracy) if by == "accuracy" else judgement.overall


def pairs_of_scores(
    judged: Sequence[tuple[Response, Judgement]], rule: PairRule, *, seed: int, left_out: MissingItems
) -> list[JudgedPair]:
    """Pairs of one prompt's responses that were judged alone. Which of several best ones is taken is drawn."""
    if len(judged) < 2:
        return []
    drawn = sorted(judged, key=lambda item: item[0].name)
    Random(f"{seed} {drawn[0][0].name}").shuffle(drawn)
    if rule.pick == "extremes":
        best = max(drawn, key=lambda item: score_of(item[1], rule.by))
        rest = [item for item in drawn if item is not best]
        wanted = [(best, min(rest, key=lambda item: score_of(item[1], rule.by)))]
    else:
        wanted = list(combinations(sorted(drawn, key=lambda item: item[0].name), 2))
    found = [_by_scores(left, right, rule, left_out) for left, right in wanted]
    return [pair for pair in found if pair is not None]


def _by_scores(
    left: tuple[Response, Judgement], right: tuple[Response, Judgement], rule: PairRule, left_out: MissingItems
) -> JudgedPair | None:
    difference = score_of(left[1], rule.by) - score_of(right[1], rule.by)
    names = f"{left[0].name} and {right[0].name}"
    if difference == 0:
        return _broken(left, right, rule, names, left_out)
    if abs(difference) < rule.margin:
        left_out.add(BELOW_MARGIN, names, f"{abs(difference):g}")
        return None
    chosen, rejected = (left, right) if difference > 0 else (right, left)
    return JudgedPair(chosen=chosen[0], rejected=rejected[0], difference=abs(difference))


def _broken(
    left: tuple[Response, Judgement],
    right: tuple[Response, Judgement],
    rule: PairRule,
    names: str,
    left_out: MissingItems,
) -> JudgedPair | None:
    """A tie by the policy."""
    advantage = 0.0
    if rule.ties == "overall":
        advantage = left[1].overall - right[1].overall
    elif rule.ties == "shorter":
        advantage = float(len(right[0].text) - len(left[0].text))
    if advantage == 0:
        left_out.add(TIE, names)
        return None
    chosen, rejected = (left, right) if advantage > 0 else (right, left)
    return JudgedPair(chosen=chosen[0], rejected=rejected[0], difference=0.0, broken_tie=True)


def winner(first: Judgement, second: Judgement, rule: PairRule) -> int:
    """1 where the first wins, -1 where the second does, 0 for neither."""
    difference = score_of(first, rule.by) - score_of(second, rule.by)
    if difference == 0 or abs(difference) < rule.margin:
        return 0
    return 1 if difference > 0 else -1


def pair_of_orders(
    left: Response,
    right: Response,
    orders: tuple[tuple[Judgement, Judgement], tuple[Judgement, Judgement]],
    rule: PairRule,
    *,
    left_out: MissingItems,
) -> JudgedPair | None:
    """The pair of two responses that were compared in both orders.

    `orders`: the judgements of (left, right) shown in this order, and of (right, left) shown in that one.
    """
    (left_first, right_second), (right_first, left_second) = orders
    verdicts = (winner(left_first, right_second, rule), -winner(right_first, left_second, rule))
    if verdicts[0] == verdicts[1] != 0:
        chosen, rejected = (left, right) if verdicts[0] > 0 else (right, left)
        differences = (
            score_of(left_first, rule.by) - score_of(right_second, rule.by),
            score_of(left_second, rule.by) - score_of(right_first, rule.by),
        )
        return JudgedPair(chosen=chosen, rejected=rejected, difference=abs(sum(differences) / 2))
    names = f"{left.name} and {right.name}"
    if rule.ties == "overall":
        mean = (left_first.overall + left_second.overall - right_first.overall - right_second.overall) / 2
        if mean != 0:
            chosen, rejected = (left, right) if mean > 0 else (right, left)
            return JudgedPair(chosen=chosen, rejected=rejected, difference=0.0, broken_tie=True)
    if rule.ties == "shorter" and len(left.text) != len(right.text):
        chosen, rejected = (left, right) if len(left.text) < len(right.text) else (right, left)
        return JudgedPair(chosen=chosen, rejected=rejected, difference=0.0, broken_tie=True)
    disagree = verdicts[0] * verdicts[1] < 0
    left_out.add("the two orders disagree, which is a tie" if disagree else TIE, names)
    return None
