"""`megaphi hang-report` on dumps in the format of torch's flight recorder (NCCL's, written here); hostile ones fail.

Dumps that a hung gloo job wrote by itself are read in test_heartbeat.py.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from megaphi.cli import main


def entry(number: int, name: str = "all_reduce", *, size: int = 64, state: str = "completed", **fields: Any) -> dict:
    return {
        "frames": [
            {"name": name, "filename": "/env/torch/distributed/distributed_c10d.py", "line": 9},
            {"name": "reduce_sums", "filename": "/code/mappings.py", "line": 20 + number},
        ],
        "process_group": ["7", "TENSOR_MODEL_PARALLEL_GROUP"],
        "collective_seq_id": number,
        "p2p_seq_id": 0,
        "profiling_name": f"nccl:{name}",
        "time_created_ns": 1_000 * number,
        "input_sizes": [[size, 4]],
        "input_dtypes": ["BFloat16"],
        "output_sizes": [[size, 4]],
        "output_dtypes": ["BFloat16"],
        "state": state,
        "is_p2p": False,
        **fields,
    }


def write(folder: Path, records: dict[int, list[dict]], *, ranks: list[int], as_json: bool = False) -> Path:
    for rank, entries in records.items():
        config = {"7": {"name": "7", "desc": "TENSOR_MODEL_PARALLEL_GROUP", "ranks": str(ranks)}}
        dump = {"version": "2.10", "pg_config": config, "pg_status": {}, "entries": entries}
        path = folder / f"nccl_trace_rank_{rank}"
        path.write_bytes(json.dumps(dump).encode() if as_json else pickle.dumps(dump, protocol=2))
    return folder


def report(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = main(["hang-report", str(folder)])
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_rank_that_has_not_come(as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waits = [entry(1), entry(2), entry(3, state="started")]
    code, said = report(write(tmp_path, {0: waits, 1: waits[:2], 2: waits}, ranks=[0, 1, 2], as_json=as_json), capsys)
    assert code == 1
    assert said == [
        "dumps of ranks 0-2: 8 collectives are compared",
        "group 7 (TENSOR_MODEL_PARALLEL_GROUP), number 3, all_reduce of 64 x 4 BFloat16: ranks 0, 2 wait",
        "  ranks 0, 2: all_reduce of 64 x 4 BFloat16, started, at reduce_sums (/code/mappings.py:23)",
        "  rank 1 has not entered it: its last here is all_reduce 2, at reduce_sums (/code/mappings.py:22)",
    ]


@pytest.mark.parametrize(
    ("other", "said_of_it"),
    [
        (entry(2, "all_gather"), "number 2: the ranks have started different operations"),
        (entry(2, size=63), "number 2: the ranks have started all_reduce of different sizes"),
    ],
    ids=["operation", "size"],
)
def test_a_mismatch(other: dict, said_of_it: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = report(write(tmp_path, {0: [entry(1), entry(2)], 1: [entry(1), other]}, ranks=[0, 1]), capsys)
    assert code == 1
    assert said[1].endswith(said_of_it)
    assert len(said) == 4
    assert "  rank 1: " in said[3]


def test_a_rank_without_a_dump_and_messages_that_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = entry(0, "send 0->1", is_p2p=True)
    code, said = report(write(tmp_path, {0: [message, entry(1, state="started")]}, ranks=[0, 1]), capsys)
    assert code == 1
    assert said[0].endswith("1 collectives are compared; 1 messages between two ranks are not")
    assert said[1].startswith("no dump of rank 1: killed or stopped")
    assert said[-1] == "  rank 1 left no dump"


def test_what_one_recorder_has_forgotten_is_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [entry(number) for number in range(1, 9)]
    code, said = report(write(tmp_path, {0: entries, 1: entries[5:]}, ranks=[0, 1]), capsys)
    assert code == 0
    assert said[-1].startswith("all ranks have started the same collectives")


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("called",))


HOSTILE = {
    "a pickle that calls": pickle.dumps({"entries": [Evil()]}),
    "no pickle": b"\x00\x01garbage",
    "a list": pickle.dumps([1, 2]),
    "an entry without fields": pickle.dumps({"entries": [{"is_p2p": False}]}),
    "entries of another type": pickle.dumps({"entries": 7}),
    "a group of a billion ranks": json.dumps({"entries": [], "pg_config": {"1": {"ranks": "[1000000000]"}}}).encode(),
    "a number beyond all": pickle.dumps({"entries": [entry(10**18), entry(1) | {"input_sizes": 5}]}),
    "deep JSON": b'{"entries":' + b"[" * 100_000,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_dump_is_one_message(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trace_rank_0").write_bytes(HOSTILE[case])
    assert main(["hang-report", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "trace_rank_0" in shown.err


def test_nothing_to_read_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hang-report", str(tmp_path)]) == 2
    assert "holds no dumps of torch's flight recorder" in capsys.readouterr().err
    assert main(["hang-report", str(tmp_path / "trace_rank_5")]) == 2
    assert main(["hang-report", str(tmp_path / "trace")]) == 2
