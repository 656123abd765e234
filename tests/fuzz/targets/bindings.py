"""Every C++ entry point: operators `torch.ops.megaphi.*`, functions and classes of `megaphi._C`, found by asking them.

An input is a call as JSON (`calls.py`); any other bytes are the chance by which a binding and its arguments are drawn.
A new binding is drawn without being named here; a call of it among the seeds lets more of its damaged calls fit.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from tests.fuzz.calls import Builder, Draw, Signature, Value, documented
from tests.fuzz.structured import json_value
from tests.fuzz.target import Target

REFUSALS = (TypeError, ValueError, IndexError, OverflowError, RuntimeError, AttributeError)
"""The last is what the shapes of a result, which are Python, say of None."""
FILE_BYTES = bytes(range(64))
Found = tuple[dict[str, Callable[..., Any]], dict[str, list[Signature]]]


@cache
def operators() -> Found:
    """Every operator of the namespace, by its name, with its schema."""
    import torch

    import megaphi.kernels
    from megaphi.kernels.loading import is_compiled

    for module in pkgutil.iter_modules(megaphi.kernels.__path__, "megaphi.kernels."):
        importlib.import_module(module.name)
    assert is_compiled("rotary", torch.zeros(1))
    names = [name.removeprefix("megaphi::") for name in torch._C._dispatch_get_all_op_names() if "megaphi::" in name]
    functions = {name: getattr(torch.ops.megaphi, name.partition(".")[0]) for name in sorted(names)}
    signatures = {}
    for name, function in functions.items():
        parameters = function.default._schema.arguments
        signatures[name] = [Signature(tuple((each.name, _schema_type(each)) for each in parameters), "")]
    return functions, signatures


def _schema_type(argument: Any) -> str:
    text = str(argument.type)
    return "Tensor?" if text.startswith("Optional[Tensor") else text


@cache
def members() -> Found:
    """Every function, class, method and property of the compiled module, by its dotted name."""
    from megaphi.compiled.module import compiled

    functions: dict[str, Callable[..., Any]] = {}
    signatures: dict[str, list[Signature]] = {}
    for name, value in vars(compiled()).items():
        if isinstance(value, type):
            for inner, member in vars(value).items():
                called = getattr(member, "fget", None) or getattr(value, inner)
                if inner == "__init__":
                    functions[name] = value
                    taken = [Signature(each.parameters[1:], f".{name}") for each in documented(called.__doc__ or "")]
                    signatures[name] = taken
                elif isinstance(member, property):
                    functions[f"{name}.{inner}"] = called
                    signatures[f"{name}.{inner}"] = [Signature((("self", f"megaphi._C.{name}"),), "")]
                elif callable(called) and (taken := documented(called.__doc__ or "")):
                    functions[f"{name}.{inner}"], signatures[f"{name}.{inner}"] = called, taken
        elif callable(value):
            functions[name], signatures[name] = value, documented(value.__doc__ or "")
    return functions, {name: taken for name, taken in signatures.items() if taken}


@cache
def builder(find: Callable[[], Found]) -> Builder:
    from megaphi.decontamination.words import described, normalized

    def fails(_: object) -> None:
        raise ValueError("a function of Python that fails")

    with open("file", "wb") as file:
        file.write(FILE_BYTES)
    named = {
        "described": described, "normalized": normalized, "short": lambda page: (b"", {}), "fails": fails,
        "empty": lambda page: (bytes(256), {256 * page + 65: ("", b"")}), "number": lambda page: page,
        "file": os.open("file", os.O_RDONLY),
    }  # fmt: skip
    return Builder(find()[0], named)


def called(find: Callable[[], Found], content: bytes) -> str | None:
    """Make the call of an input: None, or what was raised."""
    try:
        described = json.loads(content)
        function, arguments, named = builder(find).call(described)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, RecursionError, OverflowError):
        described = drawn(find()[1], random.Random(content))
        try:
            function, arguments, named = builder(find).call(described)
        except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError):
            return "no call"
    try:
        function(*arguments, **named)
    except REFUSALS as error:
        return type(error).__name__
    return None


def drawn(signatures: Mapping[str, Sequence[Signature]], draw: random.Random) -> Value:
    return Draw(signatures, draw).call(draw.choice(sorted(signatures)))


def tensor(*shape: int, of: Value = None, dtype: str = "float32") -> Value:
    return {"tensor": dtype, "shape": shape, "layout": "", "of": of}


def array(*values: int | str, dtype: str = "int64", shape: Sequence[int] = ()) -> Value:
    """A row, or one number in every place of a shape."""
    return {"array": dtype, "shape": shape or [len(values)], "layout": "", "of": values[0] if shape else list(values)}


X, ROWS, LABELS, STATISTICS = tensor(2, 1, 1, 3, 8), tensor(2, 4), tensor(2, dtype="int64"), tensor(2, 2, of=1)
TABLE, SCORES, POSITIONS = tensor(4, 4), tensor(1, 2, 3, 4), tensor(2, 1, dtype="int64")
CACHE, HIDDEN, GRADS = tensor(3, 4, 1, 8), tensor(1, 1, 3, 4, of=[0, 1], dtype="bool"), tensor(2)
LENGTHS_OF_QUERIES = tensor(1, of=3, dtype="int32")
OPERATOR_CALLS: tuple[Value, ...] = (
    ["rms_norm", ROWS, tensor(4), 1e-5],
    ["add_rms_norm", ROWS, ROWS, tensor(4), 1e-5],
    ["rms_norm_backward", ROWS, ROWS, ROWS, tensor(4), tensor(2)],
    *([f"rotary{place}", X, TABLE, TABLE, each, 0, 2, False] for place in ("", "_") for each in (None, POSITIONS)),
    *([f"causal_softmax{place}", SCORES, 1.0] for place in ("", "_")),
    *([f"masked_softmax{place}", SCORES, HIDDEN, 1.0] for place in ("", "_")),
    ["softmax_backward", SCORES, SCORES, 1.0, True],
    ["paged_attention", tensor(1, 2, 8), CACHE, CACHE, tensor(1, 2, dtype="int32"), LENGTHS_OF_QUERIES, 1.0],
    ["swiglu", ROWS],
    ["swiglu_backward", tensor(2, 2), ROWS],
    ["swiglu_backward_and_forward_", tensor(2, 2), ROWS],
    ["cross_entropy_statistics", ROWS, LABELS, 0],
    *([f"cross_entropy_backward{place}", ROWS, LABELS, STATISTICS, GRADS, 0, -100, 0.0] for place in ("", "_")),
)  # fmt: skip

HALF = {"tuple": [2, {"bytes": "00" * 8}, {"bytes": "01" + "00" * 7}]}
MIX = {"call": ["Blend.table", [HALF, HALF], 8, True]}
TREE = {"call": ["Blend.tree", 0, [{"tuple": [-1, -2, 1 << 63]}], 2, 100]}
ORDER = {"call": ["Order", TREE, [{"tuple": [5, 640, 8, 0, 0]}] * 2, 8]}
SHUFFLED = {"call": ["Permutation", 100, 7]}
WORDS = {"call": ["Characters", {"function": "described"}, {"function": "normalized"}]}
ITEMS = {"call": ["BenchmarkItems", WORDS, ["one two three four five six"], 3, 2, ["the end of it"]]}
INDEX = {"tuple": [array(0, 4, 8, 12), array(0, 2, 4), 16, 2]}
RUNS = {"row": array(0, 1), "file": array(0, 0), "count": array(4, 4)}
SHAPE = {"rows": 2, "columns": 4}
LENGTHS, DOCUMENTS, POINTERS = array(10, 20, 30, dtype="int32"), array(2, 0, 1), array(0, 40, 120)
MEMBER_CALLS: tuple[Value, ...] = (
    ["Permutation.items_at", SHUFFLED, array(0, 5, 99)],
    ["Permutation.positions_of", SHUFFLED, array(0, 5, 99)],
    *(["Blend.locate", each, array(0, 1, 40)] for each in (MIX, TREE)),
    *(["Blend.counts", each, 40] for each in (MIX, TREE)),
    ["Blend.limit", TREE],
    ["Order.locate", ORDER, array(0, 1, 40)],
    ["NumpyShuffle.__call__", {"call": ["NumpyShuffle", 7]}, array(1, 2, 3, 4, dtype="int32")],
    ["megatron_sample_starts", LENGTHS, DOCUMENTS,
     {"named": {"sequence_length": 8, "out": array(0, shape=(4, 2), dtype="uint32")}}],
    ["megatron_runs", LENGTHS, POINTERS, 2, DOCUMENTS, array(0, shape=(2, 2)), 8],
    ["megatron_blend", [0.25, 0.75], array(0, shape=(8,), dtype="int16"), array(0, shape=(8,), dtype="uint32")],
    ["megatron_blend_all", [2, 6], array(0, shape=(8,), dtype="int16"), array(0, shape=(8,))],
    ["gather_tokens", array("file", shape=(1,)), array(2), {"named": {
        **RUNS, "offset": array(0, 8), **SHAPE, "vocabulary": 1 << 16}}],
    ["read_runs", array("file", shape=(1,)), array(0, 0), array(0, 8), array(4, 4),
     array(0, shape=(8,), dtype="uint8")],
    ["find_sequences", array(0, 4, 8, 12), 16, array(0, 7, 15)],
    ["document_ids", [INDEX], {"named": {**RUNS, "start": array(0, 4), **SHAPE}}],
    ["Characters.spelled", WORDS, "Some words: Größe, 数学."],
    ["Characters.run_hash", WORDS, "Some words."],
    ["Characters.smallest_runs", WORDS, "one two three four", 2, 9],
    ["Characters.sign", WORDS, "one two three four", 2, array(0, shape=(16,), dtype="uint32")],
    ["BenchmarkItems.different_runs", ITEMS],
    ["BenchmarkItems.match", ITEMS, WORDS, "zero one two three four seven"],
    ["BenchmarkItems.exact_runs", ITEMS, WORDS, "zero one two three four seven"],
    ["link_members", array(0, 1, 2, 3), array(1), array(3)],
    ["point_to_roots", array(0, 0, 1, 3)],
    ["use_instruction_set", "avx2"],
    ["instruction_sets"],
)  # fmt: skip


def texts(calls: Sequence[Value]) -> list[bytes]:
    return [json.dumps(call).encode() for call in calls]


def target(name: str, find: Callable[[], Found], calls: Sequence[Value], *imports: str) -> Target:
    def run(content: bytes) -> str | None:
        return called(find, content)

    return Target(name=name, run=run, seeds=lambda: texts(calls), mutators=(json_value, json_value, json_value),
                  imports=("numpy", *imports), short_inputs=200)  # fmt: skip


TARGETS = (
    target("torch operators", operators, OPERATOR_CALLS, "torch", "megaphi.kernels"),
    target("compiled module", members, MEMBER_CALLS, "megaphi.compiled.module", "megaphi.decontamination.words"),
)
