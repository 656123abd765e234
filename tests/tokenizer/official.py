"""tiktoken's own cl100k_base, built from the installed rank file instead of a download."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import tiktoken

from megaphi.tokenizer.rank_file import CACHE_FILE_NAME, find_rank_file


@functools.cache
def official_cl100k() -> tiktoken.Encoding:
    with tempfile.TemporaryDirectory() as cache:
        shutil.copy(find_rank_file(), Path(cache, CACHE_FILE_NAME))
        with mock.patch.dict(os.environ, TIKTOKEN_CACHE_DIR=cache):
            return tiktoken.get_encoding("cl100k_base")
