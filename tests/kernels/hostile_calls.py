"""Calls of the C++ bindings with arguments that make no sense, each in a forked process with limits of time and memory.

    python -m tests.kernels.hostile_calls    prints a JSON object: name of the call -> what became of it

A call becomes "returned", the name of the exception that it raised, "signal N", or "hung".
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from megaphi.compiled.module import compiled

_C: Any = compiled()
ZERO = np.zeros(1, np.int64)
SECONDS = 5
BYTES = 2 << 30

Call = Callable[[], object]


def order_calls() -> dict[str, Call]:
    tree = _C.Blend.tree(~0, [], 1, 100)
    shared_nodes = [(~0, ~1, 0), *((index, index, 0) for index in range(60))]
    half = (2, bytes(8), b"\1" + bytes(7))
    return {
        "order of no blend": lambda: _C.Order(None, [(1, 64, 8, 0, 0)], 8),
        "order that no constructor made": lambda: _C.Order.__new__(_C.Order).locate(ZERO),
        "limit of no blend": lambda: _C.Blend.limit.fget(None),
        "order of another class": lambda: _C.Order(_C.NumpyShuffle(1), [(1, 64, 8, 0, 0)], 8),
        "tree whose nodes are shared": lambda: _C.Blend.tree(60, shared_nodes, 2, 100).counts(100),
        "tree with a source twice": lambda: _C.Blend.tree(0, [(~0, ~0, 0)], 2, 100).counts(100),
        "tree of sources below zero": lambda: _C.Blend.tree(-1, [], -(2**63), 100),
        "tree of 2^62 sources": lambda: _C.Blend.tree(-1, [], 2**62, 100).counts(1),
        "table of 2^30 slots": lambda: _C.Blend.table([half, half], 1 << 30, True),
        "table of an improper fraction": lambda: _C.Blend.table([(1, b"\xff" * 8, half[2])], 8, True),
        "table of a fraction over nothing": lambda: _C.Blend.table([(1, bytes(8), bytes(8))], 8, True),
        "sample beyond the blend": lambda: tree.locate(ZERO + 100),
        "samples as fractions": lambda: tree.locate(np.zeros(1)),
        "runs of rows of three bytes": lambda: _C.NumpyShuffle(1)(np.zeros((4, 3), np.uint8)),
        "read-only rows": lambda: _C.NumpyShuffle(1)(np.broadcast_to(np.int64(1), (4,))),
    }


def megatron_order_calls() -> dict[str, Call]:
    lengths, documents, pointers = np.full(4, 10, np.int32), np.arange(4), np.arange(4) * 40

    def starts(length: int) -> Call:
        out = np.zeros((3, 2), np.int64)
        return lambda: _C.megatron_sample_starts(lengths, documents, sequence_length=length, out=out)

    def runs(start: list[int], tokens: int = 4, token_bytes: int = 4) -> Call:
        return lambda: _C.megatron_runs(lengths, pointers, token_bytes, documents, np.array([start]), tokens)

    return {
        "sequences of 2^63 tokens": starts(2**63 - 1),
        "sequences of no tokens": starts(0),
        "start before the documents": runs([-1, 0]),
        "start before a document": runs([0, -(2**63)]),
        "rows of 2^62 tokens": runs([0, 0], tokens=2**62),
        "tokens of no bytes": runs([0, 0], token_bytes=0),
    }


def reader_calls() -> dict[str, Call]:
    fours, swapped = np.arange(4), np.arange(4, dtype=">i8")

    def tokens(**changes: object) -> Call:
        arguments = {"files": ZERO, "codes": ZERO + 4, "row": ZERO, "file": ZERO, "offset": ZERO, "count": ZERO + 1}
        shape = {"rows": 1, "columns": 1, "vocabulary": 10}
        return lambda: _C.gather_tokens(**(arguments | shape | changes))

    def documents(table: object, **changes: object) -> Call:
        arguments = {"row": ZERO, "file": ZERO, "start": ZERO, "count": ZERO + 1, "rows": 1, "columns": 1}
        return lambda: _C.document_ids([table], **(arguments | changes))

    return {
        "rows of no columns": tokens(rows=1 << 61, columns=0, row=ZERO + (1 << 60), count=ZERO),
        "rows of 2^61": tokens(rows=1 << 61, columns=1, row=ZERO + (1 << 60)),
        "rows that overflow": tokens(rows=1 << 33, columns=1 << 33),
        "file as a fraction": tokens(file=np.array([0.5])),
        "codes as texts": tokens(codes=["a"]),
        "a descriptor of 33 bits": tokens(files=ZERO + (1 << 32)),
        "counts that overflow": tokens(count=ZERO + (1 << 62), columns=1 << 62),
        "ids in rows of no columns": documents((fours, fours, 4, 1), rows=1 << 61, columns=0, row=ZERO + (1 << 60)),
        "index of lists": documents(([0, 1, 2], [0, 1, 2], 12, 4)),
        "index of swapped bytes": documents((swapped, swapped, 12, 4)),
        "index of a token of no bytes": documents((fours, fours, 12, 0)),
        "index of -1 bytes": documents((fours, fours, -1, 1)),
        "pointers of swapped bytes": lambda: _C.find_sequences(swapped, 4, ZERO),
        "offset before the data": lambda: _C.find_sequences(fours, 4, ZERO - 1),
    }


def text_calls() -> dict[str, Call]:
    words = _C.Characters(lambda page: (bytes(256), {}), str)
    return {
        "parents that are none": lambda: _C.point_to_roots(np.array([1, 10**12])),
        "parents below zero": lambda: _C.point_to_roots(np.array([-5])),
        "parents in a circle": lambda: _C.point_to_roots(np.array([1, 0])),
        "links into wrong parents": lambda: _C.link_members(np.array([10**12, 1]), ZERO, ZERO + 1),
        "link to nobody": lambda: _C.link_members(np.arange(4), ZERO + 9, ZERO),
        "signature of 2^20 places": lambda: words.sign("a", words=1, out=np.zeros(1 << 20, np.uint32)),
        "page that is no text": lambda: _C.Characters(lambda page: (bytes(256), {200: (7, b"")}), str).spelled("È"),
        "page that is short": lambda: _C.Characters(lambda page: (b"", {}), str).spelled("È"),
        "run of no words": lambda: words.smallest_runs("a b", 0, 4),
    }


def operator_calls() -> dict[str, Call]:
    import torch

    from megaphi.kernels import cross_entropy, loading, paged_attention, rms_norm, rotary, softmax, swiglu

    modules = (cross_entropy, paged_attention, rms_norm, rotary, softmax, swiglu)
    assert all(modules)
    assert loading.is_compiled("rotary", torch.zeros(1))
    operators = torch.ops.megaphi
    x, table, labels = torch.zeros(2, 1, 1, 3, 8), torch.zeros(4, 4), torch.zeros(2, dtype=torch.int64)
    positions = torch.tensor([[10**9], [0]])
    rows, wide = torch.zeros(2, 4), torch.zeros(2, 8)
    query, cache = torch.zeros(1, 2, 8), torch.zeros(3, 4, 1, 8)
    blocks, lengths = torch.zeros(1, 2, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    totals, grads = torch.zeros(2, 2), torch.zeros(2)
    return {
        "positions of 10^9": lambda: operators.rotary(x, table, table, positions, 0, 2, False),
        "positions of -1": lambda: operators.rotary(x, table, table, positions * 0 - 1, 0, 2, False),
        "positions of 10^9 in place": lambda: operators.rotary_(x.clone(), table, table, positions, 0, 2, False),
        "offset of 2^63 - 1": lambda: operators.rotary(x, table, table, None, 2**63 - 1, 2, False),
        "offset of -1": lambda: operators.rotary(x, table, table, None, -1, 2, False),
        "more heads than a group": lambda: operators.rotary(x, table, table, None, 0, 4, False),
        "odd heads": lambda: operators.rotary(x[..., :7], table, table, None, 0, 2, False),
        "norm of a number": lambda: operators.rms_norm(torch.tensor(1.0), torch.ones(1), 1e-5),
        "norm of a wrong weight": lambda: operators.rms_norm(rows, torch.ones(5), 1e-5),
        "norm of integers": lambda: operators.rms_norm(labels[None], labels, 1e-5),
        "norm backward of a short rstd": lambda: operators.rms_norm_backward(
            rows, None, rows, torch.ones(4), torch.ones(1)
        ),
        "softmax of three dimensions": lambda: operators.causal_softmax(torch.zeros(1, 2, 2), 1.0),
        "softmax of fewer keys": lambda: operators.causal_softmax(torch.zeros(1, 1, 4, 2), 1.0),
        "mask that does not fit": lambda: operators.masked_softmax(
            torch.zeros(1, 1, 2, 2), torch.zeros(3, 1, 2, 2, dtype=torch.bool), 1.0
        ),
        "block beyond the cache": lambda: operators.paged_attention(query, cache, cache, blocks + 3, lengths, 1.0),
        "block below zero": lambda: operators.paged_attention(query, cache, cache, blocks - 1, lengths, 1.0),
        "length beyond the table": lambda: operators.paged_attention(query, cache, cache, blocks, lengths * 9, 1.0),
        "length of nothing": lambda: operators.paged_attention(query, cache, cache, blocks, lengths * 0, 1.0),
        "lengths of int64": lambda: operators.paged_attention(query, cache, cache, blocks, lengths.long(), 1.0),
        "odd width": lambda: operators.swiglu(torch.zeros(2, 7)),
        "swiglu of a number": lambda: operators.swiglu(torch.tensor(1.0)),
        "gradient of another shape": lambda: operators.swiglu_backward(rows, rows),
        "labels of int32": lambda: operators.cross_entropy_statistics(wide, labels.int(), 0),
        "vocabulary from 2^63 - 1": lambda: operators.cross_entropy_statistics(wide, labels, 2**63 - 1),
        "vocabulary from -2^63": lambda: operators.cross_entropy_statistics(wide, labels, -(2**63)),
        "totals of one column": lambda: operators.cross_entropy_backward(
            wide, labels, totals[:, :1], grads, 0, -100, 0.0
        ),
        "in place of a slice": lambda: operators.cross_entropy_backward_(
            wide[:, ::2], labels, totals, grads, 0, -100, 0.0
        ),
        "sparse rows": lambda: operators.swiglu(rows.to_sparse()),
        "complex rows": lambda: operators.swiglu(rows.to(torch.complex64)),
    }


def outcome_of(call: Call) -> str:
    """Run it in a forked process."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        try:
            call()
            said = "returned"
        except BaseException as error:
            said = type(error).__name__
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return "hung" if os.WTERMSIG(status) == signal.SIGALRM else f"signal {os.WTERMSIG(status)}"
    return said


if __name__ == "__main__":
    index_calls = (order_calls, megatron_order_calls, reader_calls, text_calls)
    chosen = {"index": index_calls, "operators": (operator_calls,)}[sys.argv[1]]
    calls = {name: call for group in chosen for name, call in group().items()}
    print(json.dumps({name: outcome_of(call) for name, call in calls.items()}))
