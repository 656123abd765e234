"""A candidate's function as seen from another process: called like the function, it sends the call and waits.

Only plain data comes back. Exceptions come back as the nearest exception of Python itself; arguments that the candidate
changed in place are changed here too (the outermost list, dict or set keeps its identity, what lies in it is new). A
candidate that exits, sends something else or returns something that is not plain data has failed for good: `fault` says
why, and no `except` of the tests makes that undone.
"""

from __future__ import annotations

import builtins
from typing import Any, NoReturn

from megaphi.grading.code_sandbox.inside.channel import Closed, PipeChannel, TooLong
from megaphi.grading.code_sandbox.inside.plain_data import NotPlain, decode, encode

ENDED = "the program ended"
"""The fault of a candidate whose process is gone: the fork server knows what ended it."""


class CandidateFailed(BaseException):
    """The candidate cannot be asked any more. No `except Exception` of a test catches it."""


class BrokenTests(BaseException):
    """The tests ask for what cannot be sent to another process: no fault of the candidate."""


class CandidateFunction:
    """The function `name` of the candidate at the other end of the channel."""

    def __init__(self, channel: PipeChannel, name: str) -> None:
        self._channel, self.__name__ = channel, name
        self.calls = 0
        self.fault: str | None = None
        self.fault_of_tests: str | None = None
        self.last_raised: BaseException | None = None

    def load(self) -> None:
        """Wait until the candidate's source has run. Raises `CandidateFailed`."""
        self._value_of(self._receive())

    def __call__(self, /, *arguments: Any, **named: Any) -> Any:
        if self.fault:
            raise CandidateFailed(self.fault)
        try:
            request = {"name": self.__name__, "arguments": encode(list(arguments)), "named": encode(named)}
        except NotPlain as error:
            self.fault_of_tests = f"the tests pass an argument {error}"
            raise BrokenTests(self.fault_of_tests) from None
        self.calls += 1
        try:
            self._channel.send(request)
        except Closed:
            self._fail(ENDED)
        reply = self._receive()
        self._take_back(arguments, reply)
        return self._value_of(reply)

    def _receive(self) -> dict[str, Any]:
        try:
            reply = self._channel.receive()
        except Closed:
            self._fail(ENDED)
        except TooLong as error:
            self._fail(f"its answer is too long: {error}")
        except NotPlain as error:
            self._fail(f"its answer is {error}")
        if type(reply) is not dict:
            self._fail("its answer is no answer")
        return reply

    def _value_of(self, reply: dict[str, Any]) -> Any:
        if "raised" in reply:
            self._raise(reply)
        if "value" not in reply:
            self._fail(f"it returns a value {str(reply.get('not_plain', 'of no form'))[:200]}")
        try:
            return decode(reply["value"])
        except (NotPlain, RecursionError) as error:
            self._fail(f"it returns a value {error}")

    def _take_back(self, arguments: tuple[Any, ...], reply: dict[str, Any]) -> None:
        if "arguments" not in reply:
            return
        try:
            changed = decode(reply["arguments"])
        except (NotPlain, RecursionError) as error:
            self._fail(f"it changes an argument to one {error}")
        if type(changed) is not list or len(changed) != len(arguments):
            self._fail("it sends other arguments than it was given")
        for old, new in zip(arguments, changed, strict=True):
            if type(old) is not type(new):
                continue
            if type(old) is list:
                old[:] = new
            elif type(old) is dict or type(old) is set:
                old.clear()
                old.update(new)

    def _raise(self, reply: dict[str, Any]) -> None:
        names, text = reply["raised"], str(reply.get("text", ""))[:300]
        names = [name for name in names if type(name) is str] if type(names) is list else []
        kinds = [getattr(builtins, name, None) for name in names]
        kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseException)]
        if not kinds or not issubclass(kinds[0], Exception):  # SystemExit, KeyboardInterrupt: it meant to end
            self._fail(f"it raised {(names or ['nothing known'])[0][:80]}: {text}")
        for kind in kinds:
            try:
                self.last_raised = kind(text)
            except TypeError:  # UnicodeDecodeError wants five arguments
                continue
            raise self.last_raised

    def _fail(self, reason: str) -> NoReturn:
        self.fault = reason
        raise CandidateFailed(reason)
