"""The success probability along an answer, with its band, as the technical report's figure 3 shows it; as SVG."""

from __future__ import annotations

import io
from collections.abc import Collection

from megaphi.pivotal.search import SearchedAnswer

UP, DOWN, CURVE = "#0072B2", "#D55E00", "#333333"
"""Colours of Okabe and Ito, which colour-blind readers tell apart."""


def success_curve(answer: SearchedAnswer, pivotal: Collection[int]) -> str:
    """An <svg> element: p over positions, and a vertical line at each pivotal token."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which belongs to the main thread

    with matplotlib.rc_context({"svg.hashsalt": "megaphi", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 2.4), layout="constrained")
        axes = figure.subplots()
        points = sorted(answer.findings.curve, key=lambda point: point.position)
        positions = [point.position for point in points]
        estimates = [point.success.estimate for point in points]
        lows, highs = [point.success.low for point in points], [point.success.high for point in points]
        axes.fill_between(positions, lows, highs, color=CURVE, alpha=0.15, linewidth=0, step="post")
        axes.step(positions, estimates, where="post", color=CURVE, linewidth=1.2)
        for effect in answer.findings.tokens:
            if effect.position in pivotal:
                colour = UP if effect.effect.estimate > 0 else DOWN
                axes.axvline(effect.position + 1, color=colour, linewidth=1.5, alpha=0.8)
        axes.set(xlim=(0, len(answer.trace.tokens)), ylim=(-0.03, 1.03), xlabel="token", ylabel="P(success)")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    content = buffer.getvalue()
    return content[content.index("<svg") :]
