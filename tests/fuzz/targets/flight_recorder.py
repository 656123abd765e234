"""A dump of torch's flight recorder, as `megaphi hang-report` reads it beside a whole one of another rank."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.structured import json_value
from tests.fuzz.target import Target
from tests.fuzz.targets.model_files import PICKLE_TOKENS, hostile_pickles


def read_a_dump(content: bytes) -> None:
    from megaphi.parallel.liveness.dumps import read_dumps
    from megaphi.parallel.liveness.hang_report import describe, missing_dumps, partings

    Path("trace_rank_0").write_bytes(content)
    Path("trace_rank_1").write_bytes(dumps()[0])
    found = read_dumps([Path("trace_rank_0"), Path("trace_rank_1")])
    missing_dumps(found)
    for parting in partings(found):
        describe(parting)


def dumps() -> Sequence[bytes]:
    """Small dumps of both kinds, as NCCL writes them."""
    entries = [_entry(number, name) for number, name in enumerate(("all_reduce", "barrier", "all_gather"), start=1)]
    config = {"7": {"name": "7", "desc": "TENSOR", "ranks": "[0, 1]"}}
    dump = {"version": "2.10", "pg_config": config, "pg_status": {}, "entries": entries}
    return [json.dumps(dump).encode(), pickle.dumps(dump, protocol=2), pickle.dumps(dump, protocol=4)]


def _entry(number: int, name: str) -> dict[str, Any]:
    return {
        "frames": [{"name": "reduce", "filename": "/code/mappings.py", "line": number}],
        "process_group": ["7", "TENSOR"],
        "collective_seq_id": number,
        "profiling_name": f"nccl:{name}",
        "time_created_ns": 1_000 * number,
        "input_sizes": [[64, 4]],
        "input_dtypes": ["Float"],
        "output_sizes": [[64, 4]],
        "output_dtypes": ["Float"],
        "state": "started",
        "is_p2p": False,
    }


TARGETS = (
    Target(name="flight recorder", run=read_a_dump, seeds=dumps, crafted=hostile_pickles, mutators=(json_value,),
           tokens=PICKLE_TOKENS, imports=("megaphi.parallel.liveness.hang_report",)),
)  # fmt: skip
