"""The HTTP application: OpenAI's completions, chats and models; health, metrics, and a chat page.

`create_app` makes an application for a `GenerationService`. A request is read up to a limit, checked and tokenized on
another thread (`request_body.py`), queued, and answered whole or as server-sent events. When a client disconnects, its
requests are cancelled. Bodies must be declared as JSON: a browser does not let a foreign site's page do that without a
preflight request, so such a page cannot use a server on this machine. `Serving.hosts` keeps out pages whose own host
name was pointed at this machine (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from megaphi.errors import InputError, RunFailed, did_you_mean
from megaphi.generation.decoding.interface import UndefinedLogits
from megaphi.generation.server.answer_deltas import AnswerDelta, answer_deltas, join_deltas
from megaphi.generation.server.chat_page import chat_page
from megaphi.generation.server.handlers import Serving, check_model, check_schema, make_plan
from megaphi.generation.server.metrics import CONTENT_TYPE, CountResponses, ServingMetrics
from megaphi.generation.server.openai_fields import LONGEST_ECHO, ApiError, Kind
from megaphi.generation.server.openai_responses import ResponseWriter, error_object, json_bytes
from megaphi.generation.server.request_body import BodyReader, client_gone
from megaphi.generation.text import fewest_tokens
from megaphi.generation.workers import TooManyWaiting

PATHS = ("/", "/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions")
RETRY_SECONDS = 1


def create_app(serving: Serving) -> FastAPI:
    """Make the application; its lifespan starts and closes the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(fewest_tokens, (), serving.tokenizer)  # it knows the tokens before the first request
        serving.service.start()
        yield
        bodies.close()
        await asyncio.to_thread(serving.service.close)

    app = FastAPI(title="megaphi", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    metrics = ServingMetrics(serving.service)
    bodies = BodyReader(largest_bytes=serving.largest_body_bytes)
    app.add_middleware(CountResponses, metrics=metrics, paths=PATHS)
    page, page_headers = chat_page()

    @app.get("/")
    async def chat() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=page_headers)

    @app.get("/health")
    async def health(request: Request) -> Response:
        _check_host(request, serving)
        return _health(serving)

    @app.get("/metrics")
    async def prometheus(request: Request) -> Response:
        _check_host(request, serving)
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        _admit(request, serving)
        return _json({"object": "list", "data": [_model(serving)]})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        _admit(request, serving)
        check_model(name, serving.model)
        return _json(_model(serving))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(request, "completion", serving, metrics, bodies)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _answer(request, "chat", serving, metrics, bodies)

    for kind in (ApiError, InputError, RunFailed, HTTPException, Exception):
        app.add_exception_handler(kind, _on_error)
    return app


def _health(serving: Serving) -> Response:
    """Readiness, for load balancers; like /metrics it needs no key, as in vLLM, and names neither model nor cause."""
    service = serving.service
    if service.is_closing:
        return _json({"status": "stopping"}, status=503)
    if service.failure is not None:
        return _json({"status": "failed"}, status=503)
    load = service.load()
    return _json({"status": "ok", "running": load.running, "waiting": load.waiting})


def _model(serving: Serving) -> dict[str, Any]:
    return {
        "id": serving.model,
        "object": "model",
        "created": serving.created,
        "owned_by": "megaphi",
        "max_model_len": serving.service.context,
    }


async def _answer(
    request: Request, kind: Kind, serving: Serving, metrics: ServingMetrics, bodies: BodyReader
) -> Response:
    """Answer a request for completions or a chat."""
    began = time.perf_counter()
    _admit(request, serving)
    identity = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}"
    api_request, plan = await bodies.plan(request, lambda body: make_plan(body, kind, serving, identity))
    schema = api_request.sampling.json_schema
    if schema is not None and not serving.constraints.knows(schema):
        await bodies.slowly(lambda: check_schema(schema, serving))
    client = request.client.host if request.client else ""
    submission = serving.service.submit(plan.requests, client=client)
    writer = ResponseWriter(
        api_request=api_request,
        plan=plan,
        tokenizer=serving.tokenizer,
        model=serving.model,
        identity=identity,
        created=int(time.time()),
    )
    deltas = metrics.watch(answer_deltas(submission, plan, serving.tokenizer), plan, began=began)
    if api_request.stream:
        return EventStream(_events(deltas, writer), submission.cancel)
    try:
        return _json(writer.whole(await _unless_gone(request, _whole_answers(deltas, writer))))
    finally:
        submission.cancel()


