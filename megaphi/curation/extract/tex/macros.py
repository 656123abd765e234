"""Macros of a TeX source, expanded where they are plain shorthand.

Understood: `\\newcommand` and its relatives with an optional argument, `\\def` with delimited arguments, `\\let`,
`\\DeclareMathOperator`, `\\DeclarePairedDelimiter`, `\\NewDocumentCommand` (m, o, O, s), `\\newenvironment`,
`\\newtheorem`. A macro that computes (conditionals, counters, category codes) stays as it is written: its text would be
code of TeX. Definitions hold from their place on. Nothing loops: a macro is not expanded within itself, and expansions
and characters have a limit, beyond which the rest stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from megaphi.curation.extract.tex.lexing import CONTROL, argument, delimited, group_end, optional, skip_space

MOST_EXPANSIONS = 300_000
MOST_GROWTH = 20
"""Times the length of the source, and a megabyte."""
DEEPEST = 40
_COMPUTES = re.compile(
    r"@|\\(?:expandafter|csname|if(?!f(?![a-zA-Z]))\w*|fi|else|futurelet|catcode|global|advance|count|dimen|skip|setbox|write|"
    r"read|openin|openout|begingroup|endgroup|bgroup|egroup|aftergroup|noexpand|uppercase|lowercase|meaning|string|"
    r"number|the|romannumeral|obeylines|obeyspaces|halign|valign|output|shipout|special|immediate|errmessage|message|"
    r"hrule|vrule|def|gdef|edef|xdef|let|newcommand|renewcommand|setcounter|addtocounter|stepcounter|IfNoValueTF|"
    r"IfBooleanTF|IfValueTF)(?![a-zA-Z@])"
)
FIXED = set(
    """title author date maketitle part chapter section subsection subsubsection paragraph subparagraph begin end item
    caption label ref eqref cite footnote emph textbf textit texttt textsc textrm textsf underline documentclass
    usepackage input include bibliography bibliographystyle thebibliography bibitem abstract left right frac sqrt
    text mbox verb par document hline multicolumn href url includegraphics centering tableofcontents appendix
    thanks and today par quad qquad""".split()
)
"""Commands that stay what they are, whatever a source makes of their looks."""


@dataclass(frozen=True, slots=True)
class Macro:
    """A body with `#1` to `#9`."""

    body: str
    parameters: tuple[str, ...] = ()
    """For each: `m` mandatory, `o` optional, `p` optional and shown in parentheses, `s` a star, or `d` and the text
    that ends it."""
    defaults: tuple[str, ...] = ()
    prefix: str = ""
    """Text that has to stand before the first argument (`\\def\\x[#1]`)."""


KNOWN = {"multirow": Macro("#6", ("o", "m", "o", "m", "o", "m"))}
"""Commands of packages whose arguments pandoc would take for layout, or their extent for content."""


@dataclass(slots=True)
class Macros:
    """Definitions so far, and the expansions and characters that are left to spend."""

    commands: dict[str, Macro] = field(default_factory=lambda: dict(KNOWN))
    environments: dict[str, tuple[Macro, str]] = field(default_factory=dict)
    expansions: int = 0
    characters: int = 1 << 20
    left_alone: set[str] = field(default_factory=set)
    """Names of macros that compute."""

    def spend(self, characters: int) -> bool:
        """Count one expansion; False if there is nothing left."""
        self.expansions += 1
        self.characters -= characters
        return not self.is_spent

    @property
    def is_spent(self) -> bool:
        return self.expansions > MOST_EXPANSIONS or self.characters <= 0


def expand(text: str, macros: Macros) -> str:
    """The text without definitions, and with its shorthand written out. `macros` takes up what is defined."""
    macros.characters += MOST_GROWTH * len(text)
    return _expand(text, macros, frozenset())


def _expand(text: str, macros: Macros, active: frozenset[str]) -> str:
    parts: list[str] = []
    place = 0
    while found := CONTROL.search(text, place):
        parts.append(text[place : found.start()])
        name = found[1] or found[2]
        taken = None
        if name in DEFINITIONS:
            taken = DEFINITIONS[name](text, found.end(), macros)
            if taken is not None:
                place = taken
                continue
        if macros.is_spent:
            pass
        elif name in ("begin", "end") and macros.environments:
            taken = _environment(text, found, macros, active)
        elif name in macros.commands and name not in active and len(active) < DEEPEST:
            taken = _command(text, found, macros, active)
        shown, place = taken or (found[0], found.end())
        parts.append(shown)
    parts.append(text[place:])
    return "".join(parts)


def _command(text: str, found: re.Match[str], macros: Macros, active: frozenset[str]) -> tuple[str, int] | None:
    name = found[1] or found[2]
    macro = macros.commands[name]
    start = found.end()
    if found[0].endswith("*") and found[1] and (not macro.parameters or macro.parameters[0] != "s"):
        start -= 1
    given = _arguments(text, start, macro)
    if given is None:
        return None
    arguments, place = given
    if not macro.parameters and found[1]:
        place += len(text[place : place + 80]) - len(text[place : place + 80].lstrip(" \t"))
    body = _filled(macro, [_expand(each, macros, active) for each in arguments])
    if not macros.spend(len(body)):
        return None
    shown = _expand(body, macros, active | {name})
    glued = bool(found[1]) and not macro.parameters and bool(re.search(r"\\[a-zA-Z]+$", shown))
    return shown + (" " if glued and text[place : place + 1].isalpha() else ""), place


def _filled(macro: Macro, arguments: list[str]) -> str:
    def argument_of(found: re.Match[str]) -> str:
        number = int(found[1])
        return arguments[number - 1] if 0 < number <= len(arguments) else found[0]

    return re.sub(r"#([1-9])", argument_of, macro.body)


def _arguments(text: str, start: int, macro: Macro) -> tuple[list[str], int] | None:
    if macro.prefix:
        start = skip_space(text, start)
        if not text.startswith(macro.prefix, start):
            return None
        start += len(macro.prefix)
    values: list[str] = []
    for number, kind in enumerate(macro.parameters):
        if kind == "s":
            starred = text[start - 1 : start] == "*"
            values.append("*" if starred else "")
            continue
        if kind in ("o", "p"):
            found = optional(text, start)
            given = found[0] if found else macro.defaults[number] if number < len(macro.defaults) else ""
            values.append(f"({given})" if kind == "p" and given else given)
            start = found[1] if found else start
            continue
        found = argument(text, start) if kind == "m" else delimited(text, start, kind[1:])
        if found is None:
            return None
        values.append(found[0])
        start = found[1]
    return values, start


def _environment(text: str, found: re.Match[str], macros: Macros, active: frozenset[str]) -> tuple[str, int] | None:
    named = argument(text, found.end())
    if named is None or named[0] not in macros.environments or f"{{{named[0]}}}" in active or len(active) >= DEEPEST:
        return None
    name, place = named
    begin, end = macros.environments[name]
    inside = active | {f"{{{name}}}"}
    if found[1] == "end":
        return (_expand(end, macros, inside), place) if macros.spend(len(end)) else None
    given = _arguments(text, place, begin)
    if given is None:
        return None
    body = _filled(begin, [_expand(each, macros, active) for each in given[0]])
    return (_expand(body, macros, inside), given[1]) if macros.spend(len(body)) else None


def _name(text: str, start: int) -> tuple[str, int] | None:
    """Name of the command that is defined, with or without braces."""
    found = argument(text, start)
    if found is None or not (control := CONTROL.fullmatch(found[0].strip())):
        return None
    return (control[1] or control[2]), found[1]


def _define(macros: Macros, name: str, macro: Macro) -> None:
    if name in FIXED:
        return
    if _COMPUTES.search(macro.body) or "@" in name:
        macros.left_alone.add(name)
        macros.commands.pop(name, None)
    else:
        macros.commands[name] = macro


def _newcommand(text: str, start: int, macros: Macros) -> int | None:
    start = start + text.startswith("*", start)
    named = _name(text, start)
    if named is None:
        return None
    signature = _signature(text, named[1])
    body = argument(text, signature[2])
    if body is None:
        return None
    _define(macros, named[0], Macro(body[0], signature[0], signature[1]))
    return body[1]


def _signature(text: str, start: int) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """(kinds of parameters, defaults, index behind) of `[2][default]`."""
    count = optional(text, start)
    if count is None or not count[0].strip().isdigit():
        return (), (), start
    number = min(int(count[0]), 9)
    default = optional(text, count[1])
    if default is None or number == 0:
        return ("m",) * number, (), count[1]
    return ("o", *("m",) * (number - 1)), (default[0],), default[1]


def _def(text: str, start: int, macros: Macros) -> int | None:
    start = skip_space(text, start)
    control = CONTROL.match(text, start)
    if control is None:
        return None
    name = control[1] or control[2]
    behind = control.end() - (control[0].endswith("*") and bool(control[1]))
    brace = text.find("{", behind, behind + 200)
    end = group_end(text, brace) if brace >= 0 else None
    if end is None or "\n\n" in text[behind:brace]:
        return None
    prefix, *rest = re.split(r"#[1-9]", text[behind:brace])
    parameters = tuple(f"d{each}" if each.strip() else "m" for each in rest)
    _define(macros, name, Macro(text[brace + 1 : end - 1], parameters, prefix=prefix.strip()))
    return end


def _let(text: str, start: int, macros: Macros) -> int | None:
    found = re.compile(r"\s*\\([a-zA-Z@]+|.)\s*=?\s*(\\(?:[a-zA-Z@]+|.)|.)").match(text, start)
    if found is None:
        return None
    meaning = macros.commands.get(found[2][1:]) if found[2].startswith("\\") else None
    _define(macros, found[1], meaning or Macro(found[2]))
    return found.end()


def _operator(text: str, start: int, macros: Macros) -> int | None:
    star = text.startswith("*", start) or text[start - 1 : start] == "*"
    named = _name(text, start + text.startswith("*", start))
    body = argument(text, named[1]) if named else None
    if named is None or body is None:
        return None
    _define(macros, named[0], Macro(f"\\operatorname{'*' if star else ''}{{{body[0]}}}"))
    return body[1]


def _paired(text: str, start: int, macros: Macros) -> int | None:
    named = _name(text, start)
    left = argument(text, named[1]) if named else None
    right = argument(text, left[1]) if left else None
    if named is None or left is None or right is None:
        return None
    _define(macros, named[0], Macro(f"{left[0]} #2 {right[0]}", ("s", "m")))
    return right[1]


def _document_command(text: str, start: int, macros: Macros) -> int | None:
    named = _name(text, start)
    kinds = argument(text, named[1]) if named else None
    body = argument(text, kinds[1]) if kinds else None
    if named is None or kinds is None or body is None:
        return None
    parameters, defaults = [], []
    for found in re.finditer(r"([mos])|O\s*\{([^{}]*)\}", kinds[0]):
        parameters.append("o" if found[2] is not None else found[1])
        defaults.append(found[2] or "")
    _define(macros, named[0], Macro(body[0], tuple(parameters), tuple(defaults)))
    return body[1]


def _newenvironment(text: str, start: int, macros: Macros) -> int | None:
    named = argument(text, start + text.startswith("*", start))
    if named is None:
        return None
    parameters, defaults, place = _signature(text, named[1])
    begin = argument(text, place)
    end = argument(text, begin[1]) if begin else None
    if begin is None or end is None:
        return None
    if named[0] not in FIXED and not _COMPUTES.search(begin[0] + end[0]):
        macros.environments[named[0]] = (Macro(begin[0], parameters, defaults), end[0])
    return end[1]


def _newtheorem(text: str, start: int, macros: Macros) -> int | None:
    named = argument(text, start + text.startswith("*", start))
    shared = optional(text, named[1]) if named else None
    title = argument(text, shared[1] if shared else named[1]) if named else None
    if named is None or title is None:
        return None
    within = optional(text, title[1])
    macros.environments[named[0]] = (Macro(f"\n\n\\textbf{{{title[0]}.}} #1 ", ("p",)), "\n\n")
    return within[1] if within else title[1]


Define = Callable[[str, int, Macros], "int | None"]
"""Takes up the definition behind a command; gives the index behind it, None if it is not understood."""
DEFINITIONS: dict[str, Define] = {
    **dict.fromkeys("newcommand renewcommand providecommand DeclareRobustCommand".split(), _newcommand),
    **dict.fromkeys("def gdef edef xdef".split(), _def),
    "let": _let,
    "DeclareMathOperator": _operator,
    "DeclarePairedDelimiter": _paired,
    **dict.fromkeys(
        "NewDocumentCommand RenewDocumentCommand ProvideDocumentCommand DeclareDocumentCommand".split(),
        _document_command,
    ),
    **dict.fromkeys("newenvironment renewenvironment".split(), _newenvironment),
    "newtheorem": _newtheorem,
}
