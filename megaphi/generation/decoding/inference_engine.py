"""The engine of generation: one loop over Megatron's model with a cache of keys and values.

Each step is a pass over parts of many texts (schedule.py), then a choice of each one's next token (sampling.py) on the
last pipeline stage, which tells the others. All ranks of one copy of the model call `step` together and know the same.

Legend: T tokens of a pass, W wanted rows, V vocabulary, M blocks of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megaphi.engine.inference.forward_only import (
    ReadingModel,
    cache_bytes_per_token,
    from_last_stage,
    make_cache,
    pass_over_cache,
)
from megaphi.errors import InputError
from megaphi.generation.decoding.cache_blocks import BlockPool
from megaphi.generation.decoding.interface import News, Request, Score, Usage
from megaphi.generation.decoding.json_constraint import Constraint, Constraints
from megaphi.generation.decoding.scheduler import Part, Schedule, Text
from megaphi.generation.decoding.token_choice import NO_TOKEN, Choice, Row, choose
from megaphi.model.paged_cache import CachedPass, Piece
from megaphi.sampling import Sampling

BLOCK_SIZE = 16
CACHE_BYTES = 2 << 30
"""Default size of the cache on each rank."""


class Engine:
    """Continues and scores many texts at once; fulfils `Generator`.

    Args:
        rows: texts that run at once; others wait.
        cache_bytes: memory for keys and values on this rank; never more than `rows` whole contexts.
        pass_tokens: prompt tokens computed in one pass, so that a long prompt does not stop the others for long.
        scored_rows: tokens scored in one pass: each costs the logits of a whole vocabulary.
        constraints: for answers that are JSON of a schema, which needs a tokenizer; None refuses them.
    """

    def __init__(
        self,
        model: ReadingModel,
        *,
        rows: int = 32,
        cache_bytes: int = CACHE_BYTES,
        pass_tokens: int = 2_048,
        scored_rows: int = 256,
        constraints: Constraints | None = None,
    ) -> None:
        if rows < 1:
            raise InputError(f"a batch of {rows} texts: must be at least 1")
        self.model = model
        self.context, self.vocabulary = model.context, model.architecture.vocabulary
        whole = rows * -(-self.context // BLOCK_SIZE)
        blocks = min(whole, cache_bytes // (BLOCK_SIZE * cache_bytes_per_token(model)))
        if blocks < 2:
            raise InputError(f"a cache of {cache_bytes:,} bytes does not hold {2 * BLOCK_SIZE} tokens: give it more")
        self.schedule = Schedule(
            BlockPool(blocks, size=BLOCK_SIZE), rows=rows, pass_tokens=pass_tokens, scored_rows=scored_rows
        )
        self.cache = make_cache(model, blocks=blocks, block_size=BLOCK_SIZE)
        self.computed_tokens = 0
        self._constraints = constraints
        self._cancelled: list[News] = []
        self._names: set[str] = set()

    @property
    def is_idle(self) -> bool:
        return not (self.schedule.running or self.schedule.waiting or self._cancelled)

    @property
    def usage(self) -> Usage:
        pool = self.schedule.pool
        return Usage(
            cache_blocks=pool.count,
            cache_blocks_used=pool.count - pool.free,
            reused_tokens=self.schedule.reused_tokens,
            preemptions=self.schedule.put_back,
        )

    def add(self, request: Request) -> None:
        """Queue a request. Raises InputError for one that can never run."""
        if request.name in self._names:
            raise InputError(f"a request with the name {request.name!r} is running already")
        self.check(request)
        self._names.add(request.name)
        self.schedule.add(request)

    def cancel(self, name: str) -> None:
        """Drop a request; unknown names are passed over."""
        if self.schedule.remove(name) is not None:
            self._cancelled.append(News(name, finish="cancelled"))

    def step(self) -> list[News]:
        """Advance every running request by at most one token. Collective over this copy of the model."""
        news, self._cancelled = self._cancelled, []
        parts = self.schedule.next_pass()
        if parts:
            wanted = [part for part in parts if part.wanted]
            choice, scores = from_last_stage(self.model, self._compute(parts, wanted))
            news += self._take_over(wanted, choice, scores)
            self.computed_tokens += sum(part.end - part.start for part in parts)
        self._names -= {item.name for item in news if item.finish is not None}
        return news

    def check(self, request: Request) -> None:
        """Raises InputError for a request that can never run."""
        prompt = request.prompt
        if not prompt:
            raise InputError("the prompt is empty: give it at least one token")
        if min(prompt) < 0 or max(prompt) >= self.vocabulary:
            raise InputError(f"the prompt has token ids outside the model's vocabulary of {self.vocabulary}")
        self._check_rules(request.sampling)
        added = 0 if request.scored else request.sampling.max_tokens
        if not 0 <= request.scored < len(prompt):
            raise InputError(
                f"{request.scored} of {len(prompt)} tokens cannot be scored: the first has nothing before it"
            )
        if len(prompt) + added > self.context:
            raise InputError(
                f"{len(prompt)} tokens of prompt and {added} to add exceed the model's context of {self.context}: "
                "shorten one of them"
            )
        pool = self.schedule.pool
        if pool.needed(len(prompt) + added) > pool.count:
            raise InputError(
                f"{len(prompt)} tokens of prompt and {added} to add do not fit into a cache of "
                f"{pool.count * pool.size} tokens: shorten one of them, or give the cache more memory"
            )

    def _check_rules(self, rules: Sampling) -> None:
        rules.check()
        wrong = next((token for token, _ in rules.logit_bias if not 0 <= token < self.vocabulary), None)
        if wrong is not None:
            raise InputError(f"logit_bias names token id {wrong}: ids are 0 to {self.vocabulary - 1}")
        if rules.json_schema is not None:
            self._open_constraint(rules.json_schema)

    def _open_constraint(self, schema: str) -> Constraint:
        if self._constraints is None:
            raise InputError("json_schema needs an engine that was opened with `constraints`, for a tokenizer")
        return self._constraints.open(schema)

    def _compute(self, parts: list[Part], wanted: list[Part]) -> tuple[Choice, list[Score]] | None:
        """What the last stage finds out: a token for each text that is to go on, a score for each scored token."""
        tokens_T = [token for part in parts for token in part.text.tokens[part.start : part.end]]
        positions_T = [place for part in parts for place in range(part.start, part.end)]
        logits_WV = pass_over_cache(self.model, tokens_T, positions_T, self._layout_of(parts))
        if logits_WV is None:
            return None
        rows = [row for part in wanted for row in self._rows_of(part)]
        continued = [place for place, row in enumerate(rows) if isinstance(row, Row)]
        scored = [place for place, row in enumerate(rows) if isinstance(row, Given)]
        scores = score(logits_WV[scored], [row for row in rows if isinstance(row, Given)]) if scored else []
        chosen_WV = logits_WV if not scored else logits_WV[continued]
        return choose(chosen_WV, [row for row in rows if isinstance(row, Row)]), scores

    def _rows_of(self, part: Part) -> list[Row | Given]:
        """For each wanted place: how to choose the next token, or the token that is to be scored."""
        text, rules = part.text, part.text.request.sampling
        if text.request.scored:
            return [Given(text.tokens[place + 1], rules.alternatives) for place in part.wanted]
        if rules.json_schema is not None and text.constraint is None:
            text.constraint = self._open_constraint(rules.json_schema)
        allowed = text.constraint.allowed(text.answer, vocabulary=self.vocabulary) if text.constraint else None
        return [Row(rules, text.request.sample, text.request.prompt, text.answer, allowed)]

    def _layout_of(self, parts: list[Part]) -> CachedPass:
        """Where the tokens of a pass are, and what they see."""
        device, size = self.model.world.device, self.schedule.pool.size
        singles = [part for part in parts if part.end - part.start == 1]
        tables = np.zeros((len(singles), max((len(part.text.blocks) for part in singles), default=0)), dtype=np.int32)
        for row, part in zip(tables, singles, strict=True):
            row[: len(part.text.blocks)] = part.text.blocks
        slots, wanted, pieces, at = [], [], [], 0
        for part in parts:
            blocks, places = part.text.blocks, range(part.start, part.end)
            slots += [blocks[place // size] * size + place % size for place in places]
            wanted += [at + place - part.start for place in part.wanted]
            if len(places) > 1:
                before = torch.tensor(blocks[: self.schedule.pool.needed(part.start)], dtype=torch.int64, device=device)
                pieces.append(Piece(start=at, end=at + len(places), before=part.start, blocks=before))
            at += len(places)
        return CachedPass(
            cache=self.cache,
            slots_T=torch.tensor(slots, device=device),
            singles=len(singles),
            tables=torch.from_numpy(tables).to(device),
            lengths=torch.tensor([part.end for part in singles], dtype=torch.int32, device=device),
            pieces=pieces,
            wanted_W=torch.tensor(wanted, dtype=torch.int64, device=device),
        )

    def _take_over(self, wanted: list[Part], choice: Choice, scores: list[Score]) -> list[News]:
        news = []
        chosen = iter(zip(choice.tokens, choice.log_probabilities, choice.alternatives, strict=True))
        ready = iter(scores)
        for part in wanted:
            text = part.text
            if not text.request.scored:
                news.append(self._continue(text, *next(chosen)))
                continue
            text.scores += [next(ready) for _ in part.wanted]
            if len(text.scores) == text.request.scored:
                self.schedule.finish(text)
                news.append(News(text.request.name, finish="length", scores=tuple(text.scores)))
        return news

    def _continue(
        self, text: Text, token: int, log_probability: float, alternatives: tuple[tuple[int, float], ...]
    ) -> News:
        request = text.request
        if token == NO_TOKEN:  # the answer cannot go on as it must, and is not whole either
            self.schedule.finish(text)
            return News(request.name, finish="length")
        if token in request.stop_tokens:
            self.schedule.finish(text)
            return News(request.name, None, log_probability, alternatives, finish="stop", stop_token=token)
        self.schedule.append(text, token)
        is_last = len(text.tokens) - len(request.prompt) == request.sampling.max_tokens
        if is_last:
            self.schedule.finish(text)
        return News(request.name, token, log_probability, alternatives, finish="length" if is_last else None)


@dataclass(frozen=True, slots=True)
class Given:
    """A token that is to be scored, and how many of the likeliest are to be told beside it."""

    token: int
    alternatives: int = 0


def score(logits_WV: Tensor, given: Sequence[Given]) -> list[Score]:
    """What the model thinks of each given token."""
    log_probability_WV = logits_WV.log_softmax(-1)
    given_W1 = torch.tensor([one.token for one in given], device=logits_WV.device)[:, None]
    entropy_W = -(log_probability_WV.exp() * log_probability_WV).nansum(-1)
    columns = (log_probability_WV.gather(1, given_W1).squeeze(1), log_probability_WV.argmax(-1), entropy_W)
    best = log_probability_WV.topk(max(one.alternatives for one in given))
    listed = zip(best.indices.tolist(), best.values.tolist(), given, strict=True)
    alternatives = [tuple(zip(tokens, values, strict=True))[: one.alternatives] for tokens, values, one in listed]
    return [Score(*values) for values in zip(*(column.tolist() for column in columns), alternatives, strict=True)]
