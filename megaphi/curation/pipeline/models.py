"""Models that steps ask for by name: a server's, as http://HOST:PORT/v1=MODEL, or a checkpoint that our engine runs.

Each is opened once in a process, whichever steps use it. A server answers many processes at once and is the way to use
one GPU, or a model that needs several, from all of them. A checkpoint is loaded in every process that works, by itself
on one device; of several in one process there can be no two.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from megaphi.config import FilePath
from megaphi.errors import InputError
from megaphi.sampling import Sampler


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOpener:
    """Settings of all models of a run; called with the name of one."""

    concurrency: int = 16
    """Requests at a time to a server, of each process."""
    timeout_seconds: float = 600.0
    """Silence after which a server is asked again."""
    api_keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """(host, key) for servers that need one."""
    tokenizer: FilePath = ""
    """For a model that came without one."""
    batch: int = 64
    """Sequences that a checkpoint answers together."""

    def __call__(self, name: str) -> Sampler:
        """The sampler of this name. Raises InputError if it cannot be opened."""
        return _opened(self, name)


@functools.cache
def _opened(settings: ModelOpener, name: str) -> Sampler:
    if not name.startswith(("http://", "https://")):
        return _checkpoint(settings, name)
    url, separator, model = name.partition("=")
    if not separator or not model:
        raise InputError(f"{name}: which model of that server? Write {url}=MODEL")
    from megaphi.generation.client.endpoint import EndpointSampler
    from megaphi.generation.client.http_exchange import RetryPolicy
    from megaphi.tokenizer.open_tokenizer import PHI4, open_path

    address, keys = urlsplit(url), dict(settings.api_keys)
    return EndpointSampler(
        url,
        model,
        tokenizer=open_path(settings.tokenizer or PHI4, vocabulary=None),
        api_key=keys.get(address.netloc.lower()) or keys.get((address.hostname or "").lower()),
        concurrency=settings.concurrency,
        patience=RetryPolicy(timeout_seconds=settings.timeout_seconds),
    )


_checkpoints: list[str] = []
"""The checkpoint that this process has loaded."""


def _checkpoint(settings: ModelOpener, path: str) -> Any:
    import json

    from megaphi.checkpoint.model_tokenizer import text_tokenizer_of
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.inference.forward_only import open_model
    from megaphi.engine.start.same_run import weights_facts
    from megaphi.generation.decoding.driver import drive
    from megaphi.generation.decoding.inference_engine import InferenceEngine
    from megaphi.generation.decoding.json_constraint import Constraints
    from megaphi.generation.local_sampler import LocalSampler
    from megaphi.parallel.rendezvous.place import detect

    if detect().world_size > 1:
        raise InputError(f"{path}: workers that a launcher started use models of servers: start megaphi serve {path}")
    if _checkpoints:
        raise InputError(f"{path}: {_checkpoints[0]} is loaded already, and a process holds one: serve one of them")
    reader = open_weights(path)
    tokenizer = text_tokenizer_of(reader, path=settings.tokenizer or None)
    engine = InferenceEngine(open_model(reader), slots=settings.batch, constraints=Constraints(tokenizer))
    _checkpoints.append(path)
    facts = {**weights_facts(reader), "tokenizer": tokenizer.fingerprint}
    return LocalSampler(
        drive(engine), tokenizer, name=path, identity=json.dumps(facts, sort_keys=True), at_once=2 * settings.batch
    )
