"""The inference engine as a `Sampler`: conversations, texts and token ids in, answers out, stop texts included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from megaphi.engine.inference.forward_only import gather_over_replicas
from megaphi.generation.answer_stream import AnswerStream
from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.inference_engine import InferenceEngine
from megaphi.generation.decoding.interface import Request, StepOutput
from megaphi.generation.text import render_prompt
from megaphi.sampling import Answer, Prompt, Sampling
from megaphi.tokenizer.interface import Tokenizer


@dataclass(slots=True)
class _OpenAnswer:
    """An answer that is being generated."""

    request: Request
    stream: AnswerStream
    completion: Completion = field(default_factory=Completion)
    text: str = ""

    def add(self, output: StepOutput) -> None:
        """Take a step's output for it; outputs after its end are ignored."""
        if self.stream.finish is None:
            self.completion.add(output)
            self.text += self.stream.add(output)


class LocalSampler:
    """Implements `sampling.Sampler`. Every rank of the job calls `sample` with the same arguments."""

    def __init__(
        self,
        engine: InferenceEngine,
        tokenizer: Tokenizer,
        *,
        name: str,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_end` is called after each answer that this replica makes, for a progress bar."""
        self.name = name
        self._engine, self._tokenizer, self._on_end = engine, tokenizer, on_end

    def sample(self, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1) -> list[list[Answer]]:
        """`samples` answers to every prompt, in the order of the prompts. Raises InputError."""
        world = self._engine.model.world
        rendered = [tuple(render_prompt(prompt, self._tokenizer)) for prompt in prompts]
        names = [(number, sample) for number in range(len(prompts)) for sample in range(samples)]
        own = {
            f"{number}/{sample}": self._open(f"{number}/{sample}", rendered[number], rules, sample)
            for number, sample in names[world.replica :: world.replicas]
        }
        for item in own.values():
            self._engine.add(item.request)
        while not self._engine.is_idle:
            for output in self._engine.step():
                item = own[output.name]
                item.add(output)
                if output.finish is not None:
                    self._on_end()
                elif item.stream.finish is not None:
                    self._engine.cancel(output.name)
        answers: dict[str, Answer] = {}
        for share in gather_over_replicas(self._engine.model, {name: _answer(item) for name, item in own.items()}):
            answers |= share
        return [[answers[f"{number}/{sample}"] for sample in range(samples)] for number in range(len(prompts))]

    def _open(self, name: str, prompt: tuple[int, ...], rules: Sampling, sample: int) -> _OpenAnswer:
        request = Request(
            name=name, prompt=prompt, sampling=rules, sample=sample, stop_tokens=self._tokenizer.stop_tokens
        )
        return _OpenAnswer(request, AnswerStream(request, self._tokenizer))


def _answer(item: _OpenAnswer) -> Answer:
    completion = item.completion
    return Answer(
        tokens=tuple(completion.tokens),
        text=item.text,
        log_probabilities=tuple(completion.log_probabilities),
        alternatives=tuple(completion.alternatives),
        finish=item.stream.finish or completion.finish,
        prompt_tokens=len(item.request.prompt),
    )
