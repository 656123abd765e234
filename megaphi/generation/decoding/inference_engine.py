"""The inference engine: continuous batching over Megatron's model with a paged key-value cache.

Each step is a pass over chunks of many sequences (`scheduler.py`), then the choice of each one's next token
(`token_choice.py`) on the last pipeline stage, which broadcasts it. A sequence with a draft (`drafts.py`) has one more
choice for every guess, and keeps them up to the first that is not what was guessed: each is the choice that it would
have had without a draft. All ranks of a replica call `step` together and hold the same state.

Legend: T tokens of a pass, W rows of logits, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from megaphi.engine.inference.decode_step import decode_step
from megaphi.engine.inference.forward_only import (
    InferenceModel,
    broadcast_from_last_stage,
    cache_bytes_per_token,
    make_cache,
    pass_over_cache,
)
from megaphi.errors import InputError
from megaphi.generation.decoding.cache_blocks import BlockPool
from megaphi.generation.decoding.cache_pass import cache_pass, decode_inputs, logit_rows
from megaphi.generation.decoding.drafts import Drafter, Speculation
from megaphi.generation.decoding.interface import Request, Score, StepOutput, Usage
from megaphi.generation.decoding.json_constraint import Constraint, Constraints
from megaphi.generation.decoding.sampling_law import Row, rows_of
from megaphi.generation.decoding.scheduler import ScheduledChunk, Scheduler, SequenceState
from megaphi.generation.decoding.scoring import TargetToken, score, target_token
from megaphi.generation.decoding.token_choice import NO_TOKEN, NOTHING_LEFT, UNDEFINED, Choice, choose
from megaphi.sampling import Finish, Sampling

BLOCK_SIZE = 16
CACHE_BYTES = 2 << 30
"""Default size of the cache on each rank."""


Chosen = tuple[int, float, tuple[tuple[int, float], ...]]
"""A token, its log-probability, and the alternatives to it."""


class InferenceEngine:
    """Continues and scores many sequences at once; implements `Generator`.

    Args:
        slots: sequences that run at once; others wait.
        cache_bytes: memory for keys and values on this rank; never more than `slots` whole contexts.
        prefill_tokens: prompt tokens computed in one pass, so that a long prompt does not delay the others for long.
        scored_tokens: tokens scored in one pass, and guessed ones; each needs the logits of the whole vocabulary.
        constraints: for answers that are JSON of a schema; None refuses requests for those.
        speculation: how requests that have a family are drafted; None drafts nothing.
        fixed_steps: decode in steps of fixed shape (`engine/inference/decode_step.py`); None: where there is a GPU.
    """

    def __init__(
        self,
        model: InferenceModel,
        *,
        slots: int = 32,
        cache_bytes: int = CACHE_BYTES,
        prefill_tokens: int = 2_048,
        scored_tokens: int = 256,
        constraints: Constraints | None = None,
        speculation: Speculation | None = Speculation(),  # noqa: B008 (frozen)
        fixed_steps: bool | None = None,
    ) -> None:
        if slots < 1:
            raise InputError(f"a batch of {slots} sequences: must be at least 1")
        self.model = model
        self.context, self.vocabulary = model.context, model.architecture.vocabulary
        self.slots = slots
        whole = slots * -(-self.context // BLOCK_SIZE)
        blocks = min(whole, cache_bytes // (BLOCK_SIZE * cache_bytes_per_token(model)))
        if blocks < 2:
            raise InputError(f"a cache of {cache_bytes:,} bytes does not hold {2 * BLOCK_SIZE} tokens: give it more")
        self.scheduler = Scheduler(
            BlockPool(blocks, size=BLOCK_SIZE),
            slots=slots,
            prefill_tokens=prefill_tokens,
            scored_tokens=scored_tokens,
            drafter=Drafter(speculation, device=model.world.device.type) if speculation else None,
        )
        self.cache = make_cache(model, blocks=blocks + 1, block_size=BLOCK_SIZE)  # the last one is for padding
        self._decode_step = decode_step(model, self.cache, largest=slots, fixed=fixed_steps)
        self.computed_tokens = 0
        self._constraints = constraints
        self._cancelled: list[StepOutput] = []
        self._starved: tuple[str, ...] = ()
        self._names: set[str] = set()

    @property
    def is_idle(self) -> bool:
        return not (self.scheduler.running or self.scheduler.waiting or self._cancelled)

    @property
    def usage(self) -> Usage:
        pool = self.scheduler.pool
        return Usage(
            cache_blocks=pool.count,
            cache_blocks_used=pool.count - pool.free,
            reused_tokens=self.scheduler.reused_tokens,
            preemptions=self.scheduler.preemptions,
            drafted_tokens=self.scheduler.drafted_tokens,
            accepted_tokens=self.scheduler.accepted_tokens,
            starved=self._starved,
        )

    def add(self, request: Request) -> None:
        """Queue a request. Raises InputError for one that can never run."""
        if request.name in self._names:
            raise InputError(f"a request with the name {request.name!r} is running already")
        self.check(request)
        self._names.add(request.name)
        self.scheduler.add(request)

    def cancel(self, name: str) -> None:
        """Cancel a request; unknown names are ignored."""
        if self.scheduler.remove(name) is not None:
            self._cancelled.append(StepOutput(name, finish="cancelled"))

    def suspend(self, name: str) -> None:
        """Let a request rest until `resume`; its blocks are kept in the cache until they are needed."""
        self.scheduler.suspend(name)

    def resume(self, name: str) -> None:
        self.scheduler.resume(name)

    def step(self) -> list[StepOutput]:
        """Advance every running request. Collective over the ranks of this replica."""
        outputs, self._cancelled = self._cancelled, []
        chunks = self.scheduler.next_pass()
        if chunks:
            sampled = [chunk for chunk in chunks if chunk.logit_positions]
            found = self._compute(chunks, sampled)
            choice, scores = broadcast_from_last_stage(self.model, found, tuple[Choice, list[Score]])
            outputs += self._apply(sampled, choice, scores)
            self.computed_tokens += sum(len(chunk.positions) for chunk in chunks)
        self._names -= {item.name for item in outputs if item.finish is not None}
        self._starved = tuple(sequence.request.name for sequence in self.scheduler.waiting)
        return outputs

    def check(self, request: Request) -> None:
        """Raises InputError for a request that can never run."""
        prompt = request.prompt
        if not prompt:
            raise InputError("the prompt is empty: give it at least one token")
        if min(prompt) < 0 or max(prompt) >= self.vocabulary:
            raise InputError(f"the prompt has token ids outside the model's vocabulary of {self.vocabulary}")
        self._check_rules(request.sampling)
        for name, tokens in (("excluded_first", request.excluded_first), ("candidates", request.candidates)):
            wrong = next((token for token in tokens if not 0 <= token < self.vocabulary), None)
            if wrong is not None:
                raise InputError(f"{name} names token id {wrong}: ids are 0 to {self.vocabulary - 1}")
        if request.scored and request.excluded_first:
            raise InputError("excluded_first is for answers: a request that is only scored has no first token to draw")
        if request.candidates and not request.scored:
            raise InputError("candidates are for requests that are scored: an answer has `alternatives`")
        added = 0 if request.scored else request.sampling.max_tokens
        computed = len(prompt) - 1 if request.scored else len(prompt) + added
        if not 0 <= request.scored < len(prompt):
            raise InputError(
                f"{request.scored} of {len(prompt)} tokens cannot be scored: the first has nothing before it"
            )
        if computed > self.context:
            raise InputError(
                f"{len(prompt)} tokens of prompt and {added} to add exceed the model's context of {self.context}: "
                "shorten one of them"
            )
        pool = self.scheduler.pool
        if pool.needed(computed) > pool.count:
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

    def _compute(
        self, chunks: list[ScheduledChunk], sampled: list[ScheduledChunk]
    ) -> tuple[Choice, list[Score]] | None:
        """On the last stage: tokens for each sequence that is continued, and the scores of target tokens."""
        logits_WV = self._logits(chunks)
        if logits_WV is None:
            return None
        rows = [row for chunk in sampled for row in self._rows_of(chunk)]
        continued = [number for number, row in enumerate(rows) if isinstance(row, Row)]
        scored = [number for number, row in enumerate(rows) if isinstance(row, TargetToken)]
        targets = [row for row in rows if isinstance(row, TargetToken)]
        scores = score(rows_of(logits_WV, scored), targets) if scored else []
        return choose(rows_of(logits_WV, continued), [row for row in rows if isinstance(row, Row)]), scores

    def _logits(self, chunks: list[ScheduledChunk]) -> Tensor | None:
        """On the last stage: fp32 logits [W, V] of the positions that need them."""
        size, copies, device = self.scheduler.pool.size, self.scheduler.copies, self.model.world.device
        tokens_T = [token for chunk in chunks for token in chunk.tokens]
        decodes_only = not copies and not any(chunk.is_prefill for chunk in chunks)
        if self._decode_step is not None and decodes_only and self._decode_step.takes(len(tokens_T)):
            logits_TV = self._decode_step(decode_inputs(chunks, block_size=size))
            return rows_of(logits_TV, logit_rows(chunks))
        return pass_over_cache(
            self.model, tokens_T, cache_pass(chunks, copies, self.cache, block_size=size, device=device)
        )

    def _rows_of(self, chunk: ScheduledChunk) -> list[Row | TargetToken]:
        """For each row of logits of a chunk: how to choose the next token, or the target token to score."""
        sequence, rules = chunk.sequence, chunk.sequence.request.sampling
        request = sequence.request
        if request.scored:
            return [target_token(request, position + 1) for position in chunk.logit_positions]
        if rules.json_schema is not None and sequence.constraint is None:
            sequence.constraint = self._open_constraint(rules.json_schema)
        allowed = (
            sequence.constraint.allowed(sequence.answer, vocabulary=self.vocabulary) if sequence.constraint else None
        )
        answers = [[*sequence.answer, *chunk.draft[:guessed]] for guessed in range(len(chunk.draft) + 1)]
        return [
            Row(
                rules,
                request.sample,
                request.prompt,
                answer,
                allowed,
                frozenset() if answer else request.excluded_first,
            )
            for answer in answers
        ]

    def _apply(self, sampled: list[ScheduledChunk], choice: Choice, scores: list[Score]) -> list[StepOutput]:
        outputs = []
        chosen = iter(zip(choice.tokens, choice.log_probabilities, choice.alternatives, strict=True))
        ready = iter(scores)
        for chunk in sampled:
            sequence = chunk.sequence
            if not sequence.request.scored:
                outputs += self._keep(chunk, [next(chosen) for _ in range(len(chunk.draft) + 1)])
                continue
            sequence.scores += [next(ready) for _ in chunk.logit_positions]
            if len(sequence.scores) == sequence.request.scored:
                self.scheduler.finish(sequence)
                is_defined = not any(math.isnan(one.log_probability) for one in sequence.scores)
                finish: Finish = "length" if is_defined else "undefined"
                outputs.append(StepOutput(sequence.request.name, finish=finish, scores=tuple(sequence.scores)))
        return outputs

    def _keep(self, chunk: ScheduledChunk, chosen: Sequence[Chosen]) -> list[StepOutput]:
        """Continue a sequence by the choice after its last token, and by those after guesses that it makes true."""
        outputs = []
        for place, choice in enumerate(chosen):
            if place:
                self.scheduler.accept_draft(chunk.sequence)
            output = self._continue(chunk.sequence, *choice)
            outputs.append(output)
            if output.finish is not None or (output.token,) != chunk.draft[place : place + 1]:
                break
        return outputs

    def _continue(
        self, sequence: SequenceState, token: int, log_probability: float, alternatives: tuple[tuple[int, float], ...]
    ) -> StepOutput:
        request = sequence.request
        if token == NO_TOKEN:  # the grammar allows no token, and the answer is not complete
            self.scheduler.finish(sequence)
            return StepOutput(request.name, finish="length")
        if token in (NOTHING_LEFT, UNDEFINED):
            self.scheduler.finish(sequence)
            return StepOutput(request.name, finish="excluded" if token == NOTHING_LEFT else "undefined")
        self.scheduler.observe(sequence, token)
        if token in request.stop_tokens:
            self.scheduler.finish(sequence)
            return StepOutput(request.name, None, log_probability, alternatives, finish="stop", stop_token=token)
        self.scheduler.append(sequence, token)
        is_last = len(sequence.tokens) - len(request.prompt) == request.sampling.max_tokens
        if is_last:
            self.scheduler.finish(sequence)
        return StepOutput(request.name, token, log_probability, alternatives, finish="length" if is_last else None)
