"""A stranger who reaches the job's store writes to every key that ranks read: nobody believes it."""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from threading import Event
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore

from megaphi.errors import InputError
from megaphi.parallel import channel
from megaphi.parallel.channel import CalledOff, Channel
from megaphi.parallel.launcher import free_port
from megaphi.parallel.liveness.beats import FIRST, Beat, Person
from megaphi.parallel.liveness.heartbeat import Heartbeat
from megaphi.parallel.liveness.patience import Patience
from megaphi.parallel.rendezvous import job_store, meeting
from megaphi.parallel.rendezvous.job_store import open_store
from megaphi.parallel.rendezvous.meeting import Arrival, meet
from megaphi.parallel.rendezvous.place import Place
from megaphi.parallel.rendezvous.signed_store import SECRET, SignedStore


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "STRAGGLERS_SECONDS", 0.3)
    monkeypatch.setattr(meeting, "FAREWELL_SECONDS", 1.0)


def arrival(rank: int, *, pid: int = 0, host: str = "node0") -> Arrival:
    return Arrival(rank=rank, facts={"seed": "1"}, host=host, pid=pid or 100 + rank)


def come(store: Any, one: Arrival, *, secret: str = "ours", seconds: float = 5.0) -> list[int]:
    return sorted(meet(SignedStore(store, secret=secret), one, world_size=2, patience_seconds=seconds))


def write_as_rank_1(store: Any) -> None:
    stranger = arrival(1, pid=666, host="elsewhere")
    SignedStore(store, secret="guessed").set(f"arrival/{store.add('arrivals', 1)}", json.dumps(asdict(stranger)))


def write_a_verdict(store: Any) -> None:
    SignedStore(store, secret="guessed").set("verdict", json.dumps({"problem": "go home", "present": []}))


def write_what_is_no_text(store: Any) -> None:
    store.set(f"arrival/{store.add('arrivals', 1)}", b"\x80\x04\x95.")


def count_without_a_post(store: Any) -> None:
    store.add("arrivals", 50)


@pytest.mark.parametrize(
    "attack",
    [write_as_rank_1, write_a_verdict, write_what_is_no_text, count_without_a_post],
    ids=lambda one: one.__name__,
)
def test_the_meeting_is_of_those_who_know_the_secret(attack: Any) -> None:
    store = HashStore()
    attack(store)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda rank: come(store, arrival(rank)), (0, 1))) == [[0, 1], [0, 1]]


def test_a_rank_with_another_secret_says_so_and_rank_0_counts_it() -> None:
    store = HashStore()
    with ThreadPoolExecutor(2) as threads:
        host = threads.submit(come, store, arrival(0), seconds=1.0)
        with pytest.raises(InputError, match=f"does not have the secret of rank 0.*{SECRET}"):
            come(store, arrival(1), secret="older")
        with pytest.raises(InputError, match=f"1 came without this job's secret .{SECRET}"):
            host.result()


def test_a_crowd_of_strangers_is_named() -> None:
    store = HashStore()
    store.add("arrivals", 10_000)
    with pytest.raises(InputError, match="10,001 processes say that they come to this job of 2 ranks"):
        come(store, arrival(0))


class Doing:
    step, phase, phases = 3, "forward", 2

    def usual_work(self) -> dict[str, float]:
        return {}


def test_a_forged_beat_and_a_forged_verdict_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store, said = HashStore(), []
    ours, theirs = SignedStore(store, secret="ours"), SignedStore(store, secret="guessed")
    for rank in range(2):
        ours.set(f"beat/{rank}", json.dumps(FIRST))
    people = [Person("node0", 1), Person("node1", 2)]
    heartbeat = Heartbeat(ours, rank=1, people=people, doing=Doing(), patience=Patience())
    monkeypatch.setattr(heartbeat, "_end", lambda text, lost: said.append(text))
    theirs.set("beat/0", json.dumps(Beat(9, 9, "forward", "failed: by order")))
    theirs.set("heartbeat/verdict", json.dumps({"ranks": [1], "text": "leave"}))
    heartbeat._look()
    assert not said
    ours.set("beat/0", json.dumps(Beat(2, 4, "backward", "failed: out of memory")))
    heartbeat._look()
    assert len(said) == 1
    assert "out of memory" in said[0]


def test_a_forged_message_of_a_channel_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    store, ends = HashStore(), Event()
    monkeypatch.setenv(SECRET, "ours")
    monkeypatch.setattr(channel.distributed.distributed_c10d, "_get_default_store", lambda: store)
    messages = Channel("save", called_off=ends)
    SignedStore(store, secret="guessed").set("save/done", json.dumps("yes"))
    ends.set()
    with pytest.raises(CalledOff):
        messages.wait(["done"])
    messages.post("done", "no")
    assert messages.wait(["done"]) == ["no"]


def place(address: str, *, hosts: int = 1) -> Place:
    return Place(
        launcher="torchrun",
        rank=0,
        local_rank=0,
        world_size=2 * hosts,
        local_world_size=2,
        address=address,
        port=free_port(),
    )


def test_the_store_listens_at_one_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    here = place("127.0.0.1")
    stores = open_store(here, start_seconds=10.0, operation_seconds=60.0)
    stores[0].set("key", "value")
    assert stores[1].get("key") == "value"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", here.port or 0), timeout=5.0)


@pytest.mark.parametrize(
    ("address", "hosts", "listens_at"), [("127.0.0.1", 1, "127.0.0.1"), ("192.0.2.1", 2, "0.0.0.0")]
)
def test_an_address_of_another_machine_is_not_listened_at(
    address: str, hosts: int, listens_at: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(fileno=job_store._listen(place(address, hosts=hosts))) as listener:
        assert listener.getsockname()[0] == listens_at


def test_every_job_of_our_launcher_has_a_secret_of_its_own(tmp_path: Any) -> None:
    from megaphi.parallel.launcher import start_processes

    for job in ("a", "b"):
        told = "import os, sys; open(sys.argv[1] + os.environ['RANK'], 'w').write(os.environ[sys.argv[2]])"
        assert start_processes([sys.executable, "-c", told, str(tmp_path / job), SECRET], processes=2) == 0
    secrets = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert secrets["a0"] == secrets["a1"] != secrets["b0"] == secrets["b1"]
    assert len(secrets["a0"]) == 32
