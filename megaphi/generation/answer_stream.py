"""The one way from step outputs to the text of an answer: for `LocalSampler`, the server, `megaphi chat` and generate.

A generator emits tokens. They become text here as far as it is certain (`text.py`): incomplete characters and possible
beginnings of a stop text are held back, stop tokens have no text, other special tokens have theirs, and the text
continues where the prompt's ends. An answer has ended when its generator says so, or at a stop text, which the
generator does not know: then the caller cancels the request.
"""

from __future__ import annotations

from megaphi.generation.decoding.interface import Request, StepOutput
from megaphi.generation.text import TextStream
from megaphi.sampling import Finish
from megaphi.tokenizer.interface import Tokenizer


class AnswerStream:
    """The text of the answer to one request: deltas that join to it, and how it ended."""

    def __init__(self, request: Request, tokenizer: Tokenizer, *, before: int = 0) -> None:
        """`before`: number of characters before the answer, for `characters`."""
        self._text = TextStream(tokenizer, request.sampling.stop, after=request.prompt, before=before)
        self.finish: Finish | None = None
        """Reason the answer ended, None before; "stop" for a stop text, whatever the generator says later."""

    @property
    def characters(self) -> int:
        """Start of the next token's text; text held back and that of a stop text count."""
        return self._text.characters

    def add(self, output: StepOutput) -> str:
        """Return the text that has become certain with an output of the request; none after the end."""
        if self.finish is not None:
            return ""
        delta = "" if output.token is None else self._text.add(output.token)
        if output.finish is not None:
            delta += self._text.end()
        self.finish = "stop" if self._text.is_stopped else output.finish
        return delta
