"""Extractors that do what a library may do on a hostile file. `content` says which."""

from __future__ import annotations

import os
from collections.abc import Mapping

from megaphi.curation.extract.found import Extracted, NotExtracted


def misbehave(content: bytes, *, media_type: str, files: Mapping[str, bytes], suffix: str = "") -> Extracted:
    match content.decode():
        case "loop":
            while True:
                pass
        case "memory":
            return Extracted(str(len(bytearray(4 << 30))))
        case "abort":
            os.abort()
        case "deep":
            return misbehave(content, media_type=media_type, files=files)
        case "bug":
            raise KeyError("missing")
        case "refuse":
            raise NotExtracted("encrypted", "password")
        case "print":
            print("noise on standard output")
    return Extracted(
        f"{content.decode()} {media_type} {sorted(files.items())} \ud800{suffix}", {"process": os.getpid()}
    )
