"""Drafts for speculative decoding: guesses of a sequence's next tokens, from other sequences of its family.

Rollouts of one question repeat each other. An index maps the last tokens of a text (contexts of ORDERS lengths, hashed)
to the tokens that followed them in any sequence of the family, prompts included; a draft follows the longest context
that is known, again and again. The engine computes a draft together with the token before it and keeps what the sampler
itself would have chosen, so a draft changes the time that an answer takes and nothing else.

Hashed contexts instead of a suffix automaton: sequences grow side by side, what nobody needed for long is forgotten in
constant time, and the counts at a context say how sure a guess is. How often guesses of that kind were right is counted
for each family at every token, drafted or not, so nothing has to be tried out. All of it depends on tokens only: the
ranks of a replica, which see the same outputs, hold the same index and draft the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from megaphi.errors import InputError

ORDERS = (8, 4, 2)
"""Lengths of the contexts that are indexed, the longest first."""
MOST_CONTINUATIONS = 8
"""Different tokens that are remembered after one context; the one not seen for longest is forgotten."""
MOST_FAMILIES = 1_024
"""Families whose rates are remembered."""
CONFIDENCES = 8
"""Kinds of guesses at one order, by the share of the family's texts that went on with the guessed token."""
MEMORY = 256.0
"""Guesses of one kind after which older ones count half."""
PASS_ROWS = {"cpu": 12.0, "cuda": 256.0}
"""By device: so many more tokens in a pass take as long as the pass itself. SmolLM2-135M in fp32 takes 95 ms and 4.2 ms
a token on one AVX-512 thread, which is 23; half of it leaves a margin. For a GPU it is about the ratio of arithmetic to
memory bandwidth: drafting has not been run on one yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speculation:
    """Limits of speculative decoding."""

    longest_draft: int = 8
    """Tokens of a draft at most."""
    pass_rows: float | None = None
    """A pass of no token at all takes as long as this many tokens in it. A draft is made where it is likely enough to
    save more than it costs: the larger this is against the number of running sequences, the longer drafts are. 0
    drafts nothing. None: a number for the device."""
    contexts: int = 1 << 18
    """Contexts in the index, of all families together. One takes up to half a kilobyte of each rank's memory."""

    def check(self) -> None:
        """Raises InputError that names the field."""
        for name, value, least in (("longest_draft", self.longest_draft, 1), ("contexts", self.contexts, 2)):
            if value < least:
                raise InputError(f"speculation.{name}={value}: must be at least {least}")
        if self.pass_rows is not None and not 0 <= self.pass_rows < float("inf"):
            raise InputError(f"speculation.pass_rows={self.pass_rows}: must be finite and not negative")


@dataclass(slots=True)
class _Family:
    """A family's part of every hash, and how often guesses of each kind were right."""

    salt: int
    right: list[float] = field(default_factory=lambda: [1.0] * (len(ORDERS) * CONFIDENCES))
    made: list[float] = field(default_factory=lambda: [2.0] * (len(ORDERS) * CONFIDENCES))

    def count(self, kind: int, *, is_right: bool) -> None:
        self.made[kind] += 1
        self.right[kind] += is_right
        if self.made[kind] > MEMORY:
            self.made[kind] /= 2
            self.right[kind] /= 2


