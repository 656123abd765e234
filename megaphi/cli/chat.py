"""Talk to a model in the terminal; its answers appear as they are generated.

/reset forgets what was said, /system TEXT sets the system message (and forgets), /quit ends; Ctrl-C stops an answer,
and what there is of it stays part of the talk. Lines that are piped in are asked one after the other, and only the
answers are printed.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from collections.abc import Generator as Pieces
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from megaphi.cli.engine_options import add_engine_arguments, on_every_rank, on_first_rank
from megaphi.conversation import Conversation, Message
from megaphi.errors import InputError, did_you_mean
from megaphi.foreign.visible_text import print_text
from megaphi.sampling import Sampling

if TYPE_CHECKING:
    from megaphi.cli.engine_options import Opened
    from megaphi.generation.decoding.interface import Generator
    from megaphi.tokenizer.interface import Tokenizer

HELP = "talk to a model in the terminal"
EXAMPLE = """examples:
  megaphi chat downloads/phi-4
  megaphi chat runs/phi4_14b --tensor 2 --system "Answer in one sentence." --temperature 0
  printf 'Why is the sky blue?\\nAnd at night?\\n' | megaphi chat downloads/phi-4 --max-tokens 200
"""
COMMANDS = {"/reset": "forget what was said", "/system": "TEXT: set the system message", "/quit": "end"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser, batch=1)
    parser.add_argument("--system", default="", metavar="TEXT", help="system message (default: none)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer (default: what the context leaves)")
    parser.add_argument("--temperature", type=float, default=0.7, metavar="T", help="0 is greedy (default 0.7)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K most probable tokens")
    parser.add_argument("--top-p", type=float, default=0.95, metavar="P", help="draw from this much probability")
    parser.add_argument("--seed", type=int, metavar="N", help="random seed (default: a new one each time)")


def run(arguments: argparse.Namespace) -> int:
    rules_of(arguments).check()
    return on_every_rank(arguments, _chat)


def rules_of(arguments: argparse.Namespace) -> Sampling:
    return Sampling(
        max_tokens=2**31 if arguments.max_tokens is None else arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=secrets.randbelow(2**31) if arguments.seed is None else arguments.seed,
    )


def _chat(arguments: argparse.Namespace) -> int:
    from megaphi.log import set_up_logging

    set_up_logging()
    return on_first_rank(arguments, lambda opened: _talk(opened, arguments))


def _talk(opened: Opened, arguments: argparse.Namespace) -> int:
    talk = Talk(opened.generators[0], opened.tokenizer, rules_of(arguments), arguments.system)
    for line in read_lines():
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            break
        if word.startswith("/"):
            print(obey(talk, word, rest.strip()), file=sys.stderr)
        elif word:
            _answer(talk, line)
    return 0


def read_lines() -> Iterator[str]:
    """Yield the lines that are typed, with a prompt on a terminal, until the end of the input."""
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    with suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history in input()
    print(*(f"{command} {meaning}" for command, meaning in COMMANDS.items()), sep="\n", file=sys.stderr)
    with suppress(EOFError):
        while True:
            yield input("> ")


@dataclass
class Talk:
    """A conversation that goes on."""

    generator: Generator
    tokenizer: Tokenizer
    rules: Sampling
    system: str = ""
    said: list[Message] = field(default_factory=list)

    def ask(self, text: str) -> Pieces[str, None, None]:
        """Say something; the pieces of the answer. An answer that is left early is kept as far as it came.

        Raises InputError when the talk no longer fits into the context, and forgets `text`.
        """
        self.said.append(Message("user", text))
        answer = ""
        try:
            for piece in self._generate():
                answer += piece
                yield piece
        except InputError:
            self.said.pop()
            raise
        finally:
            if answer:
                self.said.append(Message("assistant", answer))

    def _generate(self) -> Iterator[str]:
        from megaphi.generation.answer_stream import AnswerStream
        from megaphi.generation.decoding.interface import Request
        from megaphi.generation.text import render_prompt

        opening = [Message("system", self.system)] if self.system else []
        prompt = render_prompt(Conversation((*opening, *self.said)), self.tokenizer)
        room = self.generator.context - len(prompt)
        if room < 1:
            raise InputError(f"the talk has {len(prompt)} tokens, the context {self.generator.context}: /reset it")
        rules = replace(self.rules, max_tokens=min(self.rules.max_tokens, room))
        stops = self.tokenizer.stop_tokens
        turn = len(self.said)  # every turn has draws of its own
        request = Request(name="chat", prompt=prompt, sampling=rules, sample=turn, stop_tokens=stops)
        self.generator.add(request)
        stream = AnswerStream(request, self.tokenizer)
        try:
            while not self.generator.is_idle:
                for output in self.generator.step():
                    yield stream.add(output)
        finally:
            self.generator.cancel("chat")
            while not self.generator.is_idle:
                self.generator.step()


def obey(talk: Talk, command: str, text: str) -> str:
    """Carry out a command; returns the reply."""
    if command == "/reset":
        talk.said.clear()
        return "forgotten"
    if command == "/system":
        talk.said.clear()
        talk.system = text
        return "a new talk with this system message" if text else "a new talk without a system message"
    return f"unknown command {command}.{did_you_mean(command, COMMANDS)} There are {', '.join(COMMANDS)}."


def _answer(talk: Talk, text: str) -> None:
    """Print an answer as it comes; Ctrl-C leaves it after the step that is under way."""
    pieces = talk.ask(text)
    try:
        with interrupts() as seen:
            for piece in pieces:
                print_text(piece, end="")
                if seen:
                    break
    except InputError as error:
        print(f"megaphi: {error}", file=sys.stderr)
    else:
        print_text("")
    finally:
        pieces.close()


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collects Ctrl-C: a step that is broken off would leave other ranks waiting in it. The second one raises."""
    seen: list[int] = []

    def collect(number: int, _: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, collect)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
