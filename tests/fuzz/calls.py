"""Calls of compiled functions as JSON, which can be damaged, and drawn by what their signatures say.

`["name", argument, ..]` is a call; so are arguments that are objects, `{"call": ["name", ..]}`. Arrays and tensors are
told by dtype, shape, layout and values. Sizes beyond memory are dimensions that repeat one element.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fuzz.mutators import EDGES

LARGEST, SMALLEST_REPEATED = 1 << 22, 1 << 40
"""Bytes of an array that are allocated, and from which it only repeats one element: what a function allocates for it
fails at once.
"""
Value = Any
"""JSON."""


@dataclass(frozen=True)
class Signature:
    """Types that a call takes and returns, by the words of its documentation or schema."""

    parameters: tuple[tuple[str, str], ...]
    """(name, type); those that must be named begin with a star."""
    returns: str


def documented(text: str) -> list[Signature]:
    """The signatures that pybind11 writes into a docstring, one for each overload."""
    found = []
    for line in text.splitlines():
        try:
            (function,) = ast.parse(f"def {re.sub(r'^[0-9]+[.] ', '', line)}: ...").body
        except (SyntaxError, ValueError):  # a line of prose
            continue
        assert isinstance(function, ast.FunctionDef)
        given = function.args
        if given.vararg is None:
            types = [(each.arg, _type_of(each)) for each in given.args]
            named = [(f"*{each.arg}", _type_of(each)) for each in given.kwonlyargs]
            found.append(Signature((*types, *named), ast.unparse(function.returns) if function.returns else ""))
    return found


def _type_of(argument: ast.arg) -> str:
    return ast.unparse(argument.annotation) if argument.annotation else ""


class Draw:
    """Arguments by their types, all of one call from the same few sizes, so that they often fit together."""

    def __init__(self, signatures: Mapping[str, Sequence[Signature]], draw: random.Random) -> None:
        self._signatures, self._draw = signatures, draw
        self._sizes = draw.sample((0, 1, 2, 3, 4, 8), 3)
        self._dtype = draw.choice(("float32", "float32", "float64", "bfloat16", "float16"))
        self._shapes: list[list[int]] = []

    def call(self, name: str, depth: int = 0) -> Value:
        """A call of a function, as JSON."""
        signature = self._draw.choice(self._signatures[name])
        values = [(name, self.value(kind, depth)) for name, kind in signature.parameters]
        named = {name[1:]: value for name, value in values if name.startswith("*")}
        return [
            name,
            *(value for name, value in values if not name.startswith("*")),
            *([{"named": named}] * bool(named)),
        ]

    def value(self, kind: str, depth: int) -> Value:
        """One argument."""
        draw = self._draw
        if draw.random() < 0.06:
            return draw.choice((None, True, "a", 1.5, [], float("nan"), self._number(), self._array("int64")))
        if made := re.search(r"megaphi\._C\.(\w+)", kind):
            return self._object(made[1], depth)
        if dtype := re.search(r"numpy\.(u?int\d+|float\d+)\b", kind):
            return self._array(dtype[1])
        if "ndarray" in kind or "NDArray" in kind:
            return self._array(draw.choice(("int64", "int64", "uint8", "int32")))
        if kind.startswith("Tensor"):
            return None if kind.endswith("?") and draw.random() < 0.5 else self._tensor()
        if inner := re.fullmatch(r"(?:collections\.abc\.Sequence|list)\[(.*)\]", kind):
            return [self.value(inner[1], depth) for _ in range(draw.choice((0, 1, 1, 2, 3)))]
        if inner := re.fullmatch(r"tuple\[(.*)\]", kind):
            return {"tuple": [self.value(each, depth) for each in inner[1].split(", ")]}
        return self._plain(kind)

    def _plain(self, kind: str) -> Value:
        draw = self._draw
        if kind == "tuple":
            return {"tuple": [self._array("int64"), self._array("int64"), self._number(), self._number()]}
        if kind == "list":
            return ["a b c d e"[: draw.randrange(10)] for _ in range(draw.randrange(3))]
        if "Callable" in kind:
            return {"function": draw.choice(("described", "normalized", "short", "empty", "number", "fails"))}
        if "bool" in kind:
            return draw.random() < 0.5
        if "float" in kind.lower():
            return draw.choice((0.5, 1.0, 1e-5, 0.0, -1.0, 1e308, 1e-320, float("nan"), float("inf")))
        if "str" in kind:
            return draw.choice(("", "a b c", "Größe 3.14", "数学 e\u0301", "a" * 5_000, "\ud800", "\0", "words " * 900))
        if "bytes" in kind:
            return {"bytes": draw.randbytes(draw.choice((0, 7, 8, 8, 16))).hex()}
        return self._number()

    def _number(self) -> int:
        draw = self._draw
        return draw.choice(EDGES) if draw.random() < 0.3 else draw.choice((*self._sizes, 1, 2, 5, 64))

    def _object(self, kind: str, depth: int) -> Value:
        """A call that returns one, or one that was never made."""
        if depth > 2 or self._draw.random() < 0.05:
            return None
        if self._draw.random() < 0.05:
            return {"unmade": kind}
        makers = [name for name, signatures in self._signatures.items() if signatures[0].returns.endswith(f".{kind}")]
        return {"call": self.call(self._draw.choice(makers), depth + 1)}

    def _shape(self, most: int) -> list[int]:
        draw = self._draw
        if self._shapes and draw.random() < 0.5:
            shape = draw.choice(self._shapes).copy()
            if shape and draw.random() < 0.4:
                shape[draw.randrange(len(shape))] = self._number()
        else:
            shape = [draw.choice(self._sizes) for _ in range(draw.randrange(most + 1))]
            if shape and draw.random() < 0.1:
                shape[draw.randrange(len(shape))] = self._number()
        self._shapes.append(shape)
        return shape

    def _array(self, dtype: str) -> Value:
        draw = self._draw
        if draw.random() < 0.08:
            dtype = draw.choice(("int64", "int32", "uint64", ">i8", "float64", "bool", "complex64", "O", "S3", "M8[s]"))
        shape = self._shape(2) if draw.random() < 0.3 else [draw.choice(self._sizes)]
        layout = draw.choice(("", "", "", "", "strided", "reversed", "fortran", "readonly", "unaligned"))
        return {"array": dtype, "shape": shape, "layout": layout, "of": self._values()}

    def _tensor(self) -> Value:
        draw = self._draw
        dtype = self._dtype
        if draw.random() < 0.3:
            dtype = draw.choice(("float32", "int64", "int32", "bool", "uint8", "complex64", "float8_e4m3fn", "int8"))
        layout = draw.choice(("", "", "", "", "strided", "transposed", "offset", "gradient", "meta", "sparse"))
        return {"tensor": dtype, "shape": self._shape(5), "layout": layout, "of": self._values()}

    def _values(self) -> Value:
        """The elements: ascending, one number, or a few that repeat."""
        draw = self._draw
        return draw.choice((None, None, 0, 1, self._number(), [self._number() for _ in range(3)]))


class Builder:
    """Makes of JSON what it describes. Raises whatever libraries raise: then there is no call."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]], named: Mapping[str, Any]) -> None:
        self.functions, self._named = functions, named

    def call(self, described: Sequence[Value]) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
        """(function, arguments, named arguments)."""
        name, *values = described
        named = values.pop()["named"] if values and isinstance(values[-1], dict) and "named" in values[-1] else {}
        made = {key: self.value(value) for key, value in named.items()}
        return self.functions[name], [self.value(value) for value in values], made

    def value(self, described: Value) -> Any:
        if isinstance(described, list):
            return [self.value(each) for each in described]
        if not isinstance(described, dict):
            return described
        for kind in ("tuple", "bytes", "function", "unmade", "call", "array", "tensor"):
            if kind in described:
                return getattr(self, f"_{kind}")(described[kind], described)
        return described

    def _tuple(self, values: Value, _: Value) -> Any:
        return tuple(self.value(each) for each in values)

    def _bytes(self, digits: Value, _: Value) -> Any:
        return bytes.fromhex(digits)

    def _function(self, name: Value, _: Value) -> Any:
        return self._named[name]

    def _unmade(self, name: Value, _: Value) -> Any:
        made: Any = self.functions[name]
        return made.__new__(made)

    def _call(self, described: Value, _: Value) -> Any:
        function, arguments, named = self.call(described)
        return function(*arguments, **named)

    def _array(self, dtype: Value, described: Value) -> Any:
        import numpy as np

        kind, shape = np.dtype(dtype), tuple(described["shape"])
        repeated = _is_repeated(shape, kind.itemsize)
        values = self._named["file"] if described["of"] == "file" else described["of"]
        flat = _elements(values, 1 if repeated else _product(shape))
        array = np.array(flat, dtype=object if kind.kind in "OSM" else None).astype(kind)
        if repeated:
            return np.broadcast_to(array[0], shape)
        return _laid_out_array(array.reshape(shape), described["layout"])

    def _tensor(self, dtype: Value, described: Value) -> Any:
        import torch

        kind, shape, layout = getattr(torch, dtype), tuple(described["shape"]), described["layout"]
        if layout == "meta":
            return torch.empty(shape, dtype=kind, device="meta")
        repeated = _is_repeated(shape, kind.itemsize)
        flat = torch.tensor(_elements(described["of"], 1 if repeated else _product(shape))).to(kind)
        if repeated:
            return flat.expand(shape)
        return _laid_out_tensor(flat.reshape(shape), layout)


