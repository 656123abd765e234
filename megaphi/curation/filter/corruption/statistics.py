"""Statistics of clean text by language: character n-grams, and how well windows of it compress.

A character n-gram model gives every character the bits that it costs after the three before it; text of the language
costs two to three, scrambled letters, wrong encodings and base64 seven and more. Counts of 1- to 4-grams stand in
tables of 16-bit numbers under a hash, interpolated from short to long (Witten & Bell 1991): the bits of a million
characters take a few array operations. Both statistics are taken over windows, so that a page with a
broken half is seen; where clean windows lie was measured on clean text that the model was not trained on. The file is
of plain arrays (safetensors).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megaphi.errors import InputError
from megaphi.files import whole_file
from megaphi.json_text import parse_json

ORDERS = 4
TABLE_BITS = 16
WINDOW = 1_000
"""Characters of a window; what is left at the end counts if it is half as long."""
SHORTEST = WINDOW // 2
FORMAT = "megaphi text statistics 1"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class LanguageStatistics:
    """Counts of n-grams in clean text, and the ranges of its windows."""

    counts: np.ndarray
    """[orders, table] 16-bit counts of 1- to 4-grams under their hashes."""
    followers: np.ndarray
    """[orders, table] different characters seen after each context of 0 to 3 characters."""
    total: int
    """Characters counted, after the counts were made to fit 16 bits."""
    bits: float
    """Most bits a character of clean windows."""
    ratio: tuple[float, float]
    """Least and most compressed bytes a byte of clean windows."""


def hashes_of(text: str) -> list[np.ndarray]:
    """Place in the table of the 1-gram to 4-gram that ends at each character; line breaks are spaces, digits zeros."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    codes = np.where(codes < 33, 32, codes)
    codes = np.where((codes >= 48) & (codes <= 57), 48, codes)
    found, mixed = [], np.zeros(len(codes), np.uint64)
    with np.errstate(over="ignore"):
        for order in range(ORDERS):
            shifted = np.concatenate([np.full(order, 32, np.uint64), codes[: len(codes) - order]])
            mixed = (mixed ^ (shifted + np.uint64(order << 32))) * _MULTIPLIER
            found.append((mixed >> np.uint64(64 - TABLE_BITS)).astype(np.int64))
    return found


def bits_of(text: str, of: LanguageStatistics) -> np.ndarray:
    """Bits of every character after the three before it."""
    places = hashes_of(text)
    shares = np.full(len(places[0]), 1 / 65_536)
    for order, place in enumerate(places):
        if order == 0:
            context, different = float(of.total), float(of.followers[0, 0])
        else:
            before = np.concatenate([[0], places[order - 1][:-1]])
            context = of.counts[order - 1, before].astype(np.float64)
            different = of.followers[order, before].astype(np.float64)
        seen = np.minimum(of.counts[order, place], context)
        shares = (seen + (different + 1) * shares) / (context + different + 1)
    return -np.log2(shares)


def windows(text: str) -> list[str]:
    parts = [text[start : start + WINDOW] for start in range(0, len(text), WINDOW)]
    return [part for part in parts if len(part) >= SHORTEST]


def ratio_of(window: str) -> float:
    """Compressed bytes a byte, by zlib."""
    content = window.encode("utf-8", "surrogatepass")
    return len(zlib.compress(content, 6)) / len(content)


def window_bits(text: str, of: LanguageStatistics) -> np.ndarray:
    """Mean bits a character of each window of the text."""
    bits = bits_of(text, of)
    starts = [start for start in range(0, len(bits), WINDOW) if len(bits) - start >= SHORTEST]
    return np.array([bits[start : start + WINDOW].mean() for start in starts])


