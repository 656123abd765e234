"""DROP's measure of an answer (Dua et al. 2019, section 5): exact match and F1 of words, aligned span by span.

Words are compared in lower case, without punctuation and articles, numbers by value. A span of the key that holds a
number matches nothing without that number. The spans of the two sides are paired so that the sum of F1 is largest; a
span without a partner counts as 0.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

import numpy as np

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def normal_words(text: str) -> list[str]:
    """The words that are compared, in their order."""
    found: list[str] = []
    for token in filter(None, re.split("[ -]", text.lower())):
        bare = token if is_number(token) else token.translate(PUNCTUATION)
        found += ARTICLES.sub(" ", str(float(bare)) if is_number(bare) else bare).split()
    return found


def exact_match(found: Sequence[str], key: Sequence[str]) -> float:
    """1 if the spans are the same texts, in any order."""
    ours, theirs = ([" ".join(normal_words(span)) for span in spans] for spans in (found, key))
    return float(len(ours) == len(theirs) and set(ours) == set(theirs))


def f1_of_spans(found: Sequence[str], key: Sequence[str]) -> float:
    """Mean F1 of the best pairing, over the longer of the two lists; rounded to four places, as it is published."""
    ours, theirs = ([set(normal_words(span)) for span in spans] for spans in (found, key))
    scores = np.array([[f1_of_words(one, other) for one in ours] for other in theirs])
    return round(largest_sum(scores) / max(len(ours), len(theirs)), 4)


def f1_of_words(found: set[str], key: set[str]) -> float:
    """F1 of two sets of words; 0 where the key holds numbers, and the answer none of them."""
    numbers = set(filter(is_number, key))
    if numbers and not numbers & found:
        return 0.0
    shared = len(found & key)
    precision = shared / len(found) if found else 1.0
    recall = shared / len(key) if key else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def largest_sum(scores: np.ndarray) -> float:
    """The largest sum of entries of which no two share a row or a column.

    Rows are taken in one by one, each along the cheapest path that moves earlier ones to other columns (the Hungarian
    method, as Jonker and Volgenant 1987 write it).
    """
    costs = -(scores if scores.shape[0] <= scores.shape[1] else scores.T)
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)
    for first in range(rows):
        least, came_from, done = np.full(columns, np.inf), np.full(columns, -1), np.zeros(columns, dtype=bool)
        row, column, reached = first, -1, 0.0
        while row >= 0:
            step = reached + costs[row] - row_price[row] - column_price
            better = ~done & (step < least)
            least[better], came_from[better] = step[better], column
            column = int(np.where(done, np.inf, least).argmin())
            done[column], reached, row = True, least[column], row_of[column]
        taken = done & (np.arange(columns) != column)
        row_price[first] += reached
        row_price[row_of[taken]] += reached - least[taken]
        column_price[taken] -= reached - least[taken]
        while column >= 0:
            row_of[column] = row_of[came_from[column]] if came_from[column] >= 0 else first
            column = int(came_from[column])
    return float(sum(-costs[row, column] for column, row in enumerate(row_of) if row >= 0))