class Drafter:
    """The index of all families, and the drafts that it makes."""

    def __init__(self, speculation: Speculation, *, device: str) -> None:
        """`device`: the type of the device that computes passes. Raises InputError for wrong settings."""
        speculation.check()
        given = speculation.pass_rows
        self._pass_rows = PASS_ROWS.get(device, PASS_ROWS["cpu"]) if given is None else given
        self._longest = speculation.longest_draft
        self._contexts = RecentContexts(speculation.contexts)
        self._families: OrderedDict[str, _Family] = OrderedDict()

    def add_prompt(self, family: str, prompt: Sequence[int]) -> None:
        """Index a prompt. What the family knows already is not counted again: its prompts begin alike."""
        salt = self._family(family).salt
        whole = hash((salt, len(prompt), *prompt))
        if self._contexts.get(whole) is not None:
            return
        self._contexts.put(whole, 0)
        for end in range(1, len(prompt)):
            for key in _keys(salt, prompt[max(0, end - ORDERS[0]) : end]):
                if key is not None and self._contexts.get(key) is None:
                    self._contexts.put(key, prompt[end])

    def observe(self, family: str, tokens: Sequence[int], token: int) -> None:
        """Learn that `token` follows `tokens`, after counting whether it would have been guessed."""
        own = self._family(family)
        keys = _keys(own.salt, tokens[-ORDERS[0] :])
        guess = self._guess(keys)
        if guess is not None:
            own.count(guess[1], is_right=guess[0] == token)
        for key in keys:
            if key is not None:
                self._contexts.count(key, token)

    def draft(
        self, family: str, tokens: Sequence[int], *, longest: int, running: int, stop_tokens: Collection[int]
    ) -> list[int]:
        """Guess up to `longest` next tokens, as long as a pass with them is expected to save time.

        A token that is right saves one token of a later pass, and that sequence's share of the pass itself, of which
        there are `running`; a token that is wrong costs one. So it is worth drafting with a probability of at least
        1 / (1 + pass_rows / running). A stop token is not drafted: nothing comes after it.
        """
        own = self._family(family)
        worthwhile = 1 / (1 + self._pass_rows / running)
        context, found, probability = list(tokens[-ORDERS[0] :]), [], 1.0
        while len(found) < min(longest, self._longest) and self._pass_rows:
            guess = self._guess(_keys(own.salt, context))
            if guess is None or guess[0] in stop_tokens:
                break
            token, kind = guess
            probability *= own.right[kind] / own.made[kind]
            if probability < worthwhile:
                break
            found.append(token)
            context = [*context[-ORDERS[0] + 1 :], token]
        return found

    def _guess(self, keys: Sequence[int | None]) -> tuple[int, int] | None:
        """(token, kind of guess) after the longest context that is known."""
        for order, key in enumerate(keys):
            seen = None if key is None else self._contexts.get(key)
            if seen is not None:
                token, share = _best(seen)
                return token, order * CONFIDENCES + int(share * CONFIDENCES)
        return None

    def _family(self, name: str) -> _Family:
        found = self._families.get(name)
        if found is None:
            # Not hash(name), which differs between processes.
            salt = int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
            found = self._families[name] = _Family(salt)
            if len(self._families) > MOST_FAMILIES:
                self._families.popitem(last=False)
        self._families.move_to_end(name)
        return found


def _keys(salt: int, tokens: Sequence[int]) -> list[int | None]:
    """Hashes of the last tokens, one for each order, None where there are fewer; the same in every process."""
    return [hash((salt, *tokens[-order:])) if len(tokens) >= order else None for order in ORDERS]


Continuations = int | dict[int, int]
"""The tokens that followed a context: one that was seen once, or the counts of several, the latest last."""


def _best(seen: Continuations) -> tuple[int, float]:
    """The token seen most often, the latest of equals, and its share, as if the context had come once more."""
    if isinstance(seen, int):
        return seen, 1 / 2
    token = max(reversed(seen), key=seen.__getitem__)
    return token, seen[token] / (sum(seen.values()) + 1)


class RecentContexts:
    """Contexts and their continuations; about the last `limit` of those that were used are remembered.

    Two dictionaries: what is used moves to the young one; when that holds half of the limit, the old one is dropped.
    """

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._young: dict[int, Continuations] = {}
        self._old: dict[int, Continuations] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: int) -> Continuations | None:
        found = self._young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: int, seen: Continuations) -> None:
        if len(self._young) >= self._half and key not in self._young:
            self._old, self._young = self._young, {}
        self._young[key] = seen

    def count(self, key: int, token: int) -> None:
        """Count one more `token` after the context."""
        seen = self.get(key)
        if seen is None:
            self.put(key, token)
            return
        counts = {seen: 1} if isinstance(seen, int) else seen
        counts[token] = counts.pop(token, 0) + 1
        if len(counts) > MOST_CONTINUATIONS:
            del counts[next(iter(counts))]
        self.put(key, counts)
