"""The process of a candidate: runs its source, then answers calls of its functions until nobody asks any more.

Nothing here is trusted by anybody. The candidate owns this process and can change every object in it, this module
included; all it gains is to send other plain data, and whoever asked compares that with what the process never saw.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from megaphi.grading.code_sandbox.inside.channel import Closed, PipeChannel
from megaphi.grading.code_sandbox.inside.plain_data import NotPlain, decode, encode, to_bytes

LONGEST_REASON = 300
MODULE = "candidate"


def serve(payload: PipeChannel, calls: PipeChannel) -> None:
    """Answer how loading went, then each call: its value, or what it raised, and its arguments if they changed."""
    source = payload.receive()["source"]
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module  # dataclasses look their module up
    try:
        exec(compile(source, "answer.py", "exec"), module.__dict__)
        calls.send({"value": None})
    except BaseException as error:
        calls.send(_raised(error))
        return
    while True:
        try:
            request = calls.receive()
        except Closed:
            return
        reply = _answer(module, request)
        if len(to_bytes(reply)) > calls.longest:
            reply = {"not_plain": f"larger than {calls.longest:,} bytes"}
        calls.send(reply)


def _answer(module: types.ModuleType, request: Any) -> dict[str, Any]:
    arguments, named = decode(request["arguments"]), decode(request["named"])
    try:
        value = vars(module)[request["name"]](*arguments, **named)
    except BaseException as error:
        reply = _raised(error)
    else:
        try:
            reply = {"value": encode(value)}
        except NotPlain as error:
            return {"not_plain": str(error)}
    try:
        after = encode(arguments)
    except NotPlain as error:
        return {"not_plain": f"in an argument: {error}"}
    return reply if after == request["arguments"] else reply | {"arguments": after}


def _raised(error: BaseException) -> dict[str, Any]:
    """The exception as the names of its class and those above it, and its text."""
    try:
        text = str(error)
    except BaseException:
        text = ""
    names = [kind.__name__ for kind in type(error).__mro__]
    return {"raised": names, "text": text[:LONGEST_REASON]}
