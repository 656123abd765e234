"""The characters of a text or HTML file.

A byte order mark decides. After it, bytes that are valid UTF-8 are UTF-8, whatever a server says: no other encoding
looks like it by accident, and headers lie more often. Then the header, the page's own declaration, and a guess from
letter statistics. Bytes that do not fit become U+FFFD; nothing is refused here.
"""

from __future__ import annotations

import codecs
import re

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_META = re.compile(rb"<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_DECLARED_WITHIN = 4096
_ESCAPES = b"\x1b"
"""ISO-2022 encodings are written with bytes of ASCII, so they look like UTF-8."""
_STRAY_SHARE = 0.005
"""A file that says UTF-8 and has at most so many bytes that do not fit is damaged, not in another encoding."""


def decoded(content: bytes, *, media_type: str) -> tuple[str, str]:
    """The text and the name of its encoding.

    Args:
        content: the file.
        media_type: may have the parameter `charset`, as in an HTTP header.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding, "replace").removeprefix("\ufeff"), encoding
    said, declared = (_known(label) for label in _labels(content, media_type))
    for encoding in (said, declared):
        if encoding is not None and encoding.startswith("iso2022") and _ESCAPES in content:
            return content.decode(encoding, "replace"), encoding
    try:
        return content.decode(), "utf-8"
    except UnicodeDecodeError:
        pass
    for encoding in (said, declared):
        if encoding == "utf-8" and _nearly_utf8(content):
            return content.decode("utf-8", "replace"), "utf-8"
        if encoding is not None and encoding != "utf-8":
            return content.decode(encoding, "replace"), encoding
    encoding = _guessed(content)
    return content.decode(encoding, "replace"), encoding


def _labels(content: bytes, media_type: str) -> tuple[str, str]:
    """The names that the header and the page give; empty where they give none."""
    said, declared = _CHARSET.search(media_type), _META.search(content, 0, _DECLARED_WITHIN)
    return said[1] if said else "", declared[1].decode("ascii", "replace") if declared else ""


def _known(label: str) -> str | None:
    """The encoding that a label means to browsers, if it is one."""
    if not label:
        return None
    from resiliparse.parse.encoding import map_encoding_to_html5

    try:
        return codecs.lookup(map_encoding_to_html5(label, fallback_utf8=False) or label).name
    except LookupError:
        return None


def _nearly_utf8(content: bytes) -> bool:
    strays = content.decode("utf-8", "replace").count("\ufffd")
    return strays <= max(1, _STRAY_SHARE * len(content))


def _guessed(content: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding

    try:
        return codecs.lookup(detect_encoding(content) or "cp1252").name
    except LookupError:
        return "cp1252"
