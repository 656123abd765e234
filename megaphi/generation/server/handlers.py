"""State shared by the server's handlers, and the translation of an API request to requests for the inference engine.

`openai_requests.py` parses a body as an `ApiRequest` of the protocol; here it is checked against the model (name,
tokenizer, context, vocabulary) and the limit of waiting requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from megaphi.conversation import Conversation
from megaphi.errors import InputError
from megaphi.generation.decoding.interface import Request
from megaphi.generation.decoding.json_constraint import Constraints
from megaphi.generation.server.answer_deltas import AnswerPlan
from megaphi.generation.server.openai_fields import ApiError, Kind
from megaphi.generation.server.openai_requests import ApiRequest, read_request
from megaphi.generation.text import fewest_tokens, render_prompt
from megaphi.generation.workers import GenerationService
from megaphi.sampling import Prompt
from megaphi.tokenizer.interface import Tokenizer

MOST_REPORTED = 2**20
"""Log-probabilities in one response, alternatives included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """State shared by the handlers of one application."""

    service: GenerationService
    tokenizer: Tokenizer
    constraints: Constraints
    """Constraints to JSON, for the same tokenizer."""
    model: str
    """The model's name; a request that names another gets a 404."""
    api_key: str | None = None
    """Key expected in `Authorization: Bearer …`; None lets everybody in."""
    hosts: frozenset[str] = frozenset()
    """Names accepted in the Host header; empty: any."""
    largest_body_bytes: int = 8 * 2**20
    created: int = 0
    """Time at which the model was opened, in seconds since 1970."""


def make_plan(body: bytes, kind: Kind, serving: Serving, identity: str) -> tuple[ApiRequest, AnswerPlan]:
    """Check a body and plan its requests to the inference engine. Raises ApiError."""
    context, service = serving.service.context, serving.service
    api_request = read_request(body, kind, context=context)
    if api_request.model is not None:
        check_model(api_request.model, serving.model)
    _check_rules(api_request, serving)
    field = "messages" if kind == "chat" else "prompt"
    count = len(api_request.prompts) * api_request.samples
    if count > service.max_waiting:
        message = f"{count} answers at once are more than this server's limit of {service.max_waiting}"
        raise ApiError(400, message, field=field)
    for number, prompt in enumerate(api_request.prompts, start=1):
        _check_bytes(prompt, number, field, serving)
    choices: list[Request] = []
    for number, prompt in enumerate(api_request.prompts, start=1):
        ids = render_prompt(prompt, serving.tokenizer)
        _check_prompt(ids, number, field, serving, room=1 if api_request.continues else 0)
        most = min(api_request.sampling.max_tokens, context - len(ids))
        rules = replace(api_request.sampling, max_tokens=max(1, most))
        stops = api_request.stop_tokens | (frozenset() if api_request.ignores_end else serving.tokenizer.stop_tokens)
        one = Request(name=identity, prompt=ids, sampling=rules, stop_tokens=stops)
        choices += [replace(one, sample=sample) for sample in range(api_request.samples)]
    _check_reported(choices, api_request)
    plan = AnswerPlan(choices=tuple(choices), is_echo=api_request.echo, continues=api_request.continues)
    return api_request, _with_scores(plan) if api_request.echo and api_request.log_probabilities else plan


def _with_scores(plan: AnswerPlan) -> AnswerPlan:
    """Score the prompts too, and report a token that ends an answer.

    Clients that score texts (lm-eval) expect one token after those of the prompt, even if it ends the answer.
    """
    prompts = {choice.prompt: choice for choice in plan.choices if len(choice.prompt) > 1}
    scored = tuple(replace(choice, scored=len(prompt) - 1, sample=0) for prompt, choice in prompts.items())
    return replace(plan, scored=scored, reports_stop_token=True)


def _check_rules(api_request: ApiRequest, serving: Serving) -> None:
    """Check the rules that depend on the model's vocabulary. Raises ApiError."""
    biased = [token for token, _ in api_request.sampling.logit_bias]
    named = {"logit_bias": biased, "stop_token_ids": api_request.stop_tokens}
    for field, tokens in named.items():
        wrong = next((token for token in tokens if not 0 <= token < serving.service.vocabulary), None)
        if wrong is not None:
            last = serving.service.vocabulary - 1
            raise ApiError(400, f"{field} names token id {wrong}: ids are 0 to {last}", field=field)


def check_schema(schema: str, serving: Serving) -> None:
    """Compile a schema. Raises ApiError for one that answers cannot be made to keep to."""
    try:
        serving.constraints.check(schema)
    except InputError as error:
        raise ApiError(400, f"response_format: {error}", field="response_format") from None


def _check_bytes(prompt: Prompt, number: int, field: str, serving: Serving) -> None:
    """Refuse, before it is encoded, a text whose bytes are more than the context's tokens can stand for."""
    texts = [message.content for message in prompt.messages] if isinstance(prompt, Conversation) else [prompt]
    fewest = fewest_tokens([text for text in texts if isinstance(text, str)], serving.tokenizer)
    if fewest > serving.service.context:
        message = f"{_which(number, field)} has at least {fewest} tokens, and the model's context of"
        message = f"{message} {serving.service.context} is all that there is"
        raise ApiError(400, message, field=field, code="context_length_exceeded")


def _check_reported(choices: list[Request], api_request: ApiRequest) -> None:
    """Bound the log-probabilities of one response, which are all in memory at a time."""
    if not api_request.log_probabilities:
        return
    tokens = sum(one.sampling.max_tokens + (len(one.prompt) if api_request.echo else 0) for one in choices)
    if (count := tokens * (1 + api_request.sampling.alternatives)) > MOST_REPORTED:
        message = f"logprobs: up to {count} log-probabilities, and this server reports {MOST_REPORTED} in one answer"
        raise ApiError(400, f"{message}: lower max_tokens, n or the number of alternatives", field="logprobs")


def _which(number: int, field: str) -> str:
    return f"{field}: prompt {number}" if field == "prompt" else "messages: the conversation"


def _check_prompt(ids: tuple[int, ...], number: int, field: str, serving: Serving, *, room: int) -> None:
    context, vocabulary = serving.service.context, serving.service.vocabulary
    which = _which(number, field)
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
