"""Two hosts in network namespaces: when something happens to a rank or to the link, how soon has every rank ended?

Two namespaces with host names of their own, joined by a veth pair, two ranks in each, started without any launcher, so
that nobody but the ranks themselves can end a rank. A rank that was stopped is continued once the others have ended,
and must then end too. For every case: seconds from the event until the last rank that could run had ended, all exit
codes, and what the ranks said. Needs root and iproute2; leaves no namespace behind.

    python benchmarks/two_hosts.py --write
    python benchmarks/two_hosts.py --cases "stopped rank 0" "link down"
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "two_hosts.csv"
COLUMNS = ("date", "commit", "torch", "case", "seconds", "seconds_after_continuing", "exit_codes", "said")
NAMES, ADDRESSES, LINKS = ("mega-a", "mega-b"), ("10.77.0.1", "10.77.0.2"), ("mega-va", "mega-vb")
PORT = 29_431
SECRET = "MEGAPHI_JOB_SECRET"
WORLD, PER_HOST = 4, 2
START_SECONDS = 20
LONGEST_SECONDS = 200.0


@dataclass(kw_only=True, slots=True)
class Ranks:
    """The processes of one case."""

    folder: Path
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)

    def start(self, rank: int, *words: str, **variables: str) -> None:
        host = rank // PER_HOST
        place = {
            "RANK": str(rank),
            "WORLD_SIZE": str(WORLD),
            "LOCAL_RANK": str(rank % PER_HOST),
            "LOCAL_WORLD_SIZE": str(PER_HOST),
            "MASTER_ADDR": ADDRESSES[0],
            "MASTER_PORT": str(PORT),
            "TINY_DATA": str(self.folder.parent / "tokens"),
            "OMP_NUM_THREADS": "1",
            SECRET: "known to the ranks only",
        }
        inside = f'hostname host-{"ab"[host]} && exec "$@"'
        enter = ["ip", "netns", "exec", NAMES[host], "unshare", "--uts", "sh", "-c", inside, "sh"]
        recipe = f"{ROOT / 'tests/stages/tiny_recipe.py'}:tiny"
        train = [sys.executable, "-m", "megaphi", "train", recipe, f"folder={self.folder / 'run'}"]
        with open(self._said(rank), "wb") as said:
            self.processes[rank] = subprocess.Popen(
                [*enter, *train, "layout.tensor=2", "validation.every=0", *words],
                env={**os.environ, **place, **variables},
                stdout=said,
                stderr=said,
            )

    def _said(self, rank: int) -> Path:
        return self.folder / f"rank_{rank}.txt"

    def send(self, rank: int, number: int) -> None:
        self.processes[rank].send_signal(number)
        if number == signal.SIGSTOP:
            self.stopped.add(rank)

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + LONGEST_SECONDS
        metrics = self.folder / "run" / "metrics.jsonl"
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < step:
            if time.monotonic() > deadline or all(rank.poll() is not None for rank in self.processes.values()):
                raise RuntimeError(f"step {step} was not reached: {self.said()}")
            time.sleep(0.1)

    def seconds_until_ended(self, ranks: Sequence[int]) -> float:
        began = time.monotonic()
        while any(self.processes[rank].poll() is None for rank in ranks):
            if time.monotonic() - began > LONGEST_SECONDS:
                return float("inf")
            time.sleep(0.05)
        return time.monotonic() - began

    def said(self) -> dict[int, list[str]]:
        """Messages by rank, and of tracebacks their first line; without what a run that goes well says too."""
        told = {}
        for rank in sorted(self.processes):
            lines = re.split(r"[\r\n]+", self._said(rank).read_text(errors="replace"))
            found = (
                re.search(r"megaphi: .*|Traceback.*|[^\]|]*(waits for|waits:|SIG\w+: sav).*", line) for line in lines
            )
            told[rank] = [match[0].strip() for match in found if match]
        return told


def train_and_save(ranks: Ranks) -> None:
    start_all(ranks, "training.steps=40")


def stop_and_save(ranks: Ranks) -> None:
    start_all(ranks)
    ranks.wait_for_step(10)
    ranks.send(3, signal.SIGUSR1)


def kill(ranks: Ranks) -> None:
    start_all(ranks)
    ranks.wait_for_step(10)
    ranks.send(3, signal.SIGKILL)


def kill_rank_0(ranks: Ranks) -> None:
    start_all(ranks)
    ranks.wait_for_step(10)
    ranks.send(0, signal.SIGKILL)


def stop_rank_2(ranks: Ranks) -> None:
    start_all(ranks)
    ranks.wait_for_step(10)
    ranks.send(2, signal.SIGSTOP)


def stop_rank_0(ranks: Ranks) -> None:
    start_all(ranks)
    ranks.wait_for_step(10)
    ranks.send(0, signal.SIGSTOP)


def cut_the_link(ranks: Ranks) -> None:
    start_all(ranks)
    ranks.wait_for_step(10)
    ip("-n", NAMES[1], "link", "set", LINKS[1], "down")


def wrong_address(ranks: Ranks) -> None:
    start_all(ranks, f"patience.start_seconds={START_SECONDS}", on_second_host={"MASTER_ADDR": "10.77.0.99"})


def wrong_name(ranks: Ranks) -> None:
    start_all(ranks, f"patience.start_seconds={START_SECONDS}", on_second_host={"MASTER_ADDR": "no-such-host.invalid"})


def wrong_port(ranks: Ranks) -> None:
    start_all(ranks, f"patience.start_seconds={START_SECONDS}", on_second_host={"MASTER_PORT": str(PORT + 1)})


def missing_rank(ranks: Ranks) -> None:
    for rank in range(WORLD - 1):
        ranks.start(rank, f"patience.start_seconds={START_SECONDS}")


def same_rank_twice(ranks: Ranks) -> None:
    start_all(ranks, f"patience.start_seconds={START_SECONDS}", third_is="1")


def another_size(ranks: Ranks) -> None:
    start_all(ranks, f"patience.start_seconds={START_SECONDS}", on_second_host={"WORLD_SIZE": "8"})


def another_secret(ranks: Ranks) -> None:
    start_all(ranks, f"patience.start_seconds={START_SECONDS}", on_second_host={SECRET: "another"})


def stranger(ranks: Ranks) -> None:
    """Before the others come, somebody on the second host writes to rank 0's store whatever the ranks will read."""
    words = ("training.steps=40", "saving.every=20")
    ranks.start(0, *words)
    enter = ["ip", "netns", "exec", NAMES[1], sys.executable, "-c", STRANGER, ADDRESSES[0], str(PORT)]
    subprocess.run(enter, check=True, timeout=LONGEST_SECONDS)
    for rank in range(1, WORLD):
        ranks.start(rank, *words)