def _product(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _is_repeated(shape: Sequence[int], itemsize: int) -> bool:
    """Return whether a shape is beyond memory. Raises ValueError for one that is neither large nor small."""
    if any(size < 0 for size in shape):
        raise ValueError("a dimension below zero")
    size = _product(shape) * itemsize
    if LARGEST < size < SMALLEST_REPEATED:
        raise ValueError("memory that a test should not take")
    return size >= SMALLEST_REPEATED or (size == 0 and max(shape, default=0) > LARGEST)


def _elements(values: Value, count: int) -> list[Any]:
    if values is None:
        return list(range(count))
    if isinstance(values, list):
        return (values * count)[:count]
    return [values] * count


def _laid_out_array(array: Any, layout: str) -> Any:
    import numpy as np

    match layout:
        case "strided":
            return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
        case "reversed":
            return array[::-1] if array.ndim else array
        case "fortran":
            return np.asfortranarray(array)
        case "readonly":
            array.flags.writeable = False
        case "unaligned":
            return np.frombuffer(b"\0" + array.tobytes(), array.dtype, array.size, 1).reshape(array.shape)
    return array


def _laid_out_tensor(tensor: Any, layout: str) -> Any:
    import torch

    match layout:
        case "strided":
            return tensor.repeat_interleave(2, -1)[..., ::2] if tensor.dim() else tensor
        case "transposed":
            return tensor.transpose(0, -1).contiguous().transpose(0, -1) if tensor.dim() else tensor
        case "offset":
            return (
                torch.cat([tensor.flatten()[:1], tensor.flatten()])[1:].view(tensor.shape) if tensor.numel() else tensor
            )
        case "gradient":
            return tensor.requires_grad_()
        case "sparse":
            return tensor.to_sparse()
    return tensor