async def _whole_answers(deltas: AsyncIterator[AnswerDelta], writer: ResponseWriter) -> list[AnswerDelta]:
    answers: list[list[AnswerDelta]] = [[] for _ in writer.plan.choices]
    async for delta in deltas:
        answers[delta.index].append(delta)
    return [join_deltas(index, deltas) for index, deltas in enumerate(answers)]


async def _events(deltas: AsyncIterator[AnswerDelta], writer: ResponseWriter) -> AsyncIterator[bytes]:
    """Yield the chunks of a stream; after an error it ends with an error object instead of `[DONE]`."""
    answer_tokens = [0] * len(writer.plan.choices)
    begun: set[int] = set()
    try:
        for opening in writer.opening():
            yield _event(json_bytes(opening))
        async for delta in deltas:
            answer_tokens[delta.index] += 0 if delta.is_prompt else len(delta.tokens)
            chunk = writer.chunk(delta, is_first=delta.index not in begun)
            if chunk is not None:
                begun.add(delta.index)
                yield _event(json_bytes(chunk))
        if writer.api_request.include_usage:
            yield _event(json_bytes(writer.closing_usage(answer_tokens)))
        yield _event(b"[DONE]")
    except (InputError, RunFailed) as error:
        yield _event(json_bytes(error_object(as_api_error(error))))


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


class EventStream(StreamingResponse):
    """A response of server-sent events; `on_end` is called after the last one, or when the client disconnects."""

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._on_end = on_end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _unless_gone(request: Request, answer: Any) -> Any:
    """Await `answer`, or cancel it if the client disconnects before."""
    working = asyncio.ensure_future(answer)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise client_gone()
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _admit(request: Request, serving: Serving) -> None:
    """Check the key and the host name of a request. Raises ApiError."""
    _check_host(request, serving)
    api_key = serving.api_key
    if api_key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), api_key.encode()):
        raise ApiError(401, "this server needs its key: send Authorization: Bearer KEY", code="invalid_api_key")


def _check_host(request: Request, serving: Serving) -> None:
    if serving.hosts and _host_of(request) not in serving.hosts:
        raise ApiError(403, f"this server answers as {' or '.join(sorted(serving.hosts))} only")


def _host_of(request: Request) -> str | None:
    """The name in the Host header, without a port, in lower case."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:  # an invalid address in brackets
        return None


def as_api_error(error: Exception, *, path: str = "") -> ApiError:
    """Convert an exception to the error that a client gets."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TooManyWaiting):
        return ApiError(429, str(error), code="too_many_requests")
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    if isinstance(error, UndefinedLogits):
        return ApiError(500, str(error), code="undefined_logits")
    if isinstance(error, RunFailed):
        return ApiError(503, str(error))
    if isinstance(error, HTTPException) and error.status_code == 404:
        return ApiError(404, f"there is nothing at {path[:LONGEST_ECHO]!r}.{did_you_mean(path, PATHS)}")
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail))
    return ApiError(500, "an error inside the server: its log has the details")


async def _on_error(request: Request, error: Exception) -> Response:
    reported = as_api_error(error, path=request.url.path)
    headers = {}
    if reported.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    elif reported.status == 413:
        headers["Connection"] = "close"
    elif reported.status in (429, 503):
        headers["Retry-After"] = str(RETRY_SECONDS)
    return _json(error_object(reported), status=reported.status, headers=headers)


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status_code=status, media_type="application/json", headers=headers)
