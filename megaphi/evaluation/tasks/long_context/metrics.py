"""Scores of answers about long contexts: texts found, shared words, longest common subsequence, nDCG.

Words are compared as SQuAD compares them: Unicode's NFKC form, lower case, no punctuation, no articles. A text is found
in an answer if its words stand there one after the other: `2` is not found in 1992, where comparing letters finds it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from megaphi.grading.exact_match import PUNCTUATION

ARTICLES = ("a", "an", "the")


def words_of(text: str) -> list[str]:
    """Words in the form in which they are compared."""
    lowered = "".join(" " if one in "-–—/_" else one for one in unicodedata.normalize("NFKC", text).casefold())
    bare = "".join(one for one in lowered if one not in PUNCTUATION)
    return [word for word in bare.split() if word not in ARTICLES]


def is_found(texts: Sequence[str], answer: str) -> bool:
    """Return whether the words of one of the texts follow each other in the answer."""
    said = f" {' '.join(words_of(answer))} "
    return any(f" {' '.join(words)} " in said for text in texts if (words := words_of(text)))


def word_f1(texts: Sequence[str], answer: str) -> float:
    """The largest harmonic mean of precision and recall of the answer's words, over the right texts."""
    said = Counter(words_of(answer))
    return max(_f1((Counter(words_of(text)) & said).total(), words_of(text), said.total()) for text in texts)


def rouge_l(texts: Sequence[str], answer: str) -> float:
    """ROUGE-L F1 (Lin 2004), the largest over the right texts: words lower-cased, without stemming.

    On ASCII text it is `rouge_score`'s; words of other scripts count here too.
    """
    said = _spelled_words(answer)
    return max(_f1(_common_subsequence(words, said), words, len(said)) for words in map(_spelled_words, texts))


def _spelled_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _f1(shared: int, words: Sequence[str], said: int) -> float:
    return 2 * shared / (len(words) + said) if shared else 0.0


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table in the bits of one number (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << place
    row = whole = (1 << len(left)) - 1
    for word in right:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & whole
    return len(left) - row.bit_count()


def ndcg(relevance: Mapping[str, int], ranking: Sequence[str], *, depth: int = 10) -> float:
    """nDCG with linear gain (Järvelin and Kekäläinen 2002), as trec_eval's `ndcg_cut`.

    Args:
        relevance: grade of each document, 0 for one that does not help.
        ranking: names, the best first; names that `relevance` lacks take their rank and gain nothing.

    Returns:
        DCG = sum over ranks r = 1 … depth of grade / log2(r + 1), divided by that of the best ranking; 0 if no
        document is relevant.
    """
    best = _gain(sorted(relevance.values(), reverse=True)[:depth])
    return _gain([relevance.get(name, 0) for name in ranking[:depth]]) / best if best else 0.0


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))
