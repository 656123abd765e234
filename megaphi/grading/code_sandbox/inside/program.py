"""The process that runs a whole program: compiles it once, then once per call gives it a text and takes its output.

The call is `CandidateFunction`'s, with the text of standard input as its only argument; the value is the text of
standard output. A program of Python is a fork of this warm interpreter, any other one a command. What the program does
to this process harms only its own answers, as in `candidate.py`.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

from megaphi.grading.code_sandbox.inside.channel import Closed, PipeChannel
from megaphi.grading.code_sandbox.inside.plain_data import decode

LONGEST_REASON = 300


def serve(payload: PipeChannel, calls: PipeChannel) -> None:
    """Answer how compiling went, then each call."""
    job = payload.receive()
    Path(job["file"]).write_text(job["source"], errors="replace")
    if job["compile"]:
        done = subprocess.run(job["compile"], capture_output=True, check=False, env={"PATH": "/usr/bin:/bin"})
        if done.returncode:
            said = done.stderr.decode(errors="replace")[:LONGEST_REASON]
            calls.send({"raised": ["CompileError", "ValueError", "Exception"], "text": f"does not compile: {said}"})
            return
    calls.send({"value": None})
    while True:
        try:
            (text,) = decode(calls.receive()["arguments"])
        except Closed:
            return
        calls.send(_run(job, text, longest=calls.longest // 6))  # a byte is at most six in JSON


def _run(job: dict[str, Any], text: str, *, longest: int) -> dict[str, Any]:
    source, sink = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(source[0], 0)
        os.dup2(sink[1], 1)
        os.closerange(3, 256)
        _become(job)
    os.close(source[0])
    os.close(sink[1])
    output = _exchange(source[1], sink[0], text.encode(errors="replace"), longest=longest)
    os.close(sink[0])
    if output is None:
        os.kill(child, 9)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if output is None:
        return {"not_plain": f"larger than {longest:,} bytes"}
    if code:
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return {"raised": ["ProgramFailed", "ValueError", "Exception"], "text": f"the program ended with {how}"}
    return {"value": output.decode(errors="replace")}


def _exchange(write: int, read: int, content: bytes, *, longest: int) -> bytes | None:
    """All that the program writes while `content` is fed to it, or None if that is too much."""
    os.set_blocking(write, False)
    output, poll = bytearray(), select.poll()
    poll.register(read, select.POLLIN)
    poll.register(write, select.POLLOUT)
    while True:
        for pipe, event in poll.poll():
            if pipe == write:
                try:
                    content = content[os.write(write, content[:65536]) :]
                except OSError:  # it reads no more
                    content = b""
                if not content or event & select.POLLERR:
                    poll.unregister(write)
                    os.close(write)
            else:
                piece = os.read(read, 65536)
                output += piece
                if not piece or len(output) > longest:
                    if content:
                        os.close(write)
                    return bytes(output) if not piece else None


def _become(job: dict[str, Any]) -> None:
    """Turn this fork into the program; never returns."""
    if job["run"]:
        try:
            os.execv(job["run"][0], job["run"])
        finally:
            os._exit(127)
    code = 1
    try:
        sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(job["source"], job["file"], "exec"), module.__dict__)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        os._exit(code & 255)
