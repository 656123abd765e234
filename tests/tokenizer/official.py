"""The reference for the tokenizer: tiktoken itself, from the installed rank file instead of a download.

`official_cl100k` is tiktoken's own cl100k_base. `official_phi4` adds the released model's special tokens, which are
written out here once more, so that a wrong table of ours cannot agree with itself.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from itertools import count
from pathlib import Path
from unittest import mock

import tiktoken

from megaphi.tokenizer.rank_file import CACHE_FILE_NAME, find_rank_file

RELEASED_IDS = {
    "<|endoftext|>": 100_257,
    "<|fim_prefix|>": 100_258,
    "<|fim_middle|>": 100_259,
    "<|fim_suffix|>": 100_260,
    "<|im_start|>": 100_264,
    "<|im_end|>": 100_265,
    "<|im_sep|>": 100_266,
    "<|endofprompt|>": 100_276,
}
"""The named ones of phi-4's tokenizer_config.json; every other id from 100,256 to 100,351 is the next dummy."""


@functools.cache
def official_cl100k() -> tiktoken.Encoding:
    with tempfile.TemporaryDirectory() as cache:
        shutil.copy(find_rank_file(), Path(cache, CACHE_FILE_NAME))
        with mock.patch.dict(os.environ, TIKTOKEN_CACHE_DIR=cache):
            return tiktoken.get_encoding("cl100k_base")


def released_special_ids() -> dict[str, int]:
    """All 96, in id order."""
    names, numbers = {token: name for name, token in RELEASED_IDS.items()}, count()
    return {names.get(token) or f"<|dummy_{next(numbers)}|>": token for token in range(100_256, 100_352)}


@functools.cache
def official_phi4(size: int = 100_352) -> tiktoken.Encoding:
    """tiktoken's pattern, the first `size` - 96 of its ranks, and the special tokens behind them."""
    cl100k, moved = official_cl100k(), 100_352 - size
    return tiktoken.Encoding(
        f"official_phi4_{size}",
        pat_str=cl100k._pat_str,
        mergeable_ranks={token: rank for token, rank in cl100k._mergeable_ranks.items() if rank < size - 96},
        special_tokens={text: token - moved for text, token in released_special_ids().items()},
    )
