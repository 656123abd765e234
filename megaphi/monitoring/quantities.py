"""Numbers as a person reads them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration as a person reads it: 42 s, 3:05 min, 7:12:00 h, 12 d 3 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 48 * 3_600:
        return f"{whole // 3_600}:{whole % 3_600 // 60:02d}:{whole % 60:02d} h"
    return f"{whole // 86_400:,} d {whole % 86_400 // 3_600} h"


def quantity(number: float, *, binary: bool = False) -> str:
    """A number with three digits and its unit: 983K, 12.5M, 9.8T; binary: 1.2 GiB."""
    base, units = (1_024, ("bytes", "KiB", "MiB", "GiB", "TiB")) if binary else (1_000, ("", "K", "M", "B", "T"))
    place = 0
    while abs(number) >= 999.5 and place < len(units) - 1:
        number, place = number / base, place + 1
    digits = f"{number:.3g}" if place else f"{number:.0f}"
    return f"{digits} {units[place]}" if binary else f"{digits}{units[place]}"
