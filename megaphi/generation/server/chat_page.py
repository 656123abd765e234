"""The chat page, and the headers that let a browser run its own script and style and nothing else.

The content security policy allows the page's script and style by their hashes, so markup that is injected into the page
can neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("chat.html")


def chat_page() -> tuple[bytes, dict[str, str]]:
    """(content, headers) of the page."""
    page = PAGE.read_bytes()
    policy = (
        f"default-src 'none'; script-src {_hash(page, b'script')}; style-src {_hash(page, b'style')}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return page, headers


def _hash(page: bytes, tag: bytes) -> str:
    """The source expression of the page's one element of this name."""
    (content,) = re.findall(b"<" + tag + b">(.*?)</" + tag + b">", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