STRANGER = """
import datetime, json, sys
from torch.distributed import PrefixStore, TCPStore
from megaphi.parallel.rendezvous.signed_store import SignedStore

client = TCPStore(sys.argv[1], int(sys.argv[2]), timeout=datetime.timedelta(seconds=120), wait_for_workers=False)
store = SignedStore(PrefixStore("megaphi/0/4", client), secret="guessed")
for rank in (2, 3):
    me = {"rank": rank, "facts": {}, "host": "elsewhere", "kernel": "", "pid": 666, "address": sys.argv[1],
          "gpu": "", "problem": "by order of a stranger"}
    store.set(f"arrival/{store.add('arrivals', 1)}", json.dumps(me))
store.plain.set(f"arrival/{store.add('arrivals', 1)}", b"\\x80\\x04cos\\nsystem\\n(S'touch /tmp/stranger'\\ntR.")
store.add("arrivals", 9)
for key in ("verdict", "heartbeat/verdict"):
    store.set(key, json.dumps({"problem": "go home", "present": [], "ranks": [0, 1, 2, 3], "text": "go home"}))
"""


def start_all(
    ranks: Ranks, *words: str, on_second_host: dict[str, str] | None = None, third_is: str | None = None
) -> None:
    for rank in range(WORLD):
        variables = dict(on_second_host or {}) if rank >= PER_HOST else {}
        if third_is is not None and rank == WORLD - 1:
            variables["RANK"] = third_is
        ranks.start(rank, *(words or ("training.steps=1000000", "saving.every=50")), **variables)


