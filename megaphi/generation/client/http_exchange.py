"""One JSON request to a server, retried with exponential backoff until there is an answer.

Status 429 and 5xx, failed or broken connections, and answers that are not JSON are retried. The waits double, with a
random part so that many clients do not retry at once, and are never shorter than Retry-After. Any other status is
final. Only the standard library is used.
"""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from megaphi.errors import AffectsAll, InputError, RunFailed
from megaphi.json_text import parse_json

LONGEST_MESSAGE = 500
ABOUT_ONE_REQUEST = (400, 413, 422)
"""Statuses of a request that is refused for what is in it; any other one would meet the next request as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Limits of the retries of a request."""

    attempts: int = 6
    timeout_seconds: float = 600.0
    """Timeout of connecting, and of each read after it."""
    first_wait_seconds: float = 0.5
    """Wait before the second attempt; it doubles with each further one."""
    longest_wait_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class _Unsuccessful:
    reason: str
    retry_after_seconds: float = 0.0


def post_json(
    url: str,
    body: Any,
    *,
    headers: Mapping[str, str],
    patience: RetryPolicy,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """The parsed answer to a POST.

    Raises:
        InputError: the server refuses the request (any status but 2xx, 429 and 5xx), or the address is invalid;
            `AffectsAll` if it would refuse others too, as for a key or a model's name.
        RunFailed: the last attempt failed; the message says how.
    """
    data = json.dumps(body).encode()
    wait = patience.first_wait_seconds
    for attempt in range(1, patience.attempts + 1):
        answer = _attempt(url, data, headers, patience.timeout_seconds)
        if not isinstance(answer, _Unsuccessful):
            return answer
        if attempt < patience.attempts:
            asked_for = min(answer.retry_after_seconds, patience.longest_wait_seconds)
            sleep(max(asked_for, wait * random.uniform(0.5, 1.0)))
            wait = min(2 * wait, patience.longest_wait_seconds)
            continue
        raise RunFailed(f"{url}: given up after {attempt} attempts: {answer.reason}")
    raise RunFailed(f"{url}: no attempt was allowed")


def _attempt(url: str, data: bytes, headers: Mapping[str, str], timeout_seconds: float) -> Any:
    """Make one attempt; returns the answer, or the reason to retry."""
    target = urlsplit(url)
    connection = connect(url, timeout_seconds=timeout_seconds)
    try:
        connection.request("POST", target.path, data, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        return _Unsuccessful(f"{type(error).__name__}: {error}")
    finally:
        connection.close()
    if response.status == 429 or response.status >= 500:
        return _Unsuccessful(
            f"status {response.status}: {message_of(content)}", _retry_after(response.getheader("Retry-After"))
        )
    if not 200 <= response.status < 300:
        kind = InputError if response.status in ABOUT_ONE_REQUEST else AffectsAll
        raise kind(f"{url}: status {response.status}: {message_of(content)}")
    try:
        return parse_json(content)
    except ValueError:
        return _Unsuccessful(f"the answer is not JSON: {message_of(content)}")


def connect(url: str, *, timeout_seconds: float) -> http.client.HTTPConnection:
    """Make a connection, without opening it. Raises InputError for an address that is not http or https."""
    target = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        if not target.hostname:
            raise ValueError
        return kinds[target.scheme](target.hostname, target.port, timeout=timeout_seconds)
    except (KeyError, ValueError, http.client.InvalidURL):
        raise InputError(f"{url!r} is not the address of a server: expected http://HOST:PORT/v1 or https://…") from None


def message_of(content: bytes) -> str:
    """The message in an error's body, in OpenAI's form or any other."""
    try:
        return str(parse_json(content)["error"]["message"])[:LONGEST_MESSAGE]
    except (ValueError, TypeError, KeyError):
        return content.decode(errors="replace").strip()[:LONGEST_MESSAGE]


def _retry_after(header: str | None) -> float:
    """Seconds of Retry-After, which holds a number or a date."""
    if header is None:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
