"""A `Sampler` that uses any server of OpenAI's protocol.

Conversations go to /chat/completions, texts and token ids to /completions, each prompt in a request of its own, many at
a time. Our server and vLLM answer with token ids; with other servers our tokenizer encodes the answer's text, and there
are no log-probabilities if the server's tokens are not the same. Only the standard library is used.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from megaphi.conversation import Conversation, to_plain
from megaphi.errors import InputError, RunFailed
from megaphi.generation.client.http_exchange import RetryPolicy, connect, post_json
from megaphi.generation.client.request_journal import RequestJournal, request_key
from megaphi.json_text import parse_json
from megaphi.sampling import Answer, Finish, Prompt, Sampling
from megaphi.tokenizer.interface import Tokenizer

FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}
NEUTRAL = Sampling()
BEYOND_OPENAI = ("top_k", "min_p", "repetition_penalty")
"""Rules that OpenAI's own servers refuse; they are sent only if they have an effect."""


class EchoedToken(NamedTuple):
    """A token of a prompt, as a server scored it."""

    log_probability: float
    is_top: bool
    """True if the server says that no token was more probable there."""


class EndpointSampler:
    """Implements `Sampler` by asking a server."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        tokenizer: Tokenizer,
        api_key: str | None = None,
        concurrency: int = 16,
        patience: RetryPolicy = RetryPolicy(),  # noqa: B008 (frozen)
        journal: RequestJournal | None = None,
        token_ids: bool = True,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        """Describe the server; no request is made yet.

        Args:
            url: base URL of the protocol, such as http://127.0.0.1:8000/v1
            journal: keeps answers, and replays them when the same request is made again.
            token_ids: ask for token ids (`return_token_ids`), which OpenAI's own servers refuse.
            on_end: called after each answer, from any thread, for a progress bar.
        """
        connect(url, timeout_seconds=patience.timeout_seconds)
        if concurrency < 1:
            raise InputError(f"concurrency={concurrency}: must be at least 1")
        self.name = model
        self.url = url.rstrip("/")
        self.tokenizer = tokenizer
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.concurrency = concurrency
        self._patience = patience
        self.journal = journal
        self._token_ids = token_ids
        self.on_end = on_end

    def sample(
        self, prompts: Sequence[Prompt], rules: Sampling, *, samples: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Answer]]:
        """See `Sampler`. Raises InputError if the server refuses a request, RunFailed if it does not answer."""
        rules.check()
        if samples < 1:
            raise InputError(f"samples={samples}: must be at least 1")
        cancelled = threading.Event()
        with ThreadPoolExecutor(self.concurrency) as pool:
            ask = partial(self._sample_one, samples=samples, cancelled=cancelled)
            rules_of = [rules] * len(prompts) if seeds is None else [replace(rules, seed=seed) for seed in seeds]
            futures = [pool.submit(ask, *one) for one in zip(prompts, rules_of, strict=True)]
            try:
                return [future.result() for future in futures]
            except BaseException:
                cancelled.set()  # requests that have not begun, or wait for another attempt, need not fail on their own
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def echoed(self, tokens: Sequence[int]) -> list[EchoedToken]:
        """Every token but the first under the model itself, by an echo of the prompt.

        Raises:
            InputError: the server refuses an echo, or answers without log-probabilities.
            RunFailed: it does not answer.
        """
        url = f"{self.url}/completions"
        body = {"model": self.name, "prompt": list(tokens), "max_tokens": 0, "echo": True, "logprobs": 1}
        pause = partial(_pause, threading.Event())
        response = post_json(url, body, headers=self._headers, patience=self._patience, sleep=pause)
        try:
            columns = response["choices"][0]["logprobs"]
            values = [float(value) for value in columns["token_logprobs"][1:]]
            tops = [max(map(float, top.values()), default=math.inf) for top in columns["top_logprobs"][1:]]
            found = [EchoedToken(value, value >= top) for value, top in zip(values, tops, strict=True)]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(f"{url}: an echo without log-probabilities: {error!r}") from None
        if len(found) != len(tokens) - 1:
            raise InputError(f"{url}: {len(found) + 1} log-probabilities came for {len(tokens)} tokens")
        return found

    def _sample_one(
        self,
        prompt: Prompt,
        rules: Sampling,
        *,
        samples: int,
        cancelled: threading.Event,
    ) -> list[Answer]:
        is_chat = isinstance(prompt, Conversation)
        url = f"{self.url}/{'chat/completions' if is_chat else 'completions'}"
        body = {"model": self.name, "n": samples, **self._asked(prompt, rules)}
        key = request_key(url, body)
        known = self.journal.get(key) if self.journal is not None else None
        response = known
        if response is None:
            pause = partial(_pause, cancelled)
            response = post_json(url, body, headers=self._headers, patience=self._patience, sleep=pause)
        answers = self._answers(url, response, samples, is_chat=is_chat)
        if self.journal is not None and known is None:
            self.journal.add(key, response)
        for _ in answers:
            self.on_end()
        return answers

    def _answers(self, url: str, response: Any, samples: int, *, is_chat: bool) -> list[Answer]:
        try:
            choices = sorted(response["choices"], key=lambda choice: choice["index"])
            prompt_tokens = int(response["usage"]["prompt_tokens"])
            answers = [self._answer(choice, prompt_tokens, is_chat=is_chat) for choice in choices]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunFailed(f"{url}: an answer without what the protocol promises: {error!r}") from None
        if len(answers) != samples:
            raise RunFailed(f"{url}: {len(answers)} answers came where {samples} were asked for")
        return answers

    def _asked(self, prompt: Prompt, rules: Sampling) -> dict[str, Any]:
        """The request body without model and number of samples."""
        if isinstance(prompt, Conversation):
            asked: dict[str, Any] = {"messages": to_plain(prompt), "logprobs": True}
            if rules.alternatives:
                asked["top_logprobs"] = rules.alternatives
        else:
            asked = {"prompt": prompt if isinstance(prompt, str) else list(prompt), "logprobs": rules.alternatives}
        for name in ("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"):
            asked[name] = getattr(rules, name)
        asked |= {
            name: getattr(rules, name) for name in BEYOND_OPENAI if getattr(rules, name) != getattr(NEUTRAL, name)
        }
        if rules.logit_bias:
            asked["logit_bias"] = {str(token): bias for token, bias in rules.logit_bias}
        if rules.json_schema is not None:
            named = {"name": "answer", "schema": parse_json(rules.json_schema), "strict": True}
            asked["response_format"] = {"type": "json_schema", "json_schema": named}
        if rules.stop:
            asked["stop"] = list(rules.stop)
        if self._token_ids:
            asked |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
        return asked

    def _answer(self, choice: dict[str, Any], prompt_tokens: int, *, is_chat: bool) -> Answer:
        text = (choice["message"]["content"] if is_chat else choice["text"]) or ""
        told = choice.get("token_ids")
        tokens = tuple(self.tokenizer.encode(text) if told is None else told)
        entries = (_chat_entries(choice) if is_chat else _completion_entries(choice))[: len(tokens)]
        names = [self.tokenizer.decode([token]) for token in tokens] if told is None else None
        if len(entries) != len(tokens) or (names is not None and names != [entry.name for entry in entries]):
            entries = []
        alternatives = tuple(self._ids(entry.top) for entry in entries)
        return Answer(
            tokens=tokens,
            text=text,
            log_probabilities=tuple(entry.log_probability for entry in entries),
            alternatives=alternatives if any(alternatives) else (),
            finish=FINISHES.get(str(choice.get("finish_reason")), "stop"),
            prompt_tokens=prompt_tokens,
        )

    def _ids(self, top: Sequence[tuple[str, float]]) -> tuple[tuple[int, float], ...]:
        """(token, log-probability), best first; texts that are not one token of our tokenizer are left out."""
        found = []
        for name, value in top:
            number = name.removeprefix("token_id:")
            ids = [int(number)] if number != name and number.isdigit() else self.tokenizer.encode(name)
            if len(ids) == 1:
                found.append((ids[0], value))
        return tuple(sorted(found, key=lambda entry: -entry[1]))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A token in a server's log-probabilities."""

    name: str
    log_probability: float
    top: tuple[tuple[str, float], ...]


def _completion_entries(choice: dict[str, Any]) -> list[_Entry]:
    columns = choice.get("logprobs")
    if not columns:
        return []
    names, values = columns["tokens"], columns["token_logprobs"]
    tops = columns.get("top_logprobs") or [{}] * len(values)
    return [
        _Entry(name, float(value), tuple(top.items())) for name, value, top in zip(names, values, tops, strict=True)
    ]


def _chat_entries(choice: dict[str, Any]) -> list[_Entry]:
    content = (choice.get("logprobs") or {}).get("content") or []
    return [
        _Entry(
            entry["token"],
            float(entry["logprob"]),
            tuple((top["token"], top["logprob"]) for top in entry.get("top_logprobs") or []),
        )
        for entry in content
    ]


def _pause(cancelled: threading.Event, seconds: float) -> None:
    """Sleep, unless the call is cancelled."""
    if cancelled.wait(seconds):
        raise RunFailed("cancelled")
