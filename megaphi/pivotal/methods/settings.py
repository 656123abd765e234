"""Settings of a search: the change that counts, the certainty wanted, and what may be spent."""

from __future__ import annotations

from dataclasses import dataclass

from megaphi.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One for all methods; each uses the fields that it needs. Rollouts are counted for one answer."""

    gap: float = 0.2
    """p_gap: a token is pivotal if it changes the probability of success by at least this much, up or down."""
    null_effect: float = 0.0
    """The null hypothesis that a confirmed token must refute: its change is at most this, in absolute value."""
    confidence: float = 0.95
    """Confidence level of every interval."""
    rollouts: int = 50
    """For each prefix: bisection, two-arm and fixed (at most, there)."""
    most_rollouts: int = 800
    """The backward search of one answer stops here at the latest."""
    prompt_rollouts: int = 0
    """Plain rollouts from the bare prompt to begin with. The filter by success rate has drawn some: ask for as many,
    and the store hands them out for nothing."""
    doubt: float = 0.01
    """The backward search leaves a token alone once its probability to be pivotal is below this: less finds more, and
    costs more."""
    round_rollouts: int = 16
    """The backward search asks for about so many at once: larger rounds fill the engine, smaller ones adapt better."""
    confirm: int = 64
    """Fresh rollouts on each side of a token that the search selected; 0 leaves its claim unconfirmed."""
    stop_width: float = 1.0
    """`fixed` stops where a change is so many standard errors away from the gap; 0 draws `rollouts` everywhere."""
    uncertain_share: float = 0.2
    """Share of the tokens that the `uncertain` baseline selects."""
    seed: int = 0
    """Seed of the method's own choices (positions within a block); the model's draws have their own."""

    def check(self) -> None:
        """Raises InputError that names the field."""
        for name, value, holds, rule in (
            ("gap", self.gap, 0 < self.gap < 1, "must lie between 0 and 1"),
            ("null_effect", self.null_effect, 0 <= self.null_effect < self.gap, "must be below gap and not negative"),
            ("confidence", self.confidence, 0.5 <= self.confidence < 1, "must be at least 0.5 and below 1"),
            ("rollouts", self.rollouts, self.rollouts >= 2, "must be at least 2"),
            ("most_rollouts", self.most_rollouts, self.most_rollouts >= 1, "must be at least 1"),
            ("prompt_rollouts", self.prompt_rollouts, self.prompt_rollouts >= 0, "must not be negative"),
            ("doubt", self.doubt, 0 < self.doubt < 0.5, "must be above 0 and below 0.5"),
            ("stop_width", self.stop_width, self.stop_width >= 0, "must not be negative"),
            ("round_rollouts", self.round_rollouts, self.round_rollouts >= 1, "must be at least 1"),
            ("confirm", self.confirm, self.confirm >= 0, "must not be negative"),
            ("uncertain_share", self.uncertain_share, 0 < self.uncertain_share <= 1, "must be above 0 and at most 1"),
        ):
            if not holds:
                raise InputError(f"{name}={value}: {rule}")
