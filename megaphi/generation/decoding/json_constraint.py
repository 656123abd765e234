"""Answers that are JSON of a schema: which tokens may come next, so that nothing else can.

The grammar, and the work of matching a vocabulary with it, are llguidance's (`megaphi[serve]`). A schema is checked
before anything is generated: keywords that llguidance cannot enforce are refused by name. White space between tokens of
JSON is allowed, but limited, because models that have nothing more to say fall into endless white space. An answer ends
where its JSON does; only one that is cut by its number of tokens is not whole, and it says so.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megaphi.errors import InputError
from megaphi.tokenizer.interface import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

ANY_OBJECT = json.dumps({"type": "object"})
"""The schema of `{"type": "json_object"}`."""
LONGEST_REASON = 300
KNOWN_SCHEMAS = 64
"""Compiled schemas that are kept."""
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
            from llguidance import LLMatcher
        except ImportError:
            message = "JSON of a schema needs the package llguidance: pip install 'megaphi[serve]'"
            raise InputError(message) from None
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=COMPILER)  # pyright: ignore[reportArgumentType]
        except ValueError as error:  # nested too deeply, or no object
            raise InputError(f"the schema cannot be kept to: {error}") from None
        matcher = LLMatcher(self._vocabulary(), grammar, log_level=0)
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
