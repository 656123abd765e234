"""Samplers on a command line: a model that our engine runs, or a server's model as `http://HOST:PORT/v1=MODEL`.

A verb may name several. Servers are asked at any time. Models are opened one after the other, in every process of the
layout: only rank 0 runs the verb, the others follow the model that is open, and are told which one comes next. What a
verb does with one sampler should therefore be together: a model is read again each time that it is opened.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from megaphi.cli.engine_options import (
    OpenedEngine,
    add_layout_arguments,
    add_replicas,
    on_every_rank,
    open_engine,
    stay_for_the_last_step,
)
from megaphi.cli.job_end import end_of_job
from megaphi.config import user_path
from megaphi.errors import InputError
from megaphi.foreign.key_file import read_key

if TYPE_CHECKING:
    from megaphi.generation.client.endpoint import EndpointSampler
    from megaphi.generation.client.request_journal import RequestJournal
    from megaphi.generation.local_sampler import LocalSampler
    from megaphi.tokenizer.interface import Tokenizer

SAMPLER_HELP = "a checkpoint, run folder or Hugging Face folder, or a server's model: http://HOST:PORT/v1=MODEL"


class SamplerPlace(NamedTuple):
    """A sampler as a command line names it."""

    path: str
    """Path of a model; empty for a server."""
    url: str = ""
    model: str = ""
    """The name of the server's model."""

    @property
    def is_endpoint(self) -> bool:
        return bool(self.url)

    def __str__(self) -> str:
        return f"{self.url}={self.model}" if self.url else self.path


def sampler_place(text: str, *, option: str) -> SamplerPlace:
    """Raises InputError for an address without a model, or with one that is none."""
    if not text.startswith(("http://", "https://")):
        if not text:
            raise InputError(f"{option}: the name of a sampler is empty: give {SAMPLER_HELP}")
        return SamplerPlace(text)
    from megaphi.generation.client.http_exchange import connect

    url, separator, model = text.partition("=")
    if not separator or not model:
        raise InputError(f"{option} {text}: which model of that server? Write {url}=MODEL")
    connect(url, timeout_seconds=1.0)
    return SamplerPlace("", url.rstrip("/"), model)


