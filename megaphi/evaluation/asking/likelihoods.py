"""Log-likelihoods of continuations, by our engine or by a server that echoes a prompt with its log-probabilities.

Text becomes tokens as in lm-eval, so that results can be compared: white space at the end of the context belongs to the
continuation; the context is encoded alone, then both together, and the continuation is what the whole has beyond as
many tokens as the context. On our engine requests go in the order of their tokens, so that what they have in common is
computed once, and continuations of one token after one context (the letters of a choice) are a single request.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from megaphi.errors import AffectsAll, InputError
from megaphi.evaluation.task import LogLikelihood
from megaphi.generation.client.endpoint import EndpointSampler
from megaphi.generation.client.request_journal import RequestJournal, request_key
from megaphi.generation.decoding.interface import Request, Score
from megaphi.generation.local_sampler import LocalSampler
from megaphi.sampling import Sampler
from megaphi.tokenizer.interface import Tokenizer


class TokenPair(NamedTuple):
    """Tokens of a context, at least one, and of its continuation."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class LikelihoodScorer(Protocol):
    """Scores texts under one model."""

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[LogLikelihood | str]:
        """Score each (context, continuation), in order; the reason for one that cannot be scored. Raises RunFailed."""
        ...


def scorer_of(sampler: Sampler) -> LikelihoodScorer:
    """The scorer of the model that a sampler has open. Raises InputError for a sampler that knows no probabilities."""
    if isinstance(sampler, LocalSampler):
        return LocalScorer(sampler)
    if isinstance(sampler, EndpointSampler):
        return EndpointScorer(sampler)
    raise InputError(f"{sampler.name} tells no log-probabilities of given texts: name a checkpoint or a server")


def token_pair(context: str, continuation: str, tokenizer: Tokenizer) -> TokenPair:
    """Tokens of a pair of texts; an empty context is the token that begins or ends texts."""
    start = tuple(tokenizer.text_start)
    bare = context.rstrip()
    if not context:
        return TokenPair(start or (tokenizer.end_of_text,), tuple(tokenizer.encode(continuation)))
    before = (*start, *tokenizer.encode(bare))
    whole = (*start, *tokenizer.encode(context + continuation))
    return TokenPair(before or (tokenizer.end_of_text,), whole[len(before) :])


class LocalScorer:
    """Implements `LikelihoodScorer` on our engine. With the sampler's journal no pair is scored twice."""

    def __init__(self, sampler: LocalSampler) -> None:
        self._sampler = sampler
        self.context = sampler.service.context
        """Longest context and continuation together, in tokens, but for the last one, which is scored only."""

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[LogLikelihood | str]:
        """See `LikelihoodScorer`."""
        return self.score([token_pair(*pair, self._sampler.tokenizer) for pair in pairs])

    def score(self, pairs: Sequence[TokenPair]) -> list[LogLikelihood | str]:
        """Scores of pairs of tokens; equal pairs are scored once. `on_end` of the sampler is called for each pair."""
        found: dict[TokenPair, LogLikelihood | str] = {}
        for pair in dict.fromkeys(pairs):
            if (reason := _reason_against(pair, self.context)) is not None:
                found[pair] = reason
        groups = _grouped([pair for pair in dict.fromkeys(pairs) if pair not in found])
        known, asked = self._remembered(groups)
        found |= known
        times = Counter(pairs)
        self._tell(found, times)
        waiting = {str(number): group for number, group in enumerate(asked)}
        requests = (_request(name, group) for name, group in waiting.items())
        for name, completion in self._sampler.complete(requests):
            group = waiting[name]
            scores = _read(group, completion.scores)
            found |= dict(zip(group, scores, strict=True))
            if self._sampler.journal is not None:
                self._sampler.journal.add(self._key(group), [[one.total, one.is_greedy] for one in scores])
            self._tell(group, times)
        return [found[pair] for pair in pairs]

    def _tell(self, ended: Iterable[TokenPair], times: Mapping[TokenPair, int]) -> None:
        for _ in range(sum(times[pair] for pair in ended)):
            self._sampler.on_end()

    def _remembered(
        self, groups: list[tuple[TokenPair, ...]]
    ) -> tuple[dict[TokenPair, LogLikelihood], list[tuple[TokenPair, ...]]]:
        """Scores that the journal has, and the groups that are still to be scored."""
        journal, found, missing = self._sampler.journal, {}, []
        for group in groups:
            known = journal.get(self._key(group)) if journal is not None else None
            if known is None:
                missing.append(group)
            else:
                for pair, (total, is_greedy) in zip(group, known, strict=True):
                    found[pair] = LogLikelihood(total, len(pair.continuation), is_greedy)
        return found, missing

    def _key(self, group: tuple[TokenPair, ...]) -> str:
        asked = {"context": group[0].context, "scored": [pair.continuation for pair in group]}
        return request_key(self._sampler.identity, asked)


