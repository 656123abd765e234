"""The certificate: what was compared, where, how far apart it was and might be, and the verdict; JSON and a table.

It names the twin by a hash, so that it can be held against a recipe later (`problems_with`): a run whose recipe has
another twin, another source or other versions than the certificate has is not covered by it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from megaphi.checkpoint.versions import versions
from megaphi.config import to_plain
from megaphi.engine.run_config import RunConfig
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.parity.comparison import Differences, beyond, limit_of, limits_from, worst
from megaphi.planning.parity.made_batches import data_digest
from megaphi.planning.parity.twin import shrunk, twin_of

KINDS = ("loss", "gradient norm", "gradient of", "weight")
FORM = 1
MOST_NAMED = 5
Certificate = Mapping[str, Any]


def twin_digest(twin: RunConfig) -> str:
    """Hash of everything that decides what the twin computes in one process."""
    plain = to_plain(replace(twin, layout=ParallelLayout(), folder="", recipe=""))
    plain = {name: value for name, value in plain.items() if name != "patience"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def certificate_of(
    run: RunConfig,
    twin: RunConfig,
    results: Sequence[tuple[ParallelLayout, Differences]],
    *,
    own: Differences | None,
    left_out: Sequence[str],
    hosts: Sequence[str],
    device: str,
) -> dict[str, Any]:
    """The certificate of `results`; `own` is what one process errs in bf16, None in fp32."""
    bf16_limits = None if own is None else limits_from(own)
    layouts = [_layout_entry(layout, found, twin, bf16_limits) for layout, found in results]
    return {
        "certificate": FORM,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "recipe": run.recipe,
        "task": type(run.task).__name__,
        "objective": getattr(twin.task, "objective", None) or "cross-entropy of the next token",
        "twin_sha256": twin_digest(twin),
        "twin": to_plain(twin),
        "data_sha256": data_digest(twin),
        "versions": versions(),
        "ranks": len(hosts),
        "hosts": sorted(set(hosts)),
        "device": device,
        "layouts": layouts,
        "left_out": list(left_out),
        "passed": all(entry["passed"] for entry in layouts),
    }


def _layout_entry(
    layout: ParallelLayout, found: Differences, twin: RunConfig, bf16_limits: Mapping[str, float] | None
) -> dict[str, Any]:
    wrong = beyond(found, twin, bf16_limits)
    return {
        "layout": str(layout),
        "fields": to_plain(layout),
        "passed": not wrong,
        "worst": {kind: _item(*worst(found, kind, twin, bf16_limits)) for kind in KINDS},
        "beyond": [_item(*row) for row in wrong],
        "differences": {
            name: {"difference": _number(one), "limit": limit_of(name, twin, bf16_limits)}
            for name, one in found.items()
        },
        "worst_rank_of_weights": {name: rank for name, (_, rank) in found.weights.items()},
    }


def _item(name: str, difference: float, limit: float) -> dict[str, Any]:
    return {"item": name, "difference": _number(difference), "limit": limit}


def _number(value: float) -> float | str:
    """JSON has neither infinity nor NaN."""
    return value if abs(value) < float("inf") else str(value)


def table_lines(certificate: Certificate) -> Iterator[str]:
    """The certificate for people: one row per layout, then what is beyond its limit."""
    facts = certificate["versions"]
    yield f"# Parity of {certificate['recipe']}: {'passed' if certificate['passed'] else 'FAILED'}\n"
    hosts = ", ".join(certificate["hosts"])
    yield f"{certificate['ranks']} x {certificate['device']} on {hosts}, {certificate['made']},"
    yield f"megaphi {facts.get('commit', 'of no commit')}, torch {facts.get('torch')}, megatron-core"
    yield f"{facts.get('megatron-core')}; twin {certificate['twin_sha256'][:16]} in"
    yield f"{certificate['twin']['precision']['parameters']}, objective: {certificate['objective']}.\n"
    yield "Largest difference from one process, relative, with its limit:\n"
    yield "| layout | loss | gradient norm | gradients after one step | weights, over their change | |"
    yield "|---|---|---|---|---|---|"
    for entry in certificate["layouts"]:
        cells = " | ".join(_cell(entry["worst"][kind]) for kind in KINDS)
        yield f"| {entry['layout']} | {cells} | {'passed' if entry['passed'] else 'FAILED'} |"
    for entry in certificate["layouts"]:
        yield from _beyond_lines(entry)
    for reason in certificate["left_out"]:
        yield f"\nnot tried: {reason}"


def _beyond_lines(entry: Mapping[str, Any]) -> Iterator[str]:
    named = entry["beyond"]
    if not named:
        return
    yield f"\n{entry['layout']}: {len(named)} of {len(entry['differences'])} beyond their limit, the worst:"
    for one in named[:MOST_NAMED]:
        name = one["item"].removeprefix("weight ")
        rank = entry["worst_rank_of_weights"].get(name) if one["item"].startswith("weight ") else None
        where = "" if rank is None else f", most on rank {rank}"
        yield f"- {one['item']}: {_shown(one['difference'])}, limit {one['limit']:.1e}{where}"


def _cell(item: Mapping[str, Any]) -> str:
    return f"{_shown(item['difference'])} ({item['limit']:.1e})"


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1e}"


def problems_with(certificate: Certificate, run: RunConfig) -> list[str]:
    """Reasons why a certificate does not cover a run on this machine; none if it does."""
    problems = [] if certificate["passed"] else ["it did not pass"]
    twin = certificate["twin"]
    now = twin_of(
        run,
        world_size=certificate["ranks"],
        steps=twin["training"]["steps"],
        parameters=None if run.precision.fp8 != "none" else twin["precision"]["parameters"],
    )
    if twin["precision"]["parameters"] != run.precision.parameters:
        problems.append(f"it is of {twin['precision']['parameters']}, the run of {run.precision.parameters}")
    if twin_digest(now) != certificate["twin_sha256"]:
        problems.append(f"the recipe's twin is another one ({twin_digest(now)[:16]})")
    mine = versions()
    problems += [
        f"{name} was {certificate['versions'].get(name)}, and is {mine.get(name)}"
        for name in sorted({*mine, *certificate["versions"]} - {"commit"})
        if mine.get(name) != certificate["versions"].get(name)
    ]
    wanted = to_plain(shrunk(run.layout)) | {"data": None}
    if not any(entry["fields"] | {"data": None} == wanted for entry in certificate["layouts"]):
        problems.append(f"it did not try {shrunk(run.layout)}, the recipe's own layout at a small size")
    return problems
