"""Our engine as a model of lm-eval, the harness of EleutherAI: log-likelihoods, rolling ones, and text until a stop.

lm-eval hands a chat over as one text. Ours is a mark with the messages as JSON, which is rendered as in training when
it comes back: so a message that spells a control token stays text. Contexts that are too long are cut on the left, as
by lm-eval's own backends, and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from megaphi.conversation import from_plain
from megaphi.errors import InputError
from megaphi.evaluation.asking.likelihoods import LocalScorer, TokenPair, token_pair
from megaphi.generation.local_sampler import LocalSampler
from megaphi.generation.text import render_prompt
from megaphi.json_text import parse_json
from megaphi.log import logger, progress_bar
from megaphi.sampling import Sampling

CHAT = "\x00conversation\x00"
"""The beginning of a context that is a conversation."""
MOST_NEW_TOKENS = 256
"""Tokens of an answer where the task does not say; lm-eval's own default."""
PASSED_OVER = ("num_beams", "num_return_sequences", "use_cache")
"""Rules of transformers that change nothing at the value 1, or true."""


class MegaphiLM(TemplateLM):
    """An `LM` over the replicas of one job; it runs on rank 0 only."""

    def __init__(self, sampler: LocalSampler) -> None:
        super().__init__()
        self._sampler, self._scorer = sampler, LocalScorer(sampler)
        self._tokens = sampler.tokenizer
        self.truncated = 0
        """Contexts that were cut on the left."""

    @property
    def max_length(self) -> int:
        """The model's context in tokens."""
        return self._scorer.context

    @property
    def eot_token_id(self) -> int:
        return self._tokens.end_of_text

    @property
    def prefix_token_id(self) -> int:
        return next(iter(self._tokens.text_start), self._tokens.end_of_text)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's fingerprint, for lm-eval's cache of requests."""
        return self._tokens.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        start = [] if add_special_tokens is False else list(self._tokens.text_start)
        return [*start, *self._tokens.encode(string)]

    def chat_template(self, chat_template: bool | str = False) -> str:
        """A name for records: there is one template, that of the model's tokenizer."""
        return f"megaphi {self._tokens.fingerprint}" if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Raises InputError for a chat whose last message is to be continued."""
        if not add_generation_prompt:
            raise InputError("megaphi begins answers where an assistant's begin: a task with a gen_prefix is refused")
        return CHAT + json.dumps(chat_history)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context.startswith(CHAT):
            return list(self._prompt(context)), self._tokens.encode(continuation)
        pair = token_pair(context, continuation, self._tokens)
        return list(pair.context), list(pair.continuation)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitting(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        found: list[tuple[float, bool]] = []
        with self._progress(len(pairs), "scores"):
            scores = self._scorer.score(pairs)
        for request, score in zip(requests, scores, strict=True):
            if isinstance(score, str):
                raise InputError(f"lm-eval asks for what cannot be scored: {score}. The text: {str(request[0])[:200]}")
            found.append((score.total, score.is_greedy))
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the model's context that predict every token once."""
        windows: list[TokenPair] = []
        counts = []
        for request in requests:
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            cut = [TokenPair(tuple(a), tuple(b)) for a, b in map(make_disjoint_window, rolling)]
            windows += cut
            counts.append(len(cut))
        scores = iter(self._loglikelihood_tokens([("", list(one.context), list(one.continuation)) for one in windows]))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answer to each (context, rules), without its stop text."""
        groups: dict[Sampling, list[int]] = {}
        for number, request in enumerate(requests):
            given: Any = request.args
            groups.setdefault(rules_of(given[1]), []).append(number)
        found: dict[int, str] = {}
        with self._progress(len(requests), "answers"):
            for rules, numbers in groups.items():
                room = self._room_beside(rules)
                prompts = [self._cut(self._prompt(requests[number].args[0]), room) for number in numbers]
                for number, answers in zip(numbers, self._sampler.sample(prompts, rules), strict=True):
                    found[number] = answers[0].text
        return [found[number] for number in range(len(requests))]

    def _room_beside(self, rules: Sampling) -> int:
        """Tokens that a prompt may have. Raises InputError if an answer would fill the context."""
        room = self.max_length - rules.max_tokens
        if room < 1:
            raise InputError(
                f"a task asks for {rules.max_tokens:,} tokens, and the model's context is {self.max_length:,}: "
                "give --gen-kwargs max_gen_toks=N"
            )
        return room

    @contextmanager
    def _progress(self, total: int, unit: str) -> Iterator[None]:
        before = self._sampler.on_end
        with progress_bar(total=total, unit=unit, label="lm-eval") as bar:
            self._sampler.on_end = bar.update
            try:
                yield
            finally:
                self._sampler.on_end = before

    def _prompt(self, context: str) -> tuple[int, ...]:
        if context.startswith(CHAT):
            return render_prompt(from_plain(parse_json(context.removeprefix(CHAT))), self._tokens)
        return render_prompt(context, self._tokens) or (self.prefix_token_id,)

    def _fitting(self, context: tuple[int, ...], continuation: tuple[int, ...]) -> TokenPair:
        """The pair, cut on the left to the context and the one token after it."""
        whole = self._cut(context + continuation, self.max_length + 1)
        kept = min(len(continuation), len(whole) - 1)
        return TokenPair(whole[: len(whole) - kept], whole[len(whole) - kept :])

    def _cut(self, tokens: tuple[int, ...], longest: int) -> tuple[int, ...]:
        if len(tokens) <= longest:
            return tokens
        if not self.truncated:
            logger.warning("a context of %d tokens is cut on the left to %d; others may be", len(tokens), longest)
        self.truncated += 1
        return tokens[-longest:]


def rules_of(given: Mapping[str, Any]) -> Sampling:
    """Sampling rules of a task's `generation_kwargs`. Raises InputError for one that is not understood."""
    normalised: Any = normalize_gen_kwargs(dict(given), MOST_NEW_TOKENS)
    fields: dict[str, Any] = dict(normalised)
    temperature = float(fields.pop("temperature", 0.0))
    rules = Sampling(
        max_tokens=fields.pop("max_gen_toks"),
        temperature=temperature if fields.pop("do_sample") else 0.0,
        stop=tuple(one for one in fields.pop("until") if one),
    )
    for name in ("top_p", "top_k", "min_p", "repetition_penalty"):
        if name in fields:
            rules = replace(rules, **{name: fields.pop(name)})
    unknown = [name for name, value in fields.items() if name not in PASSED_OVER or value not in (1, None)]
    if unknown:
        raise InputError(f"generation_kwargs of a task: {unknown[0]}={fields[unknown[0]]!r} is not understood")
    rules.check()
    return rules
