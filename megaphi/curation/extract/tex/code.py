"""Code and comments of one TeX file, taken out before anything else looks at it.

What stands in `verbatim`, `lstlisting`, `minted`, `\\verb` and what a source defines like them (`\\lstnewenvironment`,
`\\DefineVerbatimEnvironment`, `\\newminted`, short verbs, pairs `\\bprog ... \\eprog` of plain TeX) becomes a mark, and
comes back to the byte after conversion. Comments go; a percent sign in code is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from megaphi.curation.extract.marks import Marks
from megaphi.curation.extract.tex.lexing import argument, optional

CODE = (
    "verbatim verbatim* Verbatim Verbatim* BVerbatim LVerbatim SaveVerbatim lstlisting minted alltt tcblisting "
    "sagecode sageblock pycode pyblock pyconsole code codeblock xverbatim semiverbatim spverbatim"
).split()
DROPPED = "comment filecontents filecontents* sagesilent luacode luacode* ccsxml CCSXML".split()
_DEFINES_LISTING = re.compile(
    r"\\(?:lstnewenvironment|(?:re)?newtcblisting|DeclareTCBListing|NewTCBListing|DefineVerbatimEnvironment|newverbatim)"
    r"\s*(?:\[[^\]]*\])?\s*\{([^{}]+)\}"
)
_DEFINES_MINTED = re.compile(r"\\newminted\s*(?:\[([^\]]*)\])?\s*\{([^{}]+)\}")
_DEFINES_LIKE = re.compile(
    r"\\newenvironment\*?\s*\{([^{}]+)\}\s*(?:\[\d\]\s*(?:\[[^\]]*\])?)?\s*\{[^{}]*\\(?:verbatim|Verbatim|lstlisting)\b"
)
_SHORT_VERB = re.compile(r"\\(?:MakeShortVerb|DefineShortVerb|lstMakeShortInline)\*?\s*(?:\[[^\]]*\])?\s*\{?\\(\S)\}?")
_PLAIN_BEGIN = re.compile(r"\\def\s*\\b(?:egin)?([a-zA-Z]+)\s*\{\s*\\begingroup")
_COMMENT = re.compile(r"%[^\n]*(?:\n[ \t]*(?=[^\s])|\n(?=[ \t]*\n)|\n|$)")
_LANGUAGE = re.compile(r"language\s*=\s*\{?(?:\[[^\]]*\])?\s*([A-Za-z+#0-9-]+)")


@dataclass(slots=True)
class CodeForms:
    """The ways in which a project writes code."""

    environments: dict[str, str] = field(default_factory=lambda: dict.fromkeys(CODE, ""))
    """Name of an environment, and its language if the name says it."""
    short_verbs: set[str] = field(default_factory=set)
    plain_pairs: set[str] = field(default_factory=set)
    """`prog` for \\bprog ... \\eprog."""

    @classmethod
    def of(cls, sources: Iterable[str]) -> CodeForms:
        """Those that are defined somewhere in the sources, and the usual ones."""
        forms = cls()
        for source in sources:
            for found in (*_DEFINES_LISTING.finditer(source), *_DEFINES_LIKE.finditer(source)):
                forms.environments.setdefault(found[1].strip(), "")
            for found in _DEFINES_MINTED.finditer(source):
                forms.environments[(found[1] or f"{found[2]}code").strip()] = found[2].strip()
            forms.short_verbs |= {found[1] for found in _SHORT_VERB.finditer(source)}
            forms.plain_pairs |= {
                found[1]
                for found in _PLAIN_BEGIN.finditer(source)
                if f"\\e{found[1]}" in source.replace("\\end", "\\e")
            }
        return forms

    def pattern(self) -> re.Pattern[str]:
        names = "|".join(re.escape(name) for name in sorted([*self.environments, *DROPPED], key=len, reverse=True))
        pairs = "|".join(re.escape(name) for name in sorted(self.plain_pairs))
        parts = [
            rf"\\begin\s*\{{(?P<environment>{names})\}}",
            r"\\(?P<verb>verb|Verb|lstinline|mintinline|path)\b\*?",
            *([rf"\\b(?:egin)?(?P<pair>{pairs})\b"] if pairs else []),
            r"\\.",
            r"(?P<comment>%)",
            *([rf"(?P<short>[{re.escape(''.join(sorted(self.short_verbs)))}])"] if self.short_verbs else []),
        ]
        return re.compile("|".join(parts), re.DOTALL)


def without_code(text: str, forms: CodeForms, marks: Marks) -> str:
    """The text with marks for its code, and without comments."""
    parts: list[str] = []
    place = 0
    pattern = forms.pattern()
    while found := pattern.search(text, place):
        parts.append(text[place : found.start()])
        kinds: Mapping[str, str | None] = found.groupdict()
        if kinds["comment"]:
            comment = _COMMENT.match(text, found.start())
            assert comment is not None
            place = comment.end()
            if re.match(r"[ \t]*\n", text[place : place + 200]) and comment[0].endswith("\n"):
                parts.append("\n")  # a paragraph ends behind the comment
            continue
        taken = None
        if kinds["environment"]:
            taken = _environment(text, found, forms, marks)
        elif kinds["verb"]:
            taken = _inline(text, found, marks)
        elif kinds.get("pair"):
            taken = _pair(text, found, marks)
        elif kinds.get("short"):
            end = text.find(found[0], found.end(), found.end() + 400)
            inside = text[found.end() : end]
            taken = (_texttt(marks, inside), end + 1) if end > 0 and "\n" not in inside else None
        shown, place = taken or (found[0], found.end())
        parts.append(shown)
    parts.append(text[place:])
    return "".join(parts)


def _texttt(marks: Marks, code: str) -> str:
    return f"\\texttt{{{marks.add('code', code)}}}"


def block(marks: Marks, code: str, language: str = "") -> str:
    """A mark for a block of code, as an environment that every reader knows."""
    return f"\n\\begin{{verbatim}}\n{marks.add(f'block:{language}', code)}\n\\end{{verbatim}}\n"


def _environment(text: str, found: re.Match[str], forms: CodeForms, marks: Marks) -> tuple[str, int] | None:
    name = found["environment"]
    end = text.find(f"\\end{{{name}}}", found.end())
    if end < 0:
        return None
    behind = end + len(f"\\end{{{name}}}")
    if name in DROPPED:
        return "\n", behind
    start, language = found.end(), forms.environments[name]
    options = optional(text, start) if text.startswith("[", start) else None
    if options:
        language, start = language or _language_of(options[0]), options[1]
    while text.startswith("{", start) and name not in ("verbatim", "verbatim*", "alltt"):
        given = argument(text, start)
        if given is None:
            break
        language, start = (given[0] if name == "minted" else language or _language_of(given[0])), given[1]
    return block(marks, _lines_between(text[start:end]), language.lower()), behind


def _lines_between(inside: str) -> str:
    """The lines of an environment, without the rest of the line of its beginning and the indent of its end."""
    first, line_break, rest = inside.partition("\n")
    body = rest if line_break and not first.strip() else inside
    head, line_break, last = body.rpartition("\n")
    return head if line_break and not last.strip() else body


def _language_of(options: str) -> str:
    found = _LANGUAGE.search(options)
    return found[1] if found else ""


def _inline(text: str, found: re.Match[str], marks: Marks) -> tuple[str, int] | None:
    start = found.end()
    if found["verb"] in ("lstinline", "mintinline"):
        options = optional(text, start)
        start = options[1] if options else start
    if found["verb"] == "mintinline":
        language = argument(text, start)
        start = language[1] if language else start
    if start >= len(text) or text[start].isalnum() or text[start].isspace():
        return None
    if text[start] == "{" and found["verb"] != "verb":
        given = argument(text, start)
        return (_texttt(marks, given[0]), given[1]) if given else None
    end = text.find(text[start], start + 1, start + 2_000)
    inside = text[start + 1 : end]
    return (_texttt(marks, inside), end + 1) if end > 0 and "\n" not in inside else None


def _pair(text: str, found: re.Match[str], marks: Marks) -> tuple[str, int] | None:
    end = re.compile(rf"[\\@]e(?:nd)?{re.escape(found['pair'])}\b").search(text, found.end())
    if end is None or text.startswith("{", found.end()):
        return None
    return block(marks, _lines_between(text[found.end() : end.start()])), end.end()
