"""TeX sources as Markdown: formulas and code to the byte, macros written out, files in their places.

In order: the project's files become one text without code and comments (`project.py`, `code.py`), macros are expanded
(`macros.py`), pictures and bibliography are left out, formulas are taken out (`formulas.py`), pandoc converts the words
that are left (`parts.py`), and formulas and code come back in the places of their marks. So no converter sees a
formula: it is in the text as the author wrote it, or it is missing and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.curation.extract.marks import Marks, restored
from megaphi.curation.extract.pandoc.run import FORMULA, tidied
from megaphi.curation.extract.tex.formulas import without_formulas
from megaphi.curation.extract.tex.lexing import argument
from megaphi.curation.extract.tex.macros import Macros, expand
from megaphi.curation.extract.tex.parts import Converter, with_labels
from megaphi.curation.extract.tex.project import open_project, whole_text

LEFT_OUT = (
    "tikzpicture pspicture picture pgfpicture circuitikz forest feynman axopicture asy thebibliography bibdiv".split()
)
LEFT_OUT_PATTERN = re.compile(rf"\\begin\s*\{{({'|'.join(LEFT_OUT)})(\*?)\}}.*?\\end\s*\{{\1\2\}}", re.DOTALL)
_TITLE = re.compile(r"\\(?:title|Title|icmltitle|toptitle)\*?\s*(?:\[[^\]]*\])?\s*(?=\{)")
_FRAME = re.compile(r"\\(?:begin|end)\s*\{document\}|\\(?=document(?:class|style)(?![a-zA-Z]))")
"""Text of a manual, or of an example: pandoc would take what stands before or behind it for a preamble."""
MISSING_NAMED = 20


def extract_tex(content: bytes, *, media_type: str, files: Mapping[str, bytes]) -> Extracted:
    """The text of a TeX source, or of an archive that holds one. Raises NotExtracted."""
    main, project = open_project(content, files)
    definitions, body = whole_text(main, project)
    macros = Macros()
    preamble = expand(definitions, macros)
    body = _FRAME.sub(" ", LEFT_OUT_PATTERN.sub("\n", expand(body, macros)))
    title = _title(preamble)
    marks = project.marks
    prepared = without_formulas(f"\\title{{{title}}}\n\n{body}" if title else body, marks)
    converter = Converter(marks)
    converted = converter.convert(with_labels(prepared))
    text = tidied(restored(converted.replace(FORMULA, ""), marks))
    if not text:
        raise NotExtracted("empty", "no text in the body")
    found = _counts(prepared, converted, marks)
    if converter.plain_parts:
        found |= {"parts_without_pandoc": converter.plain_parts, "pandoc": converter.reason}
    if project.missing:
        found["missing_files"] = list(dict.fromkeys(project.missing))[:MISSING_NAMED]
    heading = re.match(r"# (.+)", text) if title or "\\title" in body else None
    if heading:
        found["title"] = heading[1]
    return Extracted(text, found)


def _title(preamble: str) -> str:
    found = _TITLE.search(preamble)
    given = argument(preamble, found.end()) if found else None
    return given[0].strip() if given else ""


def _counts(prepared: str, converted: str, marks: Marks) -> dict[str, Any]:
    """Formulas and blocks of code in the source, and those of them that are in the text."""
    before, after = ({int(found[1]) for found in marks.pattern.finditer(text)} for text in (prepared, converted))
    formulas = {number for number in before if marks.contents[number][0] in ("inline", "display")}
    code = {number for number in before if marks.contents[number][0].startswith("block")}
    return {
        "formulas": len(formulas),
        "formulas_kept": len(formulas & after),
        "code_blocks": len(code),
        "code_blocks_kept": len(code & after),
    }
