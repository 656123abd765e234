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

import numpy as np

SECONDS = 5
BYTES = 2 << 30

Call = Callable[[], object]


def index_calls() -> dict[str, Call]:
    from megaphi import _C

    grid = (1, 64, 8, 0, 0)
    tree = _C.Blend.tree(~0, [], 1, 100)
    one = np.zeros(1, np.int64)
    parents = np.arange(4)
    shared_nodes = [(~0, ~1, 0), *((index, index, 0) for index in range(60))]
    shares = (2, b"\0" * 8, b"\1" + b"\0" * 7)
    words = _C.Characters(lambda page: (bytes(256), {}), str)
    swapped = np.arange(4, dtype=">i8")

    def runs(**changes: object) -> Call:
        arguments = {"files": one, "codes": one + 4, "row": one, "file": one, "offset": one, "count": one + 1}
        shape = {"rows": 1, "columns": 1, "vocabulary": 10}
        return lambda: _C.gather_tokens(**(arguments | shape | changes))

    def documents(table: object, **changes: object) -> Call:
        arguments = {"row": one, "file": one, "start": one, "count": one + 1, "rows": 1, "columns": 1}
        return lambda: _C.document_ids([table], **(arguments | changes))

    def starts(length: int) -> Call:
        out = np.zeros((3, 2), np.int64)
        return lambda: _C.megatron_sample_starts(
            np.full(4, 10, np.int32), np.arange(4), sequence_length=length, out=out
        )

    def megatron_runs(start: list[list[int]], tokens: int = 4, token_bytes: int = 4) -> Call:
        lengths, pointers = np.full(4, 10, np.int32), np.arange(4) * 40
        return lambda: _C.megatron_runs(lengths, pointers, token_bytes, np.arange(4), np.array(start), tokens)

    return {
        "order of no blend": lambda: _C.Order(None, [grid], 8),
        "order of another class": lambda: _C.Order(words, [grid], 8),
        "tree whose nodes are shared": lambda: _C.Blend.tree(60, shared_nodes, 2, 100).counts(100),
        "tree with a source twice": lambda: _C.Blend.tree(0, [(~0, ~0, 0)], 2, 100).counts(100),
        "tree of sources below zero": lambda: _C.Blend.tree(-1, [], -(2**63), 100),
        "tree of 2^62 sources": lambda: _C.Blend.tree(-1, [], 2**62, 100).counts(1),
        "table of 2^30 slots": lambda: _C.Blend.table([shares, shares], 1 << 30, True),
        "table of an improper fraction": lambda: _C.Blend.table([(1, b"\xff" * 8, b"\1" + b"\0" * 7)], 8, True),
        "table of a fraction over nothing": lambda: _C.Blend.table([(1, b"\0" * 8, b"\0" * 8)], 8, True),
        "sample beyond the blend": lambda: tree.locate(one + 100),
        "samples as fractions": lambda: tree.locate(np.zeros(1)),
        "rows of no columns": runs(rows=1 << 61, columns=0, row=one + (1 << 60), count=one),
        "rows of 2^61": runs(rows=1 << 61, columns=1, row=one + (1 << 60)),
        "rows that overflow": runs(rows=1 << 33, columns=1 << 33),
        "file as a fraction": runs(file=np.array([0.5])),
        "codes as texts": runs(codes=["a"]),
        "a descriptor of 33 bits": runs(files=one + (1 << 32)),
        "counts that overflow": runs(count=one + (1 << 62), columns=1 << 62),
        "ids in rows of no columns": documents((parents, parents, 4, 1), rows=1 << 61, columns=0, row=one + (1 << 60)),
        "index of lists": documents(([0, 1, 2], [0, 1, 2], 12, 4)),
        "index of swapped bytes": documents((swapped, swapped, 12, 4)),
        "index of a token of no bytes": documents((parents, parents, 12, 0)),
        "index of -1 bytes": documents((parents, parents, -1, 1)),
        "pointers of swapped bytes": lambda: _C.find_sequences(swapped, 4, one),
        "offset before the data": lambda: _C.find_sequences(parents, 4, one - 1),
        "sequences of 2^63 tokens": starts(2**63 - 1),
        "sequences of no tokens": starts(0),
        "start before the documents": megatron_runs([[-1, 0]]),
        "start before a document": megatron_runs([[0, -(2**63)]]),
        "tokens of no bytes": megatron_runs([[0, 0]], token_bytes=0),
        "parents that are none": lambda: _C.point_to_roots(np.array([1, 10**12])),
        "parents below zero": lambda: _C.point_to_roots(np.array([-5])),
        "parents in a circle": lambda: _C.point_to_roots(np.array([1, 0])),
        "links into wrong parents": lambda: _C.link_members(np.array([10**12, 1]), one, one + 1),
        "link to nobody": lambda: _C.link_members(parents.copy(), one + 9, one),
        "signature of 2^20 places": lambda: words.sign("a", words=1, out=np.zeros(1 << 20, np.uint32)),
        "page that is no text": lambda: _C.Characters(lambda page: (bytes(256), {200: (7, b"")}), str).spelled("È"),
        "page that is short": lambda: _C.Characters(lambda page: (b"", {}), str).spelled("È"),
        "run of no words": lambda: words.smallest_runs("a b", 0, 4),
        "runs of rows of three bytes": lambda: _C.NumpyShuffle(1)(np.zeros((4, 3), np.uint8)),
        "read-only rows": lambda: _C.NumpyShuffle(1)(np.broadcast_to(np.int64(1), (4,))),
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
    calls = {"index": index_calls, "operators": operator_calls}[sys.argv[1]]()
    print(json.dumps({name: outcome_of(call) for name, call in calls.items()}))
