"""The one text of a TeX project: its main file, with the files that it includes in their places.

A project comes as one file with `files` beside it, or as an archive like those of arXiv (a tar, or the only file,
gzipped). Included files are looked up among these and nowhere else; a file that is not there is counted, a circle is
cut. Local packages and classes give their definitions only.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from megaphi.curation.extract.archive import is_safe, is_tar, unpack
from megaphi.curation.extract.decode import decoded
from megaphi.curation.extract.found import NotExtracted
from megaphi.curation.extract.marks import Marks
from megaphi.curation.extract.tex.code import CodeForms, block, without_code

SOURCES = (".tex", ".ltx", ".latex", ".TEX")
DEFINING = (".sty", ".cls", ".def", ".tex")
LARGEST_SOURCE = 64 << 20
"""Characters of all files together, each counted as often as it is included."""
DEEPEST = 20
_INCLUDES = re.compile(
    r"\\(?:(?P<subimport>import|subimport|includefrom|inputfrom)\*?\s*\{(?P<folder>[^{}\n]*)\}\s*\{(?P<imported>[^{}\n]*)\}"
    r"|(?P<listing>lstinputlisting|verbatiminput|VerbatimInput|inputminted)\*?\s*(?:\[[^\]]*\])?\s*"
    r"(?:\{(?P<language>[^{}\n]*)\}(?=\s*\{))?\s*\{(?P<listed>[^{}\n]*)\}"
    r"|(?:input|include|subfile|subfileinclude)(?![a-zA-Z@])\s*(?:\{(?P<braced>[^{}\n]*)\}|(?P<bare>[^\s\\{}%$]+)))"
)
_PACKAGES = re.compile(r"\\(?:usepackage|RequirePackage|documentclass|LoadClass)\s*(?:\[[^\]]*\])?\s*\{([^{}]*)\}")
_BODY = re.compile(r"\\begin\s*\{document\}")
_END = re.compile(r"\\end\s*\{document\}")
_SKIPPED_TEXT = re.compile(r"\\iffalse(?![a-zA-Z@]).*?\\fi(?![a-zA-Z@])", re.DOTALL)


@dataclass(slots=True)
class Project:
    """A project while its files are put together."""

    files: dict[str, str]
    """Sources by path, decoded."""
    others: Mapping[str, bytes]
    """Listings and all else."""
    forms: CodeForms
    marks: Marks
    missing: list[str] = field(default_factory=list)
    characters: int = 0


def open_project(content: bytes, files: Mapping[str, bytes]) -> tuple[str, Project]:
    """(path of the main file, the project). Raises NotExtracted."""
    others = dict(files)
    main = ""
    if content.startswith((b"\x1f\x8b", b"PK\x03\x04")) or is_tar(content):
        others |= unpack(content).files
        if set(others) == {"content"}:  # the only file, gzipped
            others = {"main.tex": others["content"]}
    else:
        main = "main.tex" if "main.tex" not in others else "\n"
        others[main] = content
    sources = {
        posixpath.normpath(name): _source(data, name)
        for name, data in others.items()
        if is_safe(name) and (name == main or name.endswith((*SOURCES, *DEFINING)) or _looks_like_tex(data))
    }
    main = main or main_file(sources)
    forms = CodeForms.of(sources.values())
    return main, Project(sources, others, forms, Marks("".join(sources.values())))


def _source(content: bytes, name: str) -> str:
    if b"\0" in content:
        raise NotExtracted("nul_bytes", name[:80])
    return decoded(content, media_type="")[0].replace("\r\n", "\n").replace("\r", "\n")


def _looks_like_tex(data: bytes) -> bool:
    head = data[:4096]
    return b"\\documentclass" in head or b"\\documentstyle" in head or b"\\begin{document}" in head


def main_file(sources: Mapping[str, str]) -> str:
    """Path of the file that TeX would be started with.

    The one with `\\documentclass` and a body that no other includes; of several, one with a usual name, then the
    longest. Without any (plain TeX), the longest with an end.

    Raises:
        NotExtracted: no file looks like it.
    """
    whole = [name for name, text in sources.items() if re.search(r"\\document(?:class|style)", text)]
    whole = [name for name in whole if _BODY.search(sources[name])] or whole
    if not whole:
        whole = [name for name, text in sources.items() if re.search(r"\\(?:bye|end)\s*(?:%.*)?$", text.rstrip())]
        whole = whole or [name for name in sources if name.endswith(SOURCES)]
    if not whole:
        raise NotExtracted("no_main_file", f"{len(sources)} files, none with \\documentclass")
    included = {
        posixpath.basename(target).removesuffix(".tex")
        for text in sources.values()
        for target in (found["braced"] or found["bare"] or "" for found in _INCLUDES.finditer(text))
    }
    usual = ("ms", "main", "paper", "article", "manuscript", "arxiv", "draft", "thesis")

    def rank(name: str) -> tuple[bool, bool, bool, int, int]:
        stem = posixpath.basename(name).rpartition(".")[0]
        text = sources[name]
        is_part = stem in included or bool(re.search(r"\\documentclass\s*(?:\[[^\]]*\])?\s*\{subfiles\}", text))
        size = len(text) + sum(len(sources.get(each, "")) for each in _targets(text, name, sources))
        return is_part, bool(_template(stem)), stem.lower() not in usual, name.count("/"), -size

    return min(whole, key=lambda name: (*rank(name), name))


def _template(stem: str) -> re.Match[str] | None:
    return re.search(r"(?i)template|sample|response|cover|supp", stem)


def _targets(text: str, name: str, sources: Mapping[str, str]) -> set[str]:
    found = (_resolved(each["braced"] or each["bare"] or "", name, sources) for each in _INCLUDES.finditer(text))
    return {each for each in found if each}


def whole_text(main: str, project: Project) -> tuple[str, str]:
    """(definitions, body) of a project, code replaced by marks, comments gone."""
    text = _with_included(main, project, (main,))
    text = _SKIPPED_TEXT.sub(" ", text)
    begin = _BODY.search(text)
    preamble, body = (text[: begin.start()], text[begin.end() :]) if begin else ("", text)
    ends = list(_END.finditer(body))  # examples in a document may be documents
    body = body[: ends[-1].start()] if ends else re.split(r"\\bye(?![a-zA-Z@])", body)[0]
    return _packages(preamble, project) + preamble, body


def _packages(preamble: str, project: Project) -> str:
    """The texts of the packages and classes that are among the files."""
    names = [name.strip() for found in _PACKAGES.finditer(preamble) for name in found[1].split(",")]
    paths = [f"{name}{ending}" for name in names for ending in (".sty", ".cls") if f"{name}{ending}" in project.files]
    texts = []
    for path in dict.fromkeys(paths):
        project.characters += len(project.files[path])
        texts.append(without_code(project.files[path], project.forms, project.marks))
    return "\n".join([*texts, ""])


def _with_included(name: str, project: Project, above: tuple[str, ...]) -> str:
    project.characters += len(project.files[name])
    if project.characters > LARGEST_SOURCE:
        raise NotExtracted("too_large", f"more than {LARGEST_SOURCE >> 20} Mi characters with all included files")
    text = without_code(project.files[name], project.forms, project.marks)
    if len(above) > 1:
        text = _inside_document(text)
        text = text.partition("\\endinput")[0]

    def included(found: re.Match[str]) -> str:
        if found["listing"]:
            return _listing(found, name, project)
        asked = found["braced"] or found["bare"] or posixpath.join(found["folder"] or "", found["imported"] or "")
        path = _resolved(asked, name, project.files)
        if path is None or path in above or len(above) > DEEPEST:
            project.missing.append(asked.strip()[:100])
            return " "
        return _with_included(path, project, (*above, path))

    return _INCLUDES.sub(included, text)


def _inside_document(text: str) -> str:
    """The body of a subfile that is a document too."""
    begin = _BODY.search(text)
    return text[begin.end() :].partition("\\end{document}")[0] if begin else text


def _listing(found: re.Match[str], name: str, project: Project) -> str:
    path = _resolved(found["listed"], name, project.others)
    if path is None:
        project.missing.append(found["listed"][:100])
        return " "
    return block(project.marks, _source(project.others[path], path).rstrip("\n"), (found["language"] or "").lower())


def _resolved(asked: str, name: str, files: Mapping[str, object]) -> str | None:
    """The path of the file that is meant: relative to the project, or to the file that asks."""
    asked = asked.strip().strip('"').replace("\\", "/").removeprefix("./")
    below = re.sub(r"^(?:\.\./)+", "", asked)
    if not asked or not is_safe(below) or "#" in asked:
        return None
    for folder, path in (("", asked), (posixpath.dirname(name), asked), ("", below)):
        for ending in ("", ".tex", ".ltx"):
            found = posixpath.normpath(posixpath.join(folder, path + ending))
            if found in files and found != ".":
                return found
    return None
