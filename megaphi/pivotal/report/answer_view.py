"""One searched answer as the page shows it: every token with its effect, and the alternatives at each pivotal one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from megaphi.pivotal.methods.findings import TokenEffect
from megaphi.pivotal.search import SearchedAnswer
from megaphi.tokenizer.interface import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token of the answer."""

    position: int
    text: str
    """As it is read: an invisible character is spelled out."""
    title: str
    """Numbers, for who points at it."""
    effect: float | None
    """Change of the success probability; None where it was not estimated."""
    is_pivotal: bool

    @property
    def strength(self) -> float:
        """Opacity of its colour: an effect of 0.6 or more is opaque."""
        return min(1.0, abs(self.effect or 0.0) / 0.6)


@dataclass(frozen=True, slots=True)
class AlternativeView:
    """Outcomes of the rollouts that took one token."""

    text: str
    n: int
    successes: int
    censored: int
    is_of_the_answer: bool = False


@dataclass(frozen=True, slots=True)
class PivotView:
    """A pivotal token, and its alternatives with their rollouts, best first."""

    token: TokenView
    effect: str
    alternatives: tuple[AlternativeView, ...]


@dataclass(frozen=True, slots=True)
class AnswerView:
    tokens: tuple[TokenView, ...]
    pivots: tuple[PivotView, ...]


def view_of(answer: SearchedAnswer, pivotal: Collection[int], tokenizer: Tokenizer) -> AnswerView:
    """Args: pivotal: positions whose effect stands over all questions."""
    effects = {effect.position: effect for effect in answer.findings.tokens}
    tokens = tuple(
        _token(position, answer, effects.get(position), position in pivotal, tokenizer)
        for position in range(len(answer.trace.tokens))
    )
    pivots = tuple(_pivot(tokens[position], effects[position], tokenizer) for position in sorted(pivotal))
    return AnswerView(tokens, pivots)


def _token(
    position: int, answer: SearchedAnswer, effect: TokenEffect | None, is_pivotal: bool, tokenizer: Tokenizer
) -> TokenView:
    token = answer.trace.tokens[position]
    lines = [f"token {position}, id {token}"]
    if answer.trace.has_probabilities:
        lines.append(f"probability {answer.trace.probabilities[position]:.3g}")
    if effect is not None:
        lines.append(f"success {effect.otherwise.estimate:.2f} otherwise, {effect.after.estimate:.2f} with it")
        lines.append(f"effect {in_words(effect)}")
    return TokenView(
        position,
        readable([token], tokenizer),
        "\n".join(lines),
        None if effect is None else effect.effect.estimate,
        is_pivotal,
    )


def _pivot(view: TokenView, effect: TokenEffect, tokenizer: Tokenizer) -> PivotView:
    own = effect.after_counts
    taken = AlternativeView(view.text, own.n, own.successes, own.censored, is_of_the_answer=True)
    others = [
        AlternativeView(readable([one.token], tokenizer), one.counts.n, one.counts.successes, one.counts.censored)
        for one in effect.alternatives
    ]
    others.sort(key=lambda one: one.successes / max(1, one.n - one.censored), reverse=True)
    return PivotView(view, in_words(effect), (taken, *others))


def in_words(effect: TokenEffect) -> str:
    """`+0.31 (0.22 to 0.40)`"""
    band = effect.effect
    return f"{band.estimate:+.2f} ({band.low:+.2f} to {band.high:+.2f})"


def readable(tokens: list[int], tokenizer: Tokenizer) -> str:
    """A token's text; a control token by its id, since it has none."""
    text = tokenizer.decode(tokens)
    return text if text else f"<{tokens[0]}>"
