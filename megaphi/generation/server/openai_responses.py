"""Responses in OpenAI's protocol: whole answers, and chunks of a stream.

The same four functions make the choices of whole answers and of chunks, because the two may differ only in the object
around them. With `return_token_ids` a choice also has the ids of its tokens and, where vLLM puts them, its prompt's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megaphi.generation.decoding.interface import Request
from megaphi.generation.server.answer_deltas import AnswerDelta, AnswerPlan, AnswerToken
from megaphi.generation.server.openai_fields import ApiError
from megaphi.generation.server.openai_requests import ApiRequest
from megaphi.tokenizer.interface import Tokenizer

SMALLEST_LOG_PROBABILITY = -9999.0  # vLLM's stand-in for minus infinity, which JSON cannot hold
ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def json_bytes(value: Any) -> bytes:
    """Encode JSON; a lone surrogate, which a client can send as an escape, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def error_object(error: ApiError) -> dict[str, Any]:
    default = "server_error" if error.status >= 500 else "invalid_request_error"
    kind = ERROR_TYPES.get(error.status, default)
    return {"error": {"message": error.message, "type": kind, "param": error.field, "code": error.code}}


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseWriter:
    """Writer of one response, whole or in chunks."""

    api_request: ApiRequest
    plan: AnswerPlan
    tokenizer: Tokenizer
    model: str
    identity: str
    created: int
    """Time of the response, in seconds since 1970."""

    @property
    def choices(self) -> Sequence[Request]:
        return self.plan.choices

    def whole(self, answers: Sequence[AnswerDelta]) -> dict[str, Any]:
        """The response of a request without `stream`."""
        is_chat = self.api_request.kind == "chat"
        choices = [self._chat_choice(answer) if is_chat else self._completion_choice(answer) for answer in answers]
        frame = self._frame("chat.completion" if is_chat else "text_completion", choices)
        if is_chat and self.api_request.token_ids:
            frame["prompt_token_ids"] = self.choices[0].prompt
        echoed = [len(choice.prompt) if self.plan.is_echo else 0 for choice in self.choices]
        counts = [len(answer.tokens) - before for answer, before in zip(answers, echoed, strict=True)]
        return {**frame, "usage": self.usage(counts)}

    def opening(self) -> list[dict[str, Any]]:
        """The first chunks of a stream: in chat, the role."""
        if self.api_request.kind == "completion":
            return []
        prompt = {"prompt_token_ids": self.choices[0].prompt} if self.api_request.token_ids else {}
        delta = {"role": "assistant", "content": ""}
        return [
            {**self._chunk_frame([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]), **prompt}
            for index in range(len(self.choices))
        ]

    def chunk(self, delta: AnswerDelta, *, is_first: bool) -> dict[str, Any] | None:
        """A chunk; None if it would be empty for the client."""
        shows_tokens = delta.tokens and (self.api_request.token_ids or self.api_request.log_probabilities)
        if not (delta.text or delta.finish or shows_tokens):
            return None
        if self.api_request.kind == "chat":
            choice = self._chat_choice(delta)
            message = choice.pop("message")
            choice["delta"] = {"content": message["content"]} if delta.text else {}
            return self._chunk_frame([choice])
        choice = self._completion_choice(delta)
        if not is_first:
            choice.pop("prompt_token_ids", None)
        return self._chunk_frame([choice])

    def closing_usage(self, answer_tokens: Sequence[int]) -> dict[str, Any]:
        """The additional last chunk, for `stream_options.include_usage`."""
        return {**self._chunk_frame([]), "usage": self.usage(answer_tokens)}

    def usage(self, answer_tokens: Sequence[int]) -> dict[str, int]:
        """Token counts; a prompt counts once, however many samples it has."""
        prompt = sum(len(request.prompt) for request in self.choices if request.sample == 0)
        answers = sum(answer_tokens)
        return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.identity,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _chunk_frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        frame = self._frame("chat.completion.chunk" if self.api_request.kind == "chat" else "text_completion", choices)
        return {**frame, "usage": None} if self.api_request.include_usage else frame

    def _completion_choice(self, delta: AnswerDelta) -> dict[str, Any]:
        choice = {
            "index": delta.index,
            "text": delta.text,
            "logprobs": self._columns(delta.tokens) if self.api_request.log_probabilities else None,
            "finish_reason": delta.finish,
        }
        if self.api_request.token_ids:
            choice["prompt_token_ids"] = self.choices[delta.index].prompt
            choice["token_ids"] = [token.id for token in delta.tokens]
        return choice

    def _chat_choice(self, delta: AnswerDelta) -> dict[str, Any]:
        content = [self._described(token) for token in delta.tokens]
        choice = {
            "index": delta.index,
            "message": {"role": "assistant", "content": delta.text, "refusal": None},
            "logprobs": {"content": content, "refusal": None} if self.api_request.log_probabilities else None,
            "finish_reason": delta.finish,
        }
        if self.api_request.token_ids:
            choice["token_ids"] = [token.id for token in delta.tokens]
        return choice

    def _columns(self, tokens: Sequence[AnswerToken]) -> dict[str, Any]:
        """Log-probabilities in the form of completions."""
        return {
            "tokens": [self._name(token.id) for token in tokens],
            "token_logprobs": [_finite(token.log_probability) for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens] if self.api_request.sampling.alternatives else None,
            "text_offset": [token.offset for token in tokens],
        }

    def _top(self, token: AnswerToken) -> dict[str, float | None] | None:
        """Alternatives by text; of several with the same text the most probable is kept."""
        if token.log_probability is None:
            return None
        top: dict[str, float | None] = {}
        for other, value in token.alternatives:
            top.setdefault(self._name(other), _finite(value))
        return top

    def _described(self, token: AnswerToken) -> dict[str, Any]:
        """Log-probabilities in the form of chats."""
        alternatives = [self._entry(other, value) for other, value in token.alternatives]
        return {**self._entry(token.id, token.log_probability), "top_logprobs": alternatives}

    def _entry(self, token: int, log_probability: float | None) -> dict[str, Any]:
        spelled = list(self.tokenizer.decode_bytes([token]))
        return {"token": self._name(token), "logprob": _finite(log_probability), "bytes": spelled}

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self.api_request.tokens_as_ids else self.tokenizer.decode([token])


def _finite(log_probability: float | None) -> float | None:
    return None if log_probability is None else max(log_probability, SMALLEST_LOG_PROBABILITY)
