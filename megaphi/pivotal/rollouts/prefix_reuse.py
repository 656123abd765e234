"""The rollouts of one question, numbered and shared between prefixes.

A rollout from a shorter prefix whose first tokens are those of the trace is a fair sample from a longer prefix too, and
where it leaves the trace it is a fair sample of that divergence (docs/pivotal.md, fact 3). So a draw is answered first
with rollouts that this question's search has had before, then with new ones. What a draw was given stays its own: a
larger count adds to it. The order depends on the draws alone, so a search that was killed is given the same ones again.

Only search rollouts are shared. The trace itself is never: it is what everything is conditioned on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from megaphi.pivotal.methods.findings import Counts
from megaphi.pivotal.methods.rollout import Draw, Purpose, Rollout
from megaphi.pivotal.methods.statistics.effects import counted
from megaphi.pivotal.rollouts.store import RolloutKey, prefix_digest


@dataclass(frozen=True, slots=True)
class _Known:
    """A plain search rollout, as the whole answer that it completed."""

    key: RolloutKey
    position: int
    answer: tuple[int, ...]
    rollout: Rollout


@dataclass(slots=True)
class _Given:
    """The rollouts of one kind of draw (prefix, excluded token, purpose) so far: known ones, and keys of its own."""

    order: list[RolloutKey | _Known] = field(default_factory=list)
    fresh: int = 0


class QuestionRollouts:
    """Answers the draws of one question's searches."""

    def __init__(self, question: str, prompt: tuple[int, ...]) -> None:
        self.question, self.prompt = question, prompt
        self._given: dict[tuple[str, int | None, Purpose], _Given] = {}
        self._known: dict[RolloutKey, _Known] = {}
        self._traces: set[RolloutKey] = set()
        """Plain rollouts that are a trace now, or were: no later draw may have them."""
        self._learned: set[RolloutKey] = set()
        self.values: dict[tuple[int, ...], Counts] = {}
        """Answer prefix -> outcomes of rollouts that began there: labels for a value model. A forced divergence began
        after its first token, which was not free."""

    def keep_out(self, key: RolloutKey) -> None:
        """Share this rollout no more: it is a trace."""
        self._traces.add(key)

    def wanted(self, draw: Draw, answer: tuple[int, ...]) -> list[RolloutKey | Rollout]:
        """Answer a draw, in order: rollouts that are known already, and keys of those that must be asked for.

        Args:
            answer: the trace's tokens, of which the draw's prefix is a part.
        """
        prefix = answer[: draw.position]
        kind = (prefix_digest((*self.prompt, *prefix)), draw.excluded, draw.purpose)
        given = self._given.setdefault(kind, _Given())
        usable = [item for item in given.order if _key_of(item) not in self._traces]
        if draw.purpose == "search" and len(usable) < draw.count:
            had = {_key_of(item) for item in given.order}
            fair = [known for known in self._fair(draw, prefix) if known.key not in had]
            given.order += (found := fair[: draw.count - len(usable)])
            usable += found
        while len(usable) < draw.count:
            key = RolloutKey(self.question, *kind, given.fresh)
            given.fresh += 1
            if key not in self._traces:
                given.order.append(key)
                usable.append(key)
        return [_seen_from(item, draw.position) if isinstance(item, _Known) else item for item in usable[: draw.count]]

    def learn(self, key: RolloutKey, draw: Draw, answer: tuple[int, ...], rollout: Rollout) -> None:
        """Remember a rollout; a plain one of a search can be shared with longer prefixes from now on."""
        if key in self._learned:
            return
        self._learned.add(key)
        forced = () if draw.excluded is None else rollout.tokens[:1]
        begun = (*answer[: draw.position], *forced)
        self.values[begun] = self.values.get(begun, Counts()) + counted([rollout])
        if draw.excluded is None and draw.purpose == "search":
            whole = (*answer[: draw.position], *rollout.tokens)
            self._known[key] = _Known(key, draw.position, whole, rollout)

    def _fair(self, draw: Draw, prefix: tuple[int, ...]) -> Iterator[_Known]:
        """Rollouts from shorter prefixes (for a divergence, from the same one too) that are fair samples of a draw."""
        for known in self._known.values():
            is_begun_before = known.position < draw.position + (draw.excluded is not None)
            passes = known.answer[: draw.position] == prefix and len(known.answer) > draw.position
            if not (is_begun_before and passes) or known.key in self._traces:
                continue
            if draw.excluded is None or known.answer[draw.position] != draw.excluded:
                yield known


def _key_of(item: RolloutKey | _Known) -> RolloutKey:
    return item.key if isinstance(item, _Known) else item


def _seen_from(known: _Known, position: int) -> Rollout:
    return replace(known.rollout, tokens=known.answer[position:], is_shared=True)
