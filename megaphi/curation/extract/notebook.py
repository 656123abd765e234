"""Jupyter notebooks: Markdown cells as they are, code in fences, text outputs up to a limit.

Formulas stand in Markdown cells and in outputs of type `text/latex` as they were written. Images, widgets and HTML are
left out and counted; terminal colours are taken out of outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.errors import InputError
from megaphi.json_text import check_size, parse_json

LONGEST_OUTPUT = 2_000
"""Characters of the output of one cell."""
LARGEST_NOTEBOOK = 64 << 20
SHOWN = ("text/latex", "text/markdown", "text/plain")
"""Kinds of output that are text, best first."""
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def extract_notebook(content: bytes, *, media_type: str, files: Mapping[str, bytes]) -> Extracted:
    """The text of a notebook (formats 2 to 4). Raises NotExtracted."""
    if len(content) > LARGEST_NOTEBOOK:
        raise NotExtracted("too_large", f"{len(content):,} bytes")
    try:
        check_size(content)
        notebook = parse_json(content)
    except InputError as error:
        raise NotExtracted("malformed", str(error)) from None
    cells = _cells(notebook)
    language = _language(notebook)
    left_out: dict[str, int] = {}
    blocks = [block for cell in cells for block in _blocks(cell, language, left_out)]
    text = "\n\n".join(blocks).replace("\0", "")
    if not text.strip():
        raise NotExtracted("empty", f"{len(cells)} cells")
    code = sum(_is(cell, "code") and bool(_joined(cell.get("source", cell.get("input"))).strip()) for cell in cells)
    return Extracted(text, {"language_of_code": language, "code_blocks": code, "outputs_left_out": left_out})


def _cells(notebook: Any) -> list[dict[str, Any]]:
    found = notebook.get("cells") if isinstance(notebook, dict) else None
    if found is None and isinstance(notebook, dict) and isinstance(notebook.get("worksheets"), list):
        sheets = [sheet for sheet in notebook["worksheets"] if isinstance(sheet, dict)]
        found = [cell for sheet in sheets for cell in (sheet.get("cells") or [])]
    if not isinstance(found, list):
        raise NotExtracted("malformed", "JSON without a list of cells")
    return [cell for cell in found if isinstance(cell, dict)]


def _language(notebook: Mapping[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for part, key in (("language_info", "name"), ("kernelspec", "language")):
        value = metadata.get(part) if isinstance(metadata, dict) else None
        name = value.get(key) if isinstance(value, dict) else None
        if isinstance(name, str) and re.fullmatch(r"[\w+#.-]{1,30}", name):
            return name.lower()
    return "python"


def _is(cell: Mapping[str, Any], kind: str) -> bool:
    return cell.get("cell_type") == kind


def _joined(source: Any) -> str:
    """The text of a field, which is a string or a list of lines."""
    lines = source if isinstance(source, list) else [source]
    text = "".join(line for line in lines if isinstance(line, str))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _blocks(cell: Mapping[str, Any], language: str, left_out: dict[str, int]) -> Iterator[str]:
    source = _joined(cell.get("source", cell.get("input")))
    if _is(cell, "code"):
        if source.strip():
            yield fenced(source, language)
        outputs = cell.get("outputs")
        shown = "".join(_output(each, left_out) for each in (outputs if isinstance(outputs, list) else []))
        if shown.strip():
            cut = len(shown) - LONGEST_OUTPUT
            yield fenced(shown[:LONGEST_OUTPUT].rstrip("\n") + (f"\n[{cut:,} characters more]" if cut > 0 else ""), "")
    elif _is(cell, "heading"):
        yield f"{'#' * min(max(cell.get('level', 1) if isinstance(cell.get('level'), int) else 1, 1), 6)} {source}"
    elif source.strip():
        yield re.sub(r"!\[([^\]]*)\]\((?:attachment:|data:)[^)]*\)", r"\1", source)


def _output(output: Any, left_out: dict[str, int]) -> str:
    if not isinstance(output, dict):
        return ""
    if output.get("output_type") == "stream":
        return _COLOURS.sub("", _joined(output.get("text")))
    if output.get("output_type") in ("error", "pyerr"):
        return f"{_joined(output.get('ename'))}: {_joined(output.get('evalue'))}\n"
    data = output.get("data", output)
    kinds = [kind for kind in data if "/" in kind] if isinstance(data, dict) else []
    best = next((kind for kind in SHOWN if kind in kinds), None)
    for kind in kinds:
        if kind not in SHOWN:
            left_out[kind] = left_out.get(kind, 0) + 1
    if best is None:
        return _joined(data.get("text")) if isinstance(data, dict) else ""
    return _COLOURS.sub("", _joined(data[best])).rstrip("\n") + "\n"


def fenced(code: str, language: str) -> str:
    """A block of code in a fence that does not occur in it."""
    ticks = "`" * max((len(run) + 1 for run in re.findall("`{3,}", code)), default=3)
    return f"{ticks}{language}\n{code.removesuffix(chr(10))}\n{ticks}"
