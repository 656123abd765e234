"""Emulation of the part of torch.cuda that Megatron-Core uses, for hosts without a GPU.

Megatron calls torch.cuda from about 400 places and has no CPU mode. `install` makes those names stand for the CPU:
devices, streams, events, memory statistics, random state, old-style types, and factories called with device="cuda".
No Megatron module is patched. It runs just before the first import of megatron (megaphi/__init__.py sees to that), and
does nothing where a GPU exists.

Each patch and its reason (run with torch 2.13, megatron-core 0.16.1 and 0.19.2):
- `current_device()` returns a torch.device: it is passed as `device=` in 175 places;
- `manual_seed` seeds the default generator itself: `torch.manual_seed` would call `cuda.manual_seed_all` again;
- `Tensor.type()` says "torch.cuda.FloatTensor": Megatron's optimizer and gradient clipping compare these strings;
- streams and events do nothing: all work on the CPU is synchronous;
- the emulated factories are wrappers, so `torch.device` contexts are given the originals first;
- pinned memory is not requested: there is none without an accelerator;
- `torch.compile` leaves Megatron's functions as they are: it would call a C++ compiler in the middle of a step.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._device import _device_constructors

CPU = torch.device("cpu")

_CREATE = ("tensor", "as_tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "randint", "eye")
_CREATE_LIKE = ("linspace", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like")
_TYPES = ["Float", "Half", "BFloat16", "Double", "Int", "Long", "Byte", "Bool", "Short"]
_installed = False


def install() -> bool:
    """Emulate torch.cuda on the CPU; returns whether emulation is active."""
    global _installed
    # Megatron warns once per file and rank that Transformer Engine or Apex is missing; `megaphi doctor` reports it
    # once.
    warnings.filterwarnings("ignore", module=r"megatron\..*")
    # It also calls collectives by names that torch has deprecated.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
    if _installed or torch.cuda.is_available():
        return _installed
    if "megatron.core" in sys.modules:
        raise RuntimeError("cpu_emulation.install() must run before megatron.core is imported")
    _installed = True
    _emulate_devices()
    _emulate_streams()
    _emulate_random_state()
    _emulate_types()
    _place_on_cpu()
    _leave_megatron_uncompiled()
    return True


class Stream:
    """A stand-in for streams, which are all the same."""

    device = CPU
    cuda_stream = 0
    stream_id = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_stream(self, other: Any) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event


class Event:
    """A stand-in for events: a clock time."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._seconds = 0.0

    def record(self, stream: Any = None) -> None:
        self._seconds = time.perf_counter()

    def wait(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds."""
        return (end._seconds - self._seconds) * 1e3


class _DefaultGenerators:
    """Any index is the one CPU generator."""

    def __getitem__(self, index: int) -> torch.Generator:
        return torch.default_generator

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[torch.Generator]:
        return iter((torch.default_generator,))


class _DeviceProperties:
    name = gcnArchName = "CPU"  # torch's compiler puts the second into the key of its cache
    major = 0
    minor = 0
    multi_processor_count = os.cpu_count()

    @property
    def total_memory(self) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _set(target: Any, **names: Any) -> None:
    for name, value in names.items():
        setattr(target, name, value)


def _no_op() -> Callable[..., None]:
    """A new function each time: torch's compiler, once imported, keeps a table of functions and refuses a repeat."""
    return lambda *_, **__: None


def _emulate_devices() -> None:
    _set(
        torch.cuda,
        current_device=lambda: CPU,
        set_device=_no_op(),
        device_count=lambda: 1,
        synchronize=_no_op(),
        empty_cache=_no_op(),
        ipc_collect=_no_op(),
        get_device_properties=lambda device=None: _DeviceProperties(),
        get_device_capability=lambda device=None: (0, 0),
        get_device_name=lambda device=None: _DeviceProperties.name,
        memory_stats=lambda device=None: {},
        reset_peak_memory_stats=_no_op(),
        **{
            name: (lambda device=None: 0)
            for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved")
        },
    )


def _emulate_streams() -> None:
    the_stream = Stream()
    _set(
        torch.cuda,
        Stream=Stream,
        Event=Event,
        ExternalStream=Stream,
        current_stream=lambda device=None: the_stream,
        default_stream=lambda device=None: the_stream,
        set_stream=_no_op(),
        stream=lambda stream: contextlib.nullcontext(stream),
        is_current_stream_capturing=lambda: False,
    )
    _set(
        torch.cuda.nvtx,
        range_push=lambda message: 0,
        range_pop=lambda: 0,
        range=lambda *_, **__: contextlib.nullcontext(),
    )


def _emulate_random_state() -> None:
    def seed_default_generator(seed: int) -> None:
        torch.default_generator.manual_seed(int(seed))

    names = {
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "manual_seed": seed_default_generator,
    }
    _set(torch.cuda.random, **names)
    _set(
        torch.cuda,
        **names,
        _lazy_init=_no_op(),
        _lazy_call=lambda function, **_: function(),
        default_generators=_DefaultGenerators(),
        manual_seed_all=_no_op(),
        seed=_no_op(),
        seed_all=_no_op(),
        initial_seed=torch.initial_seed,
    )


def _emulate_types() -> None:
    for name in _TYPES:
        setattr(torch.cuda, f"{name}Tensor", getattr(torch, f"{name}Tensor"))
    original = torch.Tensor.type

    def type_of(self: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        answer = original(self, *arguments, **keywords)
        if not arguments and not keywords:
            return answer.replace("torch.", "torch.cuda.", 1)
        return answer

    torch.Tensor.type = type_of  # pyright: ignore[reportAttributeAccessIssue]


def _place_on_cpu() -> None:
    _set(
        torch.Tensor,
        cuda=lambda self, *_, **__: self,
        pin_memory=lambda self, *_, **__: self,
        to=_without_cuda(torch.Tensor.to),
    )
    torch.nn.Module.cuda = lambda self, device=None: self
    # `with torch.device("meta")` keeps a list of the factories, made at its first use: let it know the originals.
    _device_constructors()
    for name in (*_CREATE, *_CREATE_LIKE):
        setattr(torch, name, _without_cuda(getattr(torch, name)))


def _without_cuda(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `function` to replace every CUDA device among its arguments by the CPU."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if len(arguments) > 1 and _is_cuda(arguments[1]):
            arguments = (arguments[0], CPU, *arguments[2:])
        if _is_cuda(keywords.get("device")):
            keywords["device"] = CPU
        if "pin_memory" in keywords:
            keywords["pin_memory"] = False
        return function(*arguments, **keywords)

    return call


def _is_cuda(device: Any) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.startswith("cuda")


def _leave_megatron_uncompiled() -> None:
    """Megatron wraps functions in `torch.compile` while it is imported, which would call a C++ compiler in a step."""
    compile_function = torch.compile

    @functools.wraps(compile_function)
    def compile_others(model: Any = None, **keywords: Any) -> Any:
        if getattr(model, "__module__", "").startswith("megatron."):
            return model
        return compile_function(model, **keywords)

    torch.compile = compile_others  # pyright: ignore[reportAttributeAccessIssue]