CASES: dict[str, Callable[[Ranks], None]] = {
    "train, save, end": train_and_save,
    "SIGUSR1 to rank 3": stop_and_save,
    "kill -9 of rank 3": kill,
    "kill -9 of rank 0": kill_rank_0,
    "stopped rank 2": stop_rank_2,
    "stopped rank 0": stop_rank_0,
    "link down": cut_the_link,
    "wrong address": wrong_address,
    "wrong name": wrong_name,
    "wrong port": wrong_port,
    "missing rank": missing_rank,
    "same rank twice": same_rank_twice,
    "another world size": another_size,
    "another secret": another_secret,
    "a stranger in the store": stranger,
}


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


def make_network() -> None:
    """Two hosts and a wire."""
    for name in NAMES:
        ip("netns", "delete", name, check=False)
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", LINKS[0], "netns", NAMES[0], "type", "veth", "peer", "name", LINKS[1], "netns", NAMES[1])
    for name, link, address in zip(NAMES, LINKS, ADDRESSES, strict=True):
        ip("-n", name, "address", "add", f"{address}/24", "dev", link)
        ip("-n", name, "link", "set", link, "up")


def remove_network() -> None:
    for name in NAMES:
        ip("netns", "delete", name, check=False)


def judged(name: str, folder: Path) -> dict[str, object]:
    """Let one case happen in a network of its own."""
    folder.mkdir()
    ranks = Ranks(folder=folder)
    make_network()
    try:
        CASES[name](ranks)
        seconds = ranks.seconds_until_ended([rank for rank in ranks.processes if rank not in ranks.stopped])
        for rank in ranks.stopped:
            ranks.send(rank, signal.SIGCONT)
        after = ranks.seconds_until_ended(sorted(ranks.stopped)) if ranks.stopped else None
        said = ranks.said()
        return {
            "case": name,
            "seconds": f"{seconds:.0f}",
            "seconds_after_continuing": "" if after is None else f"{after:.0f}",
            "exit_codes": " ".join(str(process.poll()) for _, process in sorted(ranks.processes.items())),
            "said": "\n".join(f"{rank}| {line}" for rank, lines in said.items() for line in lines),
        }
    finally:
        for process in ranks.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        remove_network()


def make_tokens(folder: Path) -> None:
    from megaphi.data.tokenize.pipeline import tokenize_documents
    from megaphi.data.tokenize.settings import TokenizeSettings

    for name in ("web", "code"):
        text = ROOT / "examples" / "corpus" / name / "validation.jsonl.zst"
        tokenize_documents(
            [text], folder / name, TokenizeSettings(vocabulary_size=512), processes=1, show_progress=False
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--write", action="store_true", help="replace these cases in benchmarks/results/two_hosts.csv")
    arguments = parser.parse_args()
    if os.geteuid() or shutil.which("ip") is None:
        sys.exit("two_hosts.py makes network namespaces: it needs root and `ip` of iproute2")
    from megaphi.checkpoint.versions import short_commit, versions

    about = {"date": date.today().isoformat(), "commit": short_commit(7), "torch": versions()["torch"]}
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        make_tokens(Path(temporary) / "tokens")
        for number, name in enumerate(arguments.cases):
            rows.append({**about, **judged(name, Path(temporary) / str(number))})
            print(json.dumps(rows[-1], indent=1).replace("\\n", "\n    "), flush=True)
    if arguments.write:
        with open(RESULTS, newline="") as file:
            kept: list[dict[str, object]] = [
                dict(row) for row in csv.DictReader(file) if row["case"] not in arguments.cases
            ]
        with open(RESULTS, "w", newline="") as file:
            writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows([*kept, *rows])


if __name__ == "__main__":
    main()
