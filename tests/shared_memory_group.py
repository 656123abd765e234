"""Collectives through shared memory for the ranks of a test, which are processes of one machine.

A message of gloo's goes through several threads and a TCP connection: an all-reduce of four ranks switched thirty times
between them, and on two cores that was nine tenths of what the tests of layouts took. Here a rank writes into its slot,
meets the others at a barrier, and reads their slots: one barrier for a collective. The memory of a group is made at its
first use. Sums are taken in the order of the ranks.

The exchange takes place when a collective is called; `wait` writes what came of it. So a tensor that is used before it
was waited for has its old values always, not now and then as with gloo.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed import Backend, ProcessGroup, ReduceOp, Store, Work

SLOT = 1 << 18
"""Bytes that a rank hands over at one barrier; larger tensors take several."""
MESSAGE, MESSAGES = 1 << 16, 64
"""Bytes of a message from one rank to another, and how many may be sent before the first is received."""
PAGE = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def replace_gloo() -> None:
    """Let this process's jobs, and all their groups that do not name a backend, use shared memory."""
    join = distributed.init_process_group
    Backend.register_backend("shared_memory", SharedMemoryGroup, devices=["cpu"])

    @functools.wraps(join)
    def join_through_memory(backend: str, **keywords: Any) -> None:
        join("shared_memory" if backend == "gloo" else backend, **keywords)

    distributed.init_process_group = join_through_memory


class Delivery(Work):
    """Result of a collective or a message; `wait` writes it to its tensor."""

    def __init__(self, deliver: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self._deliver = deliver

    def wait(self, timeout: timedelta | None = None) -> bool:
        deliver, self._deliver = self._deliver, None
        if deliver is not None:
            deliver()
        return True

    def is_completed(self) -> bool:
        return self._deliver is None


class SharedMemoryGroup(ProcessGroup):
    """A process group as far as Megatron and the tests need one; everything else raises."""

    def __init__(self, store: Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._store = store
        self._expected: dict[int, deque[Tensor]] = defaultdict(deque)
        """By sender: what is yet to be received, in order."""

    @functools.cached_property
    def _memory(self) -> SharedMemory:
        return SharedMemory(self._store, self.rank(), self.size())

    def getBackendName(self) -> str:  # noqa: N802 (torch's)
        return "shared_memory"

    @property
    def group_name(self) -> str:
        return self._name

    def _set_group_name(self, name: str) -> None:
        self._name = name

    def barrier(self, opts: Any = None) -> Work:
        self._memory.meet()
        return Delivery()

    def allreduce(self, tensors: list[Tensor], opts: Any) -> Work:
        (tensor,) = tensors
        return Delivery(functools.partial(_write, tensor, _reduced(self._memory.exchange(tensor), opts.reduceOp)))

    def reduce(self, tensors: list[Tensor], opts: Any) -> Work:
        delivery = self.allreduce(tensors, opts)
        return delivery if self.rank() == opts.rootRank else Delivery()

    def broadcast(self, tensors: list[Tensor], opts: Any) -> Work:
        (tensor,) = tensors
        return Delivery(functools.partial(_write, tensor, self._memory.exchange(tensor)[opts.rootRank]))

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> Work:
        return Delivery(functools.partial(_write_all, outputs[0], self._memory.exchange(inputs[0])))

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> Work:
        found = self._memory.exchange(inputs[0])
        return Delivery(functools.partial(_write_all, outputs[0], found) if self.rank() == opts.rootRank else None)

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> Work:
        (output,) = outputs
        is_root = self.rank() == opts.rootRank
        all_parts = torch.stack(inputs[0]) if is_root else output.new_empty(self.size(), *output.shape)
        found = self._memory.exchange(all_parts)[opts.rootRank].view(all_parts.shape)[self.rank()]
        return Delivery(functools.partial(_write, output, found))

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> Work:
        return Delivery(functools.partial(_write, output, self._memory.exchange(input)))

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any) -> Work:
        mine = slice(self.rank() * output.numel(), (self.rank() + 1) * output.numel())
        found = self._memory.exchange(input)[:, mine]
        return Delivery(functools.partial(_write, output, _reduced(found, opts.reduceOp)))

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        return _together([self.all_gather_single(*pair) for pair in zip(outputs, inputs, strict=True)])

    def reduce_scatter_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any) -> Work:
        return _together([self.reduce_scatter_single(*pair, opts) for pair in zip(outputs, inputs, strict=True)])

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any) -> Work:
        return _together([self.allreduce([tensor], opts) for tensor in tensors])

    def send(self, tensors: list[Tensor], to: int, tag: int) -> Work:
        self._memory.channels[self.rank(), to].send(tensors[0])
        return Delivery()

    def recv(self, tensors: list[Tensor], source: int, tag: int) -> Work:
        (tensor,) = tensors
        self._expected[source].append(tensor)
        return Delivery(functools.partial(self._receive, source, tensor))

    def _receive(self, source: int, tensor: Tensor) -> None:
        """Receive what is expected up to this tensor: messages come in the order of their sends."""
        queue = self._expected[source]
        while any(expected is tensor for expected in queue):
            self._memory.channels[source, self.rank()].receive(queue.popleft())


