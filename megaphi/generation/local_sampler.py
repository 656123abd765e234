"""Our own engine as a `Sampler`: conversations, texts and token ids in, answers out, stop texts included.

It holds one generator for each replica of the model (`decoding/driver.py` gives them to rank 0; the other ranks
follow), so only rank 0 runs the program that samples. All answers of a call are in flight together. `complete` is the
level below, for programs that think in tokens. With a journal every answer is kept as it ends, by the model, the
prompt's tokens, the rules and the number of the sample, and is never generated twice. Several samples of one prompt
are a family: they are drafts for each other (`decoding/drafts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Generator as Completions
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Self

from megaphi.errors import InputError
from megaphi.generation.answer_stream import AnswerStream
from megaphi.generation.client.request_journal import RequestJournal, request_key
from megaphi.generation.completions import complete_requests
from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.interface import Generator, Request, StepOutput
from megaphi.generation.text import render_prompt
from megaphi.generation.workers import GenerationService
from megaphi.sampling import Answer, Prompt, Sampling, answer_from_plain, plain_answer
from megaphi.tokenizer.interface import Tokenizer

NEUTRAL = asdict(Sampling())


@dataclass(slots=True)
class _OpenAnswer:
    """An answer that is being generated."""

    request: Request
    stream: AnswerStream
    key: str
    text: list[str] = field(default_factory=list)

    def reads(self, output: StepOutput) -> bool:
        """Take a step's output for it; returns whether the answer has ended."""
        self.text.append(self.stream.add(output))
        return self.stream.finish is not None


class LocalSampler:
    """Implements `sampling.Sampler` over the generators of one job. A context manager: leaving it ends its threads.

    Args:
        generators: one for each replica.
        name: the model's, for records.
        identity: what tells these weights and their tokenizer from all others; the journal's answers belong to it.
        journal: keeps answers, and replays them.
        at_once: requests that are open at each replica; more than it has slots, so that none runs empty.
        on_end: called after each answer, for a progress bar.
        on_failure: called with the exception that ended an engine, before `RunFailed`; without one it is logged.
    """

    def __init__(
        self,
        generators: Sequence[Generator],
        tokenizer: Tokenizer,
        *,
        name: str,
        identity: str = "",
        journal: RequestJournal | None = None,
        at_once: int = 256,
        on_end: Callable[[], object] = lambda: None,
        on_failure: Callable[[Exception], object] | None = None,
    ) -> None:
        if journal is not None and not identity:
            raise InputError("a journal of a local model needs its identity: answers of another one would be replayed")
        self.name, self.tokenizer, self.on_end = name, tokenizer, on_end
        self.identity, self.journal = identity, journal
        self._at_once = at_once * len(generators)
        self.service = GenerationService(*generators, max_waiting=self._at_once, on_failure=on_failure)
        self.service.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs, wait for the step that is under way, and end the threads. The generators stay open."""
        self.service.close()

    def sample(
        self, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Answer]]:
        """See `Sampler`. Raises InputError, RunFailed."""
        rules.check()
        if samples < 1:
            raise InputError(f"samples={samples}: must be at least 1")
        rules_of = [rules] * len(prompts) if seeds is None else [replace(rules, seed=seed) for seed in seeds]
        rendered = [render_prompt(prompt, self.tokenizer) for prompt in prompts]
        answers: dict[str, Answer] = {}
        items: dict[str, _OpenAnswer] = {}

        def requests() -> Iterator[Request]:
            """Those that the journal does not answer."""
            for number, prompt in enumerate(rendered):
                family = request_key("family", prompt) if samples > 1 else ""
                for sample in range(samples):
                    item = self._open(f"{number}/{sample}", prompt, rules_of[number], sample, family)
                    known = self.journal.get(item.key) if self.journal is not None else None
                    if known is None:
                        items[item.request.name] = item
                        yield item.request
                    else:
                        answers[item.request.name] = answer_from_plain(known)
                        self.on_end()

        reads = lambda name, output: items[name].reads(output)  # noqa: E731
        for name, completion in complete_requests(self.service, requests(), at_once=self._at_once, ends=reads):
            item = items.pop(name)
            answers[name] = _answer(item, completion)
            if self.journal is not None:
                self.journal.add(item.key, plain_answer(answers[name]))
            self.on_end()
        return [[answers[f"{number}/{sample}"] for sample in range(samples)] for number in range(len(prompts))]

    def complete(self, requests: Iterable[Request]) -> Completions[tuple[str, Completion], None, None]:
        """(name, completion) of each request as it ends: tokens only, no stop texts, no journal.

        Raises:
            InputError: a request can never run.
            RunFailed: the engine failed.
        """
        return complete_requests(self.service, requests, at_once=self._at_once)

    def _open(self, name: str, prompt: tuple[int, ...], rules: Sampling, sample: int, family: str) -> _OpenAnswer:
        request = Request(
            name=name,
            prompt=prompt,
            sampling=rules,
            sample=sample,
            stop_tokens=self.tokenizer.stop_tokens,
            family=family,
        )
        chosen = {field: value for field, value in asdict(rules).items() if value != NEUTRAL[field]}
        key = request_key(self.identity, {"prompt": prompt, "rules": chosen, "sample": sample})
        return _OpenAnswer(request, AnswerStream(request, self.tokenizer), key)


def _answer(item: _OpenAnswer, completion: Completion) -> Answer:
    return Answer(
        tokens=tuple(completion.tokens),
        text="".join(item.text),
        log_probabilities=tuple(completion.log_probabilities),
        alternatives=tuple(completion.alternatives),
        finish=item.stream.finish or completion.finish,
        prompt_tokens=len(item.request.prompt),
    )
