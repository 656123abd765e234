"""The text of an HTML page."""

from __future__ import annotations

from collections.abc import Mapping

from resiliparse.extract.html2text import extract_plain_text as resiliparse_text
from trafilatura import extract as trafilatura_text

from megaphi.curation.extract.decode import decoded
from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.curation.extract.html.tree import parsed


def extract_html(
    content: bytes, *, media_type: str, files: Mapping[str, bytes], engine: str = "trafilatura", deepest: int = 256
) -> Extracted:
    """The main text of a page as Markdown.

    Args:
        engine: `trafilatura` or `resiliparse`.
        deepest: nesting of elements.

    Raises:
        NotExtracted: `too_deep`, `empty`, or what the libraries cannot parse.
    """
    del files
    html, encoding = decoded(content, media_type=media_type)
    tree = parsed(html, deepest=deepest)
    if not tree.text_content().strip():
        raise NotExtracted("empty")
    if engine == "resiliparse":
        text = resiliparse_text(html, main_content=True)
    else:
        text = trafilatura_text(tree, output_format="markdown", include_tables=True) or ""
    if not text.strip():
        raise NotExtracted("empty")
    return Extracted(text, {"encoding": encoding, "extraction": {"engine": engine}})
