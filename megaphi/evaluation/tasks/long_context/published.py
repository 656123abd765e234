"""Phi-4's published scores on long contexts: HELMET, by task and length, in points of 100.

Technical report, section 3.3, table 5. Each is a mean over HELMET's datasets of a kind, some of them graded by GPT-4o,
in contexts measured by Llama 2's tokenizer: compare ours with each other first.
"""

from __future__ import annotations

from collections.abc import Mapping

PHI4_LONG_CONTEXT: Mapping[str, Mapping[int, float]] = {
    "recall": {8_192: 100.0, 16_384: 99.0},
    "rag": {8_192: 58.1, 16_384: 57.1},
    "icl": {8_192: 68.0, 16_384: 77.0},
    "rerank": {8_192: 65.3, 16_384: 54.4},
    "long_qa": {8_192: 26.7, 16_384: 36.0},
    "long_summary": {8_192: 38.3, 16_384: 40.5},
}