def _together(deliveries: list[Work]) -> Work:
    return Delivery(lambda: [delivery.wait() for delivery in deliveries])


def _reduced(values_RN: Tensor, operation: Any) -> Tensor:
    """[ranks, N] to [N]."""
    rows = values_RN.unbind()
    for kind, reduce in ((ReduceOp.SUM, torch.add), (ReduceOp.MAX, torch.maximum), (ReduceOp.MIN, torch.minimum)):
        if operation == kind:
            return functools.reduce(reduce, rows)
    if operation == ReduceOp.AVG:
        return functools.reduce(torch.add, rows) / len(rows)
    raise NotImplementedError("a reduction other than sum, mean, largest and smallest through shared memory")


def _write(tensor: Tensor, values: Tensor) -> None:
    tensor.detach().copy_(values.reshape(tensor.shape))


def _write_all(tensors: list[Tensor], values_RN: Tensor) -> None:
    for tensor, values in zip(tensors, values_RN, strict=True):
        _write(tensor, values)


class SharedMemory:
    """A group's barrier, slots for all its ranks, twice, and a channel from every rank to every other.

    Who writes a slot again, two turns later, has met all that read it: so a turn needs one barrier.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._rank, self._turn = rank, 0
        first_channel = PAGE + 2 * size * SLOT
        bytes_of_channel = PAGE + MESSAGE * MESSAGES
        length = first_channel + size * size * bytes_of_channel
        file = os.memfd_create("test group") if rank == 0 else os.open(store.get("memory").decode(), os.O_RDWR)
        if rank == 0:
            os.ftruncate(file, length)
        everything = torch.frombuffer(mmap.mmap(file, length), dtype=torch.uint8)
        self._barrier = ctypes.c_void_p(everything.data_ptr())
        self._slots = everything[PAGE:first_channel].view(2, size, SLOT)
        channels = everything[first_channel:].view(size, size, bytes_of_channel)
        self.channels = {(one, other): Channel(channels[one, other]) for one in range(size) for other in range(size)}
        if rank == 0:
            self._make_barrier(size)
            for channel in self.channels.values():
                channel.make()
            store.set("memory", f"/proc/{os.getpid()}/fd/{file}")
        self.meet()
        os.close(file)

    def _make_barrier(self, size: int) -> None:
        attributes = ctypes.create_string_buffer(64)
        _libc.pthread_barrierattr_init(attributes)
        _libc.pthread_barrierattr_setpshared(attributes, 1)
        if _libc.pthread_barrier_init(self._barrier, attributes, size):
            raise OSError("no barrier that processes share")

    def meet(self) -> None:
        _libc.pthread_barrier_wait(self._barrier)

    def exchange(self, mine: Tensor) -> Tensor:
        """[N] elements, as many on every rank, to [ranks, N]."""
        mine = mine.detach().reshape(-1)
        if not mine.numel():
            self.meet()
            return mine.new_empty(self._slots.shape[1], 0)
        bytes_mine = mine.view(torch.uint8)
        parts = [self._exchanged(bytes_mine[start : start + SLOT]) for start in range(0, len(bytes_mine), SLOT)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).view(mine.dtype)

    def _exchanged(self, mine: Tensor) -> Tensor:
        slots = self._slots[self._turn % 2, :, : len(mine)]
        slots[self._rank] = mine
        self._turn += 1
        self.meet()
        return slots.clone()


class Channel:
    """Messages from one rank to another. Its memory: two semaphores (free and full places), then the places."""

    def __init__(self, memory: Tensor) -> None:
        self._free, self._full = (ctypes.c_void_p(memory.data_ptr() + start) for start in (0, 64))
        self._places = memory[PAGE:].view(MESSAGES, MESSAGE)
        self._next = 0

    def make(self) -> None:
        for semaphore, value in ((self._free, MESSAGES), (self._full, 0)):
            if _libc.sem_init(semaphore, 1, value):
                raise OSError("no semaphore that processes share")

    def send(self, tensor: Tensor) -> None:
        for part in _parts(tensor.detach().reshape(-1)):
            self._pass(self._free, self._full, lambda place, part=part: place.copy_(part), len(part))

    def receive(self, tensor: Tensor) -> None:
        whole = torch.empty(tensor.numel(), dtype=tensor.dtype)
        for part in _parts(whole):
            self._pass(self._full, self._free, part.copy_, len(part))
        _write(tensor, whole)

    def _pass(self, wanted: Any, given: Any, copy: Callable[[Tensor], Any], length: int) -> None:
        while _libc.sem_wait(wanted):
            if ctypes.get_errno() != errno.EINTR:  # a signal: Python's handler runs before the next attempt
                raise OSError(ctypes.get_errno(), "a semaphore")
        copy(self._places[self._next % MESSAGES, :length])
        self._next += 1
        _libc.sem_post(given)


def _parts(values: Tensor) -> tuple[Tensor, ...]:
    return values.view(torch.uint8).split(MESSAGE)
