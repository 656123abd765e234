"""The account of one search: which rollouts were generated for it, and which it had already."""

from __future__ import annotations

from collections.abc import Sequence

from megaphi.pivotal.methods.findings import Spent
from megaphi.pivotal.methods.rollout import Draw, Purpose, Rollout


class Expenses:
    """Counts every rollout once, by its number within (position, excluded token, purpose)."""

    def __init__(self) -> None:
        self._received: dict[tuple[int, int | None, Purpose], int] = {}
        self._rollouts = {"search": 0, "confirm": 0}
        self._tokens = {"search": 0, "confirm": 0}
        self._saved_rollouts = self._saved_tokens = self._censored = 0

    def received(self, draws: Sequence[Draw], answers: Sequence[Sequence[Rollout]]) -> None:
        for draw, rollouts in zip(draws, answers, strict=True):
            key = (draw.position, draw.excluded, draw.purpose)
            before = self._received.get(key, 0)
            self._received[key] = max(before, len(rollouts))
            for number, rollout in enumerate(rollouts):
                if number < before or rollout.is_shared:
                    self.saved(1, len(rollout.tokens))
                else:
                    self._rollouts[draw.purpose] += 1
                    self._tokens[draw.purpose] += len(rollout.tokens)
                    self._censored += rollout.outcome == "censored"

    def saved(self, rollouts: int, tokens: int) -> None:
        """Rollouts that were wanted and that the memo held."""
        self._saved_rollouts += rollouts
        self._saved_tokens += tokens

    def spent(self) -> Spent:
        return Spent(
            search_rollouts=self._rollouts["search"],
            search_tokens=self._tokens["search"],
            confirm_rollouts=self._rollouts["confirm"],
            confirm_tokens=self._tokens["confirm"],
            saved_rollouts=self._saved_rollouts,
            saved_tokens=self._saved_tokens,
            censored=self._censored,
        )