def add_sampler_arguments(parser: argparse.ArgumentParser, *, batch: int = 64) -> None:
    """Options of all samplers that the verb names."""
    add_layout_arguments(parser, batch=batch)
    add_replicas(parser)
    add_server_arguments(parser)


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of samplers that are servers; `server_keys` checks them."""
    parser.add_argument(
        "--concurrency", type=int, default=16, metavar="N", help="requests at a time to a server (default 16)"
    )
    parser.add_argument(
        "--timeout-seconds",
        type=float,
        default=600.0,
        metavar="N",
        help="a server that is silent for longer is asked again, at most 5 times (default 600)",
    )
    parser.add_argument(
        "--api-key-file",
        action="append",
        default=[],
        type=user_path,
        metavar="HOST=FILE",
        help="a file whose one line is the key for that server, as in api.example.org=key.txt; for each that needs one",
    )


def with_samplers(
    arguments: argparse.Namespace, places: Sequence[SamplerPlace], work: Callable[[OpenSamplers], int]
) -> int:
    """Run `work` on the first rank, with samplers that it opens by itself; returns the exit code.

    `places`: all that it may open, in the order in which it does.
    """
    keys = server_keys(arguments)
    models = [place.path for place in places if not place.is_endpoint]
    if models:
        return on_every_rank(arguments, lambda arguments: _on_rank(arguments, models, keys, work), checkpoints=models)
    _refuse_ranks(arguments)
    from megaphi.log import set_up_logging

    set_up_logging()
    with OpenSamplers(arguments, None, keys) as samplers:
        return work(samplers)


def server_keys(arguments: argparse.Namespace) -> dict[str, str]:
    """Host to its key. Raises InputError for an option of `add_server_arguments` that makes no sense."""
    if arguments.concurrency < 1:
        raise InputError(f"--concurrency {arguments.concurrency}: must be at least 1")
    if not 0 < arguments.timeout_seconds < float("inf"):
        raise InputError(f"--timeout-seconds {arguments.timeout_seconds}: must be above 0")
    return _api_keys(arguments)


def _refuse_ranks(arguments: argparse.Namespace) -> None:
    from megaphi.parallel.rendezvous.place import detect

    for name in ("tensor", "pipeline", "replicas"):
        if getattr(arguments, name) != 1:
            raise InputError(
                f"--{name} {getattr(arguments, name)}: only servers are named, which need no ranks of ours"
            )
    if detect().world_size > 1:
        raise InputError(f"{detect().world_size} processes, and only servers are named: start one")


def _api_keys(arguments: argparse.Namespace) -> dict[str, str]:
    """Host to its key."""
    keys = {}
    for text in arguments.api_key_file:
        host, separator, path = text.partition("=")
        if not separator or not host or not path:
            raise InputError(f"--api-key-file {text}: write HOST=FILE, as in api.example.org=key.txt")
        keys[host.lower()] = read_key(user_path(path), option="--api-key-file")
    return keys


def _on_rank(
    arguments: argparse.Namespace, models: Sequence[str], keys: dict[str, str], work: Callable[[OpenSamplers], int]
) -> int:
    """Rank 0 works; every other one follows the model that is open, until it is told that there is no other."""
    from megaphi.generation.decoding.driver import follow

    stay_for_the_last_step()
    opened = open_engine(models[0], arguments)
    if opened.engine.model.world.is_main:
        with OpenSamplers(arguments, (models[0], opened), keys) as samplers:
            return work(samplers)
    while True:
        follow(opened.engine)
        path = _told_by_rank_0("")
        if not path:
            return 0
        del opened
        opened = open_engine(path, arguments)


def _told_by_rank_0(path: str) -> str:
    """The model to open next; empty if there is none. Collective over all ranks."""
    import torch.distributed as distributed

    from megaphi.parallel.exchange import broadcast

    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return path
    return broadcast(path, str)


class OpenSamplers:
    """Opens samplers, on rank 0. One model is open at a time; asking for it again gives it as it is."""

    def __init__(
        self, arguments: argparse.Namespace, first: tuple[str, OpenedEngine] | None, keys: dict[str, str]
    ) -> None:
        """`first`: the model that every rank has open already."""
        self._arguments, self._keys = arguments, keys
        self._path = ""
        self._engine: OpenedEngine | None = None
        self._generators: list = []
        self._sampler: LocalSampler | None = None
        if first is not None:
            self._start(*first)

    def __enter__(self) -> OpenSamplers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        with suppress(RuntimeError):  # another rank is lost: the heartbeat says so
            _told_by_rank_0("")

    def open(
        self,
        place: SamplerPlace,
        *,
        journal: RequestJournal | None = None,
        on_end: Callable[[], object] = lambda: None,
    ) -> LocalSampler | EndpointSampler:
        """A sampler that calls `on_end` after each answer, and keeps answers in the journal.

        The sampler of a model lasts until another model is opened.
        """
        if place.is_endpoint:
            return self._endpoint(place, journal, on_end)
        if place.path != self._path:
            self._stop()
            _told_by_rank_0(place.path)
            self._start(place.path, open_engine(place.path, self._arguments))
        return self._local(place, journal, on_end)

    def _endpoint(
        self, place: SamplerPlace, journal: RequestJournal | None, on_end: Callable[[], object]
    ) -> EndpointSampler:
        from urllib.parse import urlsplit

        from megaphi.generation.client.endpoint import EndpointSampler
        from megaphi.generation.client.http_exchange import RetryPolicy

        address = urlsplit(place.url)
        key = self._keys.get(address.netloc.lower()) or self._keys.get((address.hostname or "").lower())
        return EndpointSampler(
            place.url,
            place.model,
            tokenizer=self._tokenizer_of_servers(),
            api_key=key,
            concurrency=self._arguments.concurrency,
            patience=RetryPolicy(timeout_seconds=self._arguments.timeout_seconds),
            journal=journal,
            on_end=on_end,
        )

    def _tokenizer_of_servers(self) -> Tokenizer:
        from megaphi.tokenizer.open_tokenizer import PHI4, open_path

        return open_path(self._arguments.tokenizer or PHI4, vocabulary=None)

    def _local(self, place: SamplerPlace, journal: RequestJournal | None, on_end: Callable[[], object]) -> LocalSampler:
        import json

        from megaphi.engine.start.same_run import weights_facts
        from megaphi.generation.local_sampler import LocalSampler

        assert self._engine is not None
        if self._sampler is not None:
            self._sampler.close()
        facts = {**weights_facts(self._engine.reader), "tokenizer": self._engine.tokenizer.fingerprint}
        self._sampler = LocalSampler(
            self._generators,
            self._engine.tokenizer,
            name=place.path,
            identity=json.dumps(facts, sort_keys=True),
            journal=journal,
            at_once=2 * self._arguments.batch,
            on_end=on_end,
            on_failure=end_of_job(),
        )
        return self._sampler

    def _start(self, path: str, opened: OpenedEngine) -> None:
        from megaphi.generation.decoding.driver import drive

        self._path, self._engine, self._generators = path, opened, list(drive(opened.engine))

    def _stop(self) -> None:
        """Let the other ranks go on, and give the model's memory back."""
        if self._engine is None:
            return
        import gc

        import torch

        if self._sampler is not None:
            self._sampler.close()
        for generator in self._generators:
            if hasattr(generator, "close"):  # an engine of one rank has nobody to tell
                generator.close()
        self._path, self._engine, self._sampler, self._generators = "", None, None, []
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
