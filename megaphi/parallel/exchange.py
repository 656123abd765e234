"""Collectives for small messages: `messages.py` as bytes in tensors, where torch's object collectives send pickles.

A pickle runs what it names, so one stranger among the ranks would own every host. On NCCL the tensors are on this
rank's GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from megaphi.parallel.messages import decoded, encoded

LARGEST_BYTES = 1 << 31


def gathered(message: Any, kind: Any, *, group: Any = None) -> list[Any]:
    """The messages of all ranks of the group, in order, on each of them. Collective; `kind`: type of each."""
    content = _tensor_of(encoded(message), group)
    sizes = [torch.zeros_like(_size(content)) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(sizes, _size(content), group=group)
    lengths = [_checked(size) for size in sizes]
    padded = content.new_zeros(max(lengths))
    padded[: len(content)] = content
    contents = [torch.empty_like(padded) for _ in lengths]
    distributed.all_gather(contents, padded, group=group)
    return [decoded(_bytes_of(one[:length]), kind) for one, length in zip(contents, lengths, strict=True)]


def broadcast(message: Any, kind: Any, *, source: int = 0, group: Any = None) -> Any:
    """The message of rank `source` (a rank of the world) on every rank of the group. Collective."""
    is_source = distributed.get_rank() == source
    content = _tensor_of(encoded(message) if is_source else b"", group)
    size = _size(content)
    distributed.broadcast(size, src=source, group=group)
    if not is_source:
        content = content.new_empty(_checked(size))
    distributed.broadcast(content, src=source, group=group)
    return decoded(_bytes_of(content), kind)


def send(message: Any, *, to: int, group: Any = None) -> None:
    """Send a message to a rank of the world, which waits for it in `receive`."""
    content = _tensor_of(encoded(message), group)
    distributed.send(_size(content), to, group=group)
    distributed.send(content, to, group=group)


def receive(kind: Any, *, source: int, group: Any = None) -> Any:
    """Wait for the message of a rank of the world."""
    content = _tensor_of(b"", group)
    size = _size(content)
    distributed.recv(size, source, group=group)
    content = content.new_empty(_checked(size))
    distributed.recv(content, source, group=group)
    return decoded(_bytes_of(content), kind)


def _tensor_of(content: bytes, group: Any) -> Tensor:
    on_gpu = distributed.get_backend(group) == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return (
        torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
        if content
        else torch.empty(0, dtype=torch.uint8, device=device)
    )


def _size(content: Tensor) -> Tensor:
    return torch.tensor([len(content)], dtype=torch.int64, device=content.device)


def _checked(size: Tensor) -> int:
    length = int(size.item())
    if not 0 < length <= LARGEST_BYTES:
        raise RuntimeError(f"a message of another rank has {length} bytes")
    return length


def _bytes_of(content: Tensor) -> bytes:
    return content.cpu().numpy().tobytes()
