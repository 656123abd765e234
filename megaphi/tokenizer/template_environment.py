"""Jinja for chat templates of strangers: the environment of transformers, with bounds on time and memory.

The sandbox keeps a template from files and from Python. It does not keep it from a loop in a loop in a loop, from
`'a' * 10**10`, or from a text that doubles forty times. So each step of a loop, each call and each thousand characters
of a text that is made cost a step of the rendering's budget, and what makes a text or a number from a few characters
is asked for its size before it does. A template within these bounds renders as it does in transformers.
"""

from __future__ import annotations

import functools
import json
import math
import re
import secrets
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST_STEPS = 1_000_000
"""Budget of a rendering; a conversation of a hundred messages takes a few thousand."""
LONGEST_TEXT = 1 << 24
"""Characters of any text, the result among them."""
LONGEST_SOURCE = 1 << 18
"""Characters of a template; the longest that are published have a tenth of it."""
LARGEST_ARGUMENT = 1 << 20
"""Limit of whole numbers that filters and functions are called with: widths, counts, indentations."""
_LARGEST_BITS = 1 << 12
_PER_STEP, _ELEMENT = 1_000, 100
"""Characters that are copied for one step, and for how many of them an element of a list counts."""
_WIDE = re.compile(r"\*|\d{5}")
"""In the text of a format: a width of its own, or one of another argument."""
_NONCE = secrets.token_hex(8)
_COUNTED, _JOINED, _PAID = (f"{name}_{_NONCE}" for name in ("counted", "joined", "paid"))
"""Names of filters of ours, which no template can know."""


class _Budget(threading.local):
    left = MOST_STEPS


_budget = _Budget()


def refuse(message: str) -> NoReturn:
    """`raise_exception` of templates. Raises TemplateError."""
    raise TemplateError(message)


def begin_rendering() -> None:
    """Give the rendering that this thread begins its budget."""
    _budget.left = MOST_STEPS