def _reason_against(pair: TokenPair, longest: int) -> str | None:
    """The reason for which a pair cannot be scored."""
    if not pair.continuation:
        return "the continuation has no token of its own"
    computed = len(pair.context) + len(pair.continuation) - 1
    if computed > longest:
        return f"{computed:,} tokens do not fit into the model's context of {longest:,}"
    return None


def _grouped(pairs: Sequence[TokenPair]) -> list[tuple[TokenPair, ...]]:
    """Pairs by request, in the order of their tokens: those of one context and one token each go together."""
    groups: dict[tuple[int, ...], list[TokenPair]] = defaultdict(list)
    for pair in pairs:
        groups[(*pair.context, *pair.continuation) if len(pair.continuation) > 1 else pair.context].append(pair)
    found = []
    for _, group in sorted(groups.items()):
        short = tuple(pair for pair in group if len(pair.continuation) == 1)
        found += [short] if short else []
        found += [(pair,) for pair in group if len(pair.continuation) > 1]
    return found


def _request(name: str, group: tuple[TokenPair, ...]) -> Request:
    first = group[0]
    candidates = tuple(pair.continuation[0] for pair in group) if len(group) > 1 else ()
    return Request(
        name=name, prompt=first.context + first.continuation, scored=len(first.continuation), candidates=candidates
    )


def _read(group: tuple[TokenPair, ...], scores: Sequence[Score]) -> list[LogLikelihood]:
    """Scores of the pairs of one request."""
    if len(group) > 1:
        (score,) = scores
        return [
            LogLikelihood(value, 1, pair.continuation[0] == score.top_token)
            for pair, value in zip(group, score.candidates, strict=True)
        ]
    [pair] = list(group)
    is_greedy = all(token == score.top_token for token, score in zip(pair.continuation, scores, strict=True))
    total = sum(score.log_probability for score in scores)
    return [LogLikelihood(total, len(pair.continuation), is_greedy)]


class EndpointScorer:
    """Implements `LikelihoodScorer` by echoes of a server, one request for each pair."""

    def __init__(self, sampler: EndpointSampler) -> None:
        self._sampler = sampler

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[LogLikelihood | str]:
        """See `LikelihoodScorer`. Raises InputError if the server tells no log-probabilities of prompts."""
        tokens = [token_pair(*pair, self._sampler.tokenizer) for pair in pairs]
        distinct = list(dict.fromkeys(tokens))
        with ThreadPoolExecutor(self._sampler.concurrency) as pool:
            found = dict(zip(distinct, pool.map(self._score, distinct), strict=True))
        if found and not any(isinstance(one, LogLikelihood) for one in found.values()):
            raise InputError(f"{self._sampler.name}: no text could be scored. {next(iter(found.values()))}")
        return [found[pair] for pair in tokens]

    def _score(self, pair: TokenPair) -> LogLikelihood | str:
        if not pair.continuation:
            return "the continuation has no token of its own"
        journal: RequestJournal | None = self._sampler.journal
        key = request_key(self._sampler.url, {"model": self._sampler.name, "echo": pair})
        known = journal.get(key) if journal is not None else None
        if known is None:
            try:
                echo = self._sampler.echoed(pair.context + pair.continuation)[-len(pair.continuation) :]
            except AffectsAll:
                raise
            except InputError as error:
                return str(error)
            known = [sum(token.log_probability for token in echo), all(token.is_top for token in echo)]
            if journal is not None:
                journal.add(key, known)
        self._sampler.on_end()
        total, is_greedy = known
        return LogLikelihood(total, len(pair.continuation), is_greedy)
