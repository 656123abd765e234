"""What the server's handlers share, and how they make of a request's body what the engine is asked for.

A body becomes an `Order` (`openai_requests.py`), which knows the protocol; here it meets the model: its name, its
tokenizer, its context, its vocabulary, and how much may wait at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from megaphi.errors import InputError
from megaphi.generation.decoding.interface import Request
from megaphi.generation.decoding.json_constraint import Constraints
from megaphi.generation.server.answer_deltas import Plan
from megaphi.generation.server.openai_fields import ApiError, Kind
from megaphi.generation.server.openai_requests import Order, read_order
from megaphi.generation.server.workers import GenerationService
from megaphi.generation.text import render_prompt
from megaphi.tokenizer.interface import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What the handlers of one application share."""

    service: GenerationService
    tokenizer: Tokenizer
    constraints: Constraints
    """For the same tokenizer."""
    model: str
    """The name that requests may give; another one is a 404."""
    api_key: str | None = None
    """What `Authorization: Bearer …` must say; None lets everybody in."""
    hosts: frozenset[str] = frozenset()
    """Names that requests may have in their Host header; empty: any."""
    largest_body_bytes: int = 8 * 2**20
    created: int = 0
    """When the model was opened, in seconds since 1970."""


def make_plan(body: bytes, kind: Kind, serving: Serving, identity: str) -> tuple[Order, Plan]:
    """Check a body and make the engine's requests of it. Raises ApiError."""
    context, service = serving.service.context, serving.service
    order = read_order(body, kind, context=context)
    if order.model is not None:
        check_model(order.model, serving.model)
    _check_rules(order, serving)
    field = "messages" if kind == "chat" else "prompt"
    count = len(order.prompts) * order.samples
    if count > service.max_waiting:
        message = f"{count} answers at once are more than this server's limit of {service.max_waiting}"
        raise ApiError(400, message, field=field)
    choices: list[Request] = []
    for number, prompt in enumerate(order.prompts, start=1):
        ids = render_prompt(prompt, serving.tokenizer)
        _check_prompt(ids, number, field, serving, room=1 if order.continues else 0)
        rules = replace(order.sampling, max_tokens=max(1, min(order.sampling.max_tokens, context - len(ids))))
        stops = order.stop_tokens | (frozenset() if order.ignores_end else serving.tokenizer.stop_tokens)
        one = Request(name=identity, prompt=ids, sampling=rules, stop_tokens=stops)
        choices += [replace(one, sample=sample) for sample in range(order.samples)]
    plan = Plan(choices=tuple(choices), is_echo=order.echo, continues=order.continues)
    return order, _with_scores(plan) if order.echo and order.log_probabilities else plan


def _with_scores(plan: Plan) -> Plan:
    """Clients that score texts (lm-eval) count on one token more than those of the prompt, also where it ends all."""
    prompts = {choice.prompt: choice for choice in plan.choices if len(choice.prompt) > 1}
    scored = tuple(replace(choice, scored=len(prompt) - 1, sample=0) for prompt, choice in prompts.items())
    return replace(plan, scored=scored, tells_stop_token=True)


def _check_rules(order: Order, serving: Serving) -> None:
    """What of the rules depends on the model's vocabulary. Raises ApiError."""
    named = {"logit_bias": [token for token, _ in order.sampling.logit_bias], "stop_token_ids": order.stop_tokens}
    for field, tokens in named.items():
        wrong = next((token for token in tokens if not 0 <= token < serving.service.vocabulary), None)
        if wrong is not None:
            last = serving.service.vocabulary - 1
            raise ApiError(400, f"{field} names token id {wrong}: ids are 0 to {last}", field=field)
    if order.sampling.json_schema is not None:
        try:
            serving.constraints.check(order.sampling.json_schema)
        except InputError as error:
            raise ApiError(400, f"response_format: {error}", field="response_format") from None


def _check_prompt(ids: tuple[int, ...], number: int, field: str, serving: Serving, *, room: int) -> None:
    context, vocabulary = serving.service.context, serving.service.vocabulary
    which = f"{field}: prompt {number}" if field == "prompt" else "messages: the conversation"
    if not ids:
        raise ApiError(400, f"{which} is empty: give it at least one token", field=field)
    if len(ids) + room > context:
        too = " must hold an answer too" if room else " is all that there is"
        message = f"{which} has {len(ids)} tokens, and the model's context of {context}{too}"
        raise ApiError(400, message, field=field, code="context_length_exceeded")
    wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise ApiError(400, f"{which} holds token id {wrong}: ids are 0 to {vocabulary - 1}", field=field)


def check_model(name: str, served: str) -> None:
    if name != served:
        message = f"there is no model {name!r} here: this server has {served!r}"
        raise ApiError(404, message, field="model", code="model_not_found")