def _pay(size: int) -> None:
    _budget.left -= 1 + size // _PER_STEP
    if size > LONGEST_TEXT or _budget.left < 0:
        refuse("it takes more time or memory than a chat template may")


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says; we determine the targets without it."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own form)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up, bounded."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self) -> None:
        extensions = [_Generation, "jinja2.ext.loopcontrols"]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_paid)
        self.filters["tojson"] = _to_json
        self.filters = {name: _bounded(name, function) for name, function in self.filters.items()}
        self.globals["raise_exception"] = refuse
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.filters |= {_COUNTED: _at_run_time(_counted), _JOINED: _at_run_time(_joined), _PAID: _at_run_time(_paid)}

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """The text of parts, which a template writes one after the other."""
        return _joined(*parts) if isinstance(parts, list) else _joined_lazily(parts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            _pay(_size(left) + _size(right))
            return left + right
        _pay(_size_of_operation(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps `format`
        _check_arguments(getattr(method, "__name__", ""), getattr(method, "__self__", None), args, kwargs)
        found = super().call(__context, __obj, *args, **kwargs)
        _pay(_size(found))
        return found

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > LONGEST_SOURCE:
            refuse(f"it has {len(source):,} characters, expected at most {LONGEST_SOURCE:,}")
        tree = _Counting().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree


class _Counting(NodeTransformer):
    """Puts filters of ours behind what a loop goes through, what is compared or sliced, and in the place of `~`."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 (a name of jinja2's)
        self.generic_visit(node)
        node.iter = _through(_COUNTED, node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802 (a name of jinja2's)
        self.generic_visit(node)
        return _through(_JOINED, *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802 (a name of jinja2's)
        self.generic_visit(node)
        sides = (node, *node.ops)
        if any(side.op not in ("eq", "ne") for side in node.ops) or not any(
            isinstance(side.expr, nodes.Const) for side in sides
        ):  # whether a text equals a constant takes no longer for a long one
            for side in sides:
                side.expr = _through(_PAID, side.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:  # noqa: N802 (a name of jinja2's)
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _through(_PAID, node.node)
        return node


def _through(name: str, value: Any, *others: Any) -> nodes.Filter:
    """Put a filter of ours after an expression."""
    return nodes.Filter(value, name, list(others), [], None, None, lineno=value.lineno)


def _at_run_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is not called once for all where its argument is a constant."""
    return pass_context(lambda _, *values: function(*values))


def _counted(values: Any) -> Any:
    """Return the values of a loop, its steps paid for: all at once where their number is known, else one by one."""
    try:
        _budget.left -= len(values)
    except TypeError:
        return _paid_one_by_one(values)
    _pay(0)
    return values


def _paid_one_by_one(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        _pay(0)
        yield value


def _joined(*parts: Any) -> str:
    texts = [part if isinstance(part, str) else str(_paid(part)) for part in parts]
    _pay(sum(map(len, texts)))
    return "".join(texts)


def _joined_lazily(parts: Iterable[str]) -> str:
    texts, size = [], 0
    for part in parts:
        size += len(part)
        if size > LONGEST_TEXT:
            _pay(size)
        texts.append(part)
    return _joined(*texts)


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose arguments are looked at before it is called."""
    is_given_more = int(hasattr(function, "jinja_pass_arg"))  # the context or the environment, before the value

    @functools.wraps(function)
    def bounded(*arguments: Any, **options: Any) -> Any:
        before, (value, *others) = arguments[:is_given_more], arguments[is_given_more:]
        if name == "join" and not hasattr(value, "__len__"):
            value = list(_paid_one_by_one(value))
        _check_arguments(name, value, others, options)
        found = function(*before, value, *others, **options)
        _pay(_size(found))
        return found

    return bounded


def _check_arguments(name: str, value: Any, arguments: Iterable[Any], options: dict[str, Any]) -> None:
    """Pay for a filter or a method of `value`, by what it will make of these arguments."""
    given = [*arguments, *options.values()]
    numbers = [number for number in given if isinstance(number, int)]
    if any(abs(number) > LARGEST_ARGUMENT for number in numbers):
        refuse(f"{name} is called with a number above {LARGEST_ARGUMENT:,}")
    size = _size(value)
    if name == "replace" and isinstance(value, str) and len(given) > 1:
        size += value.count(str(given[0])) * len(str(given[1]))
    elif name == "join":
        size = _size_of_joined(value, *given[:1])
    elif name in ("indent", "expandtabs", "tojson"):
        size *= 1 + max(map(abs, numbers), default=0)
    elif name in ("format", "format_map", "translate") and isinstance(value, str) and _WIDE.search(value):
        refuse(f"{name} is called with a width above 9,999")
    _pay(size)


def _size_of_joined(*both: Any) -> int:
    """Length of items with a separator between them, whichever of the two is which."""
    sizes = [len(one) if isinstance(one, list | tuple | str) else 0 for one in both]
    return math.prod(1 + size for size in sizes) + sum(map(_size, both))


def _size_of_operation(operator: str, left: Any, right: Any) -> int:
    """Length of what an operation makes. Raises TemplateError for a number of thousands of digits."""
    if operator == "%" and isinstance(left, str) and _WIDE.search(left):
        refuse("a format has a width above 9,999")
    numbers = [value for value in (left, right) if isinstance(value, int)]
    if operator in ("*", "**") and len(numbers) == 2:
        first, second = numbers
        bits = first.bit_length() + second.bit_length() if operator == "*" else first.bit_length() * abs(second)
        if bits > _LARGEST_BITS:
            refuse("a number becomes larger than it may")
    elif operator == "*" and numbers:
        return max(numbers[0], 0) * (_size(left) + _size(right))
    return 0


def _size(value: Any) -> int:
    """Length of a text; of a list its elements' too, however often it holds the same. Raises TemplateError if large."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | tuple | dict):
        return 0
    size, lists = 0, [value]
    while lists:
        one = lists.pop()
        elements = one.values() if isinstance(one, dict) else one
        size += _ELEMENT * len(elements) + sum(len(element) for element in elements if isinstance(element, str))
        if size > LONGEST_TEXT:
            _pay(size)
        lists += [element for element in elements if isinstance(element, list | tuple | dict)]
    return size


def _paid(value: Any) -> Any:
    _pay(_size(value))
    return value