def count_text(texts: Sequence[str], *, outside: float = 0.001) -> LanguageStatistics:
    """Statistics of clean texts: every fifth is kept out of the counts, and gives the ranges.

    Args:
        outside: share of clean windows beyond each end of a range.

    Raises:
        InputError: the texts have too few windows for ranges.
    """
    trained, held = [text for place, text in enumerate(texts) if place % 5], texts[::5]
    held_windows = [window for text in held for window in windows(text)]
    if len(held_windows) < 20 or not trained:
        raise InputError(
            f"{len(held_windows)} windows of {WINDOW:,} characters in every fifth clean text: 20 are needed at least"
        )
    counts = np.zeros((ORDERS, 1 << TABLE_BITS), np.int64)
    followers = np.zeros((ORDERS, 1 << TABLE_BITS), np.int64)
    pairs: list[set[int]] = [set() for _ in range(ORDERS)]
    for text in trained:
        places = hashes_of(text)
        for order, place in enumerate(places):
            counts[order] += np.bincount(place, minlength=1 << TABLE_BITS)
            before = np.concatenate([[0], places[order - 1][:-1]]) if order else np.zeros_like(place)
            pairs[order].update(np.unique((before << TABLE_BITS) | place).tolist())
    for order, seen in enumerate(pairs):
        before = np.fromiter(seen, np.int64, len(seen)) >> TABLE_BITS
        followers[order] = np.bincount(before, minlength=1 << TABLE_BITS)
    scale = max(1.0, counts.max() / 65_535)
    made = LanguageStatistics(
        np.ceil(counts / scale).astype(np.uint16),
        np.minimum(followers, 65_535).astype(np.uint16),
        int(counts[0].sum() / scale),
        0.0,
        (0.0, 0.0),
    )
    bits = np.concatenate([window_bits(text, made) for text in held])
    ratios = [ratio_of(window) for window in held_windows]
    return LanguageStatistics(
        made.counts, made.followers, made.total, _range(bits, outside)[1], _range(np.array(ratios), outside)
    )


def _range(values: np.ndarray, outside: float) -> tuple[float, float]:
    """The quantiles, each farther from the median by a half: other clean text differs more than that held out here."""
    low, middle, high = np.quantile(values, [outside, 0.5, 1 - outside])
    return float(low - (middle - low) / 2), float(high + (high - middle) / 2)


def write_statistics(path: Path, of: Mapping[str, LanguageStatistics]) -> None:
    """Write one file for all languages."""
    from safetensors.numpy import save

    arrays = {f"{name}.{part}": getattr(each, part) for name, each in of.items() for part in ("counts", "followers")}
    about = {name: {"total": each.total, "bits": each.bits, "ratio": list(each.ratio)} for name, each in of.items()}
    with whole_file(path) as file:
        file.write(save(arrays, metadata={"format": FORMAT, "languages": json.dumps(about)}))


def read_statistics(path: str) -> dict[str, LanguageStatistics]:
    """Language -> its statistics. Raises InputError if the file is none, or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if about.get("format") == FORMAT:
            languages = parse_json(about["languages"])
            return {name: _language(arrays, name, numbers) for name, numbers in languages.items()}
    except FileNotFoundError:
        raise InputError(f"statistics of clean text not found: {path}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise InputError(f"{path}: damaged, or no statistics of clean text: {error}") from None
    raise InputError(f"{path}: expected the format {FORMAT!r}, found {about.get('format')!r}")


def _language(arrays: Mapping[str, np.ndarray], name: str, numbers: Mapping[str, Any]) -> LanguageStatistics:
    counts, followers = arrays[f"{name}.counts"], arrays[f"{name}.followers"]
    if counts.shape != (ORDERS, 1 << TABLE_BITS) or followers.shape != counts.shape:
        raise ValueError(f"the tables of {name} are {counts.shape}")
    low, high = numbers["ratio"]
    return LanguageStatistics(
        counts, followers, int(numbers["total"]), float(numbers["bits"]), (float(low), float(high))
    )


def statistics_by_language(texts: Iterable[tuple[str, str]]) -> dict[str, LanguageStatistics]:
    """Statistics of (language, clean text) pairs."""
    by_language: dict[str, list[str]] = {}
    for language, text in texts:
        by_language.setdefault(language, []).append(text)
    made = {}
    for language, found in sorted(by_language.items()):
        try:
            made[language] = count_text(found)
        except InputError as error:
            raise InputError(f"language {language!r}: {error}") from None
    return made
