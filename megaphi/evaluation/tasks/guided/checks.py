"""Rules of form that a program checks: lines, words, patterns, JSON. They earn all points of their criterion or none.

A check is an object with `rule` and what the rule needs, as in `{"rule": "words", "min": 40, "max": 60}`. The whole
answer is checked, without white space around it: what an answer says about itself is part of it. Patterns are Python's
and come from the question's author.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from megaphi.errors import InputError, did_you_mean
from megaphi.json_text import parse_json

LONGEST = 20_000
"""Characters of an answer that checks look at; a longer one breaks every rule of form."""
Check = Mapping[str, Any]


def keeps(check: Check, answer: str) -> bool:
    """Return whether the answer keeps to the rule."""
    text = answer.strip()
    return len(text) <= LONGEST and _RULES[check["rule"]][0](check, text)


def read_check(value: Any) -> Check:
    """A check as it stands in a file. Raises InputError that says what is wrong with it."""
    if not isinstance(value, dict) or not isinstance(value.get("rule"), str):
        raise InputError("a check must be an object with a 'rule'")
    name = value["rule"]
    if name not in _RULES:
        raise InputError(f"there is no rule {name!r}: choose from {', '.join(_RULES)}.{did_you_mean(name, _RULES)}")
    needed, optional = _RULES[name][1:]
    missing = [field for field in needed if field not in value]
    unknown = [field for field in value if field not in ("rule", *needed, *optional)]
    if missing or unknown or (not needed and not set(optional) & set(value)):
        wanted = f"{', '.join((*needed, *optional))}"
        raise InputError(
            f"the rule {name!r} takes {wanted}, not {', '.join(f for f in value if f != 'rule') or 'none'}"
        )
    for field in ("min", "max"):
        if field in value and (type(value[field]) is not int or value[field] < 0):
            raise InputError(f"{field!r} of the rule {name!r} must be a whole number, 0 or more")
    if "pattern" in value:
        _check_pattern(name, value["pattern"])
    if "keys" in value and not (isinstance(value["keys"], list) and all(isinstance(key, str) for key in value["keys"])):
        raise InputError(f"'keys' of the rule {name!r} must be a list of texts")
    return value


def _check_pattern(name: str, pattern: Any) -> None:
    try:
        groups = re.compile(pattern).groups
    except (re.error, TypeError) as error:
        raise InputError(f"'pattern' of the rule {name!r} is no regular expression: {error}") from None
    if name == "ascending" and groups != 1:
        raise InputError("'pattern' of the rule 'ascending' must have one group")


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _within(check: Check, count: int) -> bool:
    return check.get("min", 0) <= count <= check.get("max", count)


def _count_words(text: str) -> int:
    """Runs of anything but white space that hold a letter or a digit."""
    return sum(any(one.isalnum() for one in word) for word in text.split())


def _is_json(check: Check, text: str) -> bool:
    try:
        value = parse_json(text, constants=False)
    except InputError:
        return False
    return isinstance(value, dict) and list(value) == check["keys"]


def _ascends(check: Check, text: str) -> bool:
    found = [one.casefold() for one in re.findall(check["pattern"], text, flags=re.MULTILINE)]
    return len(found) > 1 and found == sorted(found)


_BOUNDS = ("min", "max")
_RULES: dict[str, tuple[Callable[[Check, str], bool], tuple[str, ...], tuple[str, ...]]] = {
    "words": (lambda check, text: _within(check, _count_words(text)), (), _BOUNDS),
    "lines": (lambda check, text: _within(check, len(_lines(text))), (), _BOUNDS),
    "words_in_each_line": (
        lambda check, text: all(_within(check, _count_words(line)) for line in _lines(text)),
        (),
        _BOUNDS,
    ),
    "matches": (
        lambda check, text: _within(check, len(re.findall(check["pattern"], text, flags=re.MULTILINE))),
        ("pattern",),
        _BOUNDS,
    ),
    "each_line": (
        lambda check, text: bool(text) and all(re.fullmatch(check["pattern"], line) for line in _lines(text)),
        ("pattern",),
        (),
    ),
    "whole": (lambda check, text: bool(re.fullmatch(check["pattern"], text, flags=re.DOTALL)), ("pattern",), ()),
    "json": (_is_json, ("keys",), ()),
    "ascending": (_ascends, ("pattern",), ()),
}
"""Name to the check, the fields that it needs, and those that it may have. Blank lines do not count as lines."""
