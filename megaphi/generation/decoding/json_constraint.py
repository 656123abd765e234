"""Answers that are JSON of a schema: which tokens may come next, so that nothing else can.

The grammar, and the work of matching a vocabulary with it, are llguidance's (`megaphi[serve]`). A schema is checked
before anything is generated: keywords that llguidance cannot enforce are refused by name. White space between tokens of
JSON is allowed, but limited, because models that have nothing more to say fall into endless white space. An answer ends
where its JSON does; only one that is cut by its number of tokens is not whole, and it says so.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megaphi.errors import InputError
from megaphi.json_text import parse_json
from megaphi.tokenizer.interface import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

ANY_OBJECT = json.dumps({"type": "object"})
"""The schema of `{"type": "json_object"}`."""
LONGEST_REASON = 300
KNOWN_SCHEMAS = 64
"""Compiled schemas that are kept."""
LEXER_FUEL, MOST_LEXER_STATES = 100_000, 20_000
"""llguidance's limits: about 300 alternatives in one place, whose masks take 5 ms, and 40 MB of a schema."""
MOST_REMAINDERS = 10_000
"""Remainders that all the `multipleOf` of a schema distinguish, on which llguidance has no limit."""
COMPILER: dict[str, Any] = {"lenient": False, "coerce_one_of": False, "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,64}"}
"""llguidance's options, above those that a schema may hold: whatever it does not implement is an error."""


class Constraints:
    """Opens constraints for the vocabulary of one tokenizer, which takes a second before the first; thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._prepared: LLTokenizer | None = None
        self._preparing = threading.Lock()
        self._known: OrderedDict[str, LLMatcher] = OrderedDict()
        self._known_lock = threading.Lock()

    def check(self, schema: str) -> None:
        """Raises InputError for a schema (as JSON) that cannot be kept to, or without llguidance."""
        self._compiled(schema)

    def knows(self, schema: str) -> bool:
        """Return whether the schema is compiled, which can take a second."""
        return schema in self._known

    def open(self, schema: str) -> Constraint:
        """The constraint of one answer. Raises InputError as `check` does."""
        return Constraint(self._compiled(schema).deep_copy())

    def _compiled(self, schema: str) -> LLMatcher:
        """The matcher of a schema, at the beginning of its grammar; the last ones are kept."""
        with self._known_lock:
            if (matcher := self._known.get(schema)) is not None:
                self._known.move_to_end(schema)
                return matcher
        matcher = self._matcher(schema)
        with self._known_lock:
            self._known[schema] = matcher
            while len(self._known) > KNOWN_SCHEMAS:
                self._known.popitem(last=False)
        return matcher

    def _matcher(self, schema: str) -> LLMatcher:
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError:
            message = "JSON of a schema needs the package llguidance: pip install 'megaphi[serve]'"
            raise InputError(message) from None
        try:
            _check_multiples(schema)
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=COMPILER)  # pyright: ignore[reportArgumentType]
        except ValueError as error:  # nested too deeply, or no object
            raise InputError(f"the schema cannot be kept to: {error}") from None
        limits = LLParserLimits(initial_lexer_fuel=LEXER_FUEL, max_lexer_states=MOST_LEXER_STATES)
        matcher = LLMatcher(self._vocabulary(), grammar, log_level=0, limits=limits)
        if matcher.is_error():
            reason = " ".join(matcher.get_error().split())[:LONGEST_REASON]
            raise InputError(f"the schema cannot be kept to: {reason}")
        return matcher

    def _vocabulary(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        with self._preparing:
            if self._prepared is None:
                spelled = TokenizerWrapper(_Spelled(self._tokenizer))
                stops = sorted(self._tokenizer.stop_tokens)
                self._prepared = LLTokenizer(spelled, n_vocab=self._tokenizer.vocabulary_size, eos_token=stops)
            return self._prepared


def _check_multiples(schema: str) -> None:
    """Bound the least common multiple of a schema's `multipleOf`, in units of their last digit, and their sum."""
    found = [Decimal(repr(value)) for value in _values_of("multipleOf", parse_json(schema))]
    finite = [value for value in found if value.is_finite() and value]
    unit = min((exponent for value in finite if isinstance(exponent := value.as_tuple().exponent, int)), default=0)
    multiple, total = 1, 0
    for value in finite:
        whole = abs(int(value.scaleb(-min(unit, 0))))
        multiple, total = math.lcm(multiple, whole), total + whole
        if multiple > MOST_REMAINDERS or total > 10 * MOST_REMAINDERS:
            raise InputError(f"its multipleOf distinguish more than {MOST_REMAINDERS} remainders")


def _values_of(name: str, schema: Any) -> Iterator[int | float]:
    """Numbers under a name, anywhere in a schema."""
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict) and type(part.get(name)) in (int, float):
            yield part[name]
        if isinstance(part, dict | list):
            parts += part.values() if isinstance(part, dict) else part


class _Spelled:
    """A tokenizer as llguidance asks about it: the bytes of every token, and which are not text."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = min(tokenizer.stop_tokens)
        self.tokens = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocabulary_size)]
        self.special_token_ids = sorted(tokenizer.special_ids.values())
        self._encode = tokenizer.encode

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


class Constraint:
    """Position of one answer in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._consumed = 0

    def allowed(self, answer: Sequence[int], *, vocabulary: int) -> NDArray[np.bool_]:
        """[vocabulary] which tokens may follow `answer`, which has grown since the last call or is the same.

        None if llguidance fails: a grammar can exceed its limits.
        """
        self._matcher.consume_tokens(list(answer[self._consumed :]))
        self._consumed = len(answer)
        allowed = np.zeros(vocabulary, dtype=np.bool_)
        if self._matcher.is_error():
            return allowed
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        known = min(len(bits), vocabulary)
        allowed[:known] = bits[:known]
        return allowed
