"""The health of a node: stand-ins for nvidia-smi and dmesg say what real ones have said of broken nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megaphi.cli import main
from megaphi.planning.node.bandwidth import judged
from megaphi.planning.node.gpus import check_gpus
from megaphi.planning.node.host import Port, check_ports, check_room, ports

GPU = "{number}, NVIDIA H100 80GB HBM3, 00000000:{bus}:00.0, 81559, {used}, {errors}"
LINK = "GPU {number}: NVIDIA H100 80GB HBM3 (UUID: GPU-{number})\n" + "".join(
    f"\t Link {link}: {{rate}}\n" for link in range(3)
)
NVIDIA_SMI = """#!/bin/sh
case "$1" in
    --query-gpu=*) cat gpus ;;
    --query-remapped-rows=*) cat rows ;;
    nvlink) cat links ;;
esac
"""


class Node:
    """A node of two GPUs in good health, of which a test breaks a part."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.gpus(*({"number": n, "bus": f"1{n}", "used": 500, "errors": 0} for n in range(2)))
        self.says("rows", "00000000:10:00.0, No, No\n00000000:11:00.0, 0, 0\n")
        self.says("links", "".join(LINK.format(number=n, rate="26.562 GB/s") for n in range(2)))
        self.says("log", "[1.0] NVRM: Xid (PCI:0000:10:00): 31, pid=7, MMU Fault\n")  # a program's own error
        self.program("nvidia-smi", NVIDIA_SMI.replace("cat ", f"cat {folder}/"))
        self.program("dmesg", f"#!/bin/sh\ncat {folder}/log\n")

    def gpus(self, *rows: dict[str, object]) -> None:
        self.says("gpus", "\n".join(GPU.format(**row) for row in rows))

    def says(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def program(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)
        (self._folder / name).chmod(0o755)

    def without(self, name: str) -> None:
        (self._folder / name).unlink()


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Node(tmp_path)


def verdicts(expected: int = 2) -> dict[str, str]:
    return {finding.check: finding.verdict for finding in check_gpus(expected)}


def text_of(check: str, expected: int = 2) -> str:
    return next(finding.found for finding in check_gpus(expected) if finding.check == check)


def test_a_node_in_good_health(node):
    assert set(verdicts().values()) == {"ok"}
    assert text_of("kind of GPU") == "NVIDIA H100 80GB HBM3, 86 GB"
    assert text_of("NVLink") == "3 links on each GPU"


def row(number: int = 0, used: int = 0, errors: object = 0) -> dict[str, object]:
    return {"number": number, "bus": f"1{number}", "used": used, "errors": errors}


@pytest.mark.parametrize(
    ("breaks", "check", "says"),
    [
        (lambda node: node.gpus(row()), "GPUs", "1 of 2"),
        (lambda node: node.gpus(row(), row(1, used=40_000)), "GPU memory", "GPU 1 has 41.9 GB in use"),
        (lambda node: node.gpus(row(), row(1, errors=20)), "memory errors", "GPU 1 has had 20 uncorrected"),
        (lambda node: node.says("rows", "00000000:11:00.0, Yes, No"), "row remapping", "pending on GPU 00000000:11:00"),
        (lambda node: node.says("rows", "00000000:11:00.0, 1, 1"), "row remapping", "pending and failed on GPU"),
        (
            lambda node: node.says("links", LINK.format(number=0, rate="<inactive>")),
            "NVLink",
            "link 0 of GPU 0, link 1 of GPU 0, link 2 of GPU 0 inactive",
        ),
        (
            lambda node: node.says("links", LINK.format(number=0, rate="26 GB/s") + "GPU 1: x\n"),
            "NVLink",
            "unequally many links: GPU 0 3, GPU 1 0",
        ),
        (
            lambda node: node.says("log", "[2.1] NVRM: Xid (PCI:0000:11:00): 79, GPU has fallen off the bus.\n"),
            "Xid",
            "79 (fallen off the bus) on GPU 0000:11:00, 1 x",
        ),
        (lambda node: node.program("nvidia-smi", "#!/bin/sh\necho no driver >&2; exit 9\n"), "GPUs", "no driver"),
        (lambda node: node.program("nvidia-smi", "#!/bin/sh\necho surprise\n"), "GPUs", "lists what is no GPU"),
        (lambda node: node.without("nvidia-smi"), "GPUs", "there is no nvidia-smi"),
    ],
)
def test_a_broken_gpu_fails_the_node_and_is_named(node, breaks, check, says):
    breaks(node)
    assert verdicts()[check] == "FAIL"
    assert says in text_of(check)
    assert [name for name, verdict in verdicts().items() if verdict == "FAIL"] == [check]


def test_gpus_of_two_kinds_fail_the_node(node, tmp_path):
    node.says("gpus", (tmp_path / "gpus").read_text().replace("H100 80GB HBM3", "H200", 1))
    assert verdicts()["kind of GPU"] == "FAIL"


def test_what_cannot_be_looked_at_is_unknown(node):
    node.program("dmesg", "#!/bin/sh\necho 'dmesg: read kernel buffer failed: Operation not permitted' >&2; exit 1\n")
    node.gpus(row(errors="[N/A]"), row(1, errors="[N/A]"))
    found = verdicts()
    assert found["Xid"] == "unknown"
    assert found["memory errors"] == "unknown"
    assert "FAIL" not in found.values()
    node.without("nvidia-smi")
    assert verdicts(expected=0) == {"GPUs": "ok"}


def test_ports_as_the_kernel_lists_them(tmp_path):
    for adapter, state, rate, link in (
        ("mlx5_0", "4: ACTIVE", "400 Gb/sec (4X NDR)", "InfiniBand"),
        ("mlx5_1", "1: DOWN", "40 Gb/sec (4X QDR)", "Ethernet"),
    ):
        port = tmp_path / adapter / "ports" / "1"
        port.mkdir(parents=True)
        for name, text in (("state", state), ("rate", rate), ("link_layer", link)):
            (port / name).write_text(text + "\n")
    found = ports(tmp_path)
    assert [(port.name, port.is_active, port.link) for port in found] == [
        ("mlx5_0:1", True, "InfiniBand"),
        ("mlx5_1:1", False, "Ethernet"),
    ]
    assert ports(tmp_path / "nothing") == []


def port(name: str, *, active: bool = True, rate: str = "400 Gb/sec", link: str = "InfiniBand") -> Port:
    return Port(name=f"{name}:1", is_active=active, rate=rate, link=link)


FABRIC = [port("mlx5_0"), port("mlx5_1"), port("mlx5_10"), port("mlx5_2", active=False, rate="100", link="Ethernet")]


@pytest.mark.parametrize(
    ("there", "wanted", "verdict", "says"),
    [
        ([], "", "ok", "no InfiniBand here"),
        (FABRIC, "", "ok", "3 active, 400 Gb/sec"),
        (FABRIC, "=mlx5_0,mlx5_1", "ok", "2 active"),
        (FABRIC, "mlx5_1", "ok", "2 active"),  # a prefix
        (FABRIC, "^mlx5_2", "ok", "3 active"),
        (FABRIC, "=mlx5_2", "FAIL", "not active: mlx5_2:1, of 1"),
        (FABRIC, "=mlx5_7", "FAIL", "NCCL_IB_HCA==mlx5_7 names none that is here"),
        ([*FABRIC, port("mlx5_3", active=False)], "", "FAIL", "not active: mlx5_3:1, of 4"),
        ([*FABRIC, port("mlx5_3", rate="200 Gb/sec")], "", "FAIL", "unequally fast"),
    ],
)
def test_ports_must_be_active_and_equally_fast(there, wanted, verdict, says):
    found = check_ports(there, wanted=wanted)
    assert found.verdict == verdict
    assert says in found.found


def test_room(tmp_path):
    assert check_room("run folder", tmp_path / "not" / "yet", 1).verdict == "ok"
    short = check_room("run folder", tmp_path, 1 << 60)
    assert short.verdict == "FAIL"
    assert "below 1152921505 GB" in short.found
    file = tmp_path / "file"
    file.touch()
    assert check_room("scratch", file, 1).verdict == "FAIL"


def test_an_all_reduce_is_held_against_what_the_planner_assumes():
    assert judged(300e9, device="NVIDIA H100 80GB HBM3", processes=8).verdict == "ok"
    slow = judged(100e9, device="NVIDIA H100 80GB HBM3", processes=8)
    assert slow.verdict == "FAIL"
    assert slow.found == "100.0 GB/s between 8 x NVIDIA H100 80GB HBM3; at least 280 expected"
    assert judged(1e9, device="CPU", processes=2).verdict == "ok"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "8", "--bandwidth"], "--bandwidth, --gpus: a check of the node alone, which --node asks for"),
        (["--node", "quickstart_pretrain"], "--node checks this node and no recipe: leave out quickstart_pretrain"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words, message, capsys):
    assert main(["doctor", *words]) == 2
    assert capsys.readouterr().err == f"megaphi: {message}\n"


@pytest.mark.slow
def test_the_command_names_the_node_and_ends_with_its_verdict(node, tmp_path):
    """With an all-reduce of two CPU processes, by gloo."""
    words = [sys.executable, "-m", "megaphi", "doctor", "--node", "--gpus", "2", "--folder", str(tmp_path / "run")]
    node.gpus(row())
    unfit = subprocess.run(words, capture_output=True, text=True, check=False)
    assert unfit.returncode == 1
    assert unfit.stdout.splitlines()[-1].endswith("unfit: GPUs")
    node.gpus(row(), row(1))
    fit = subprocess.run([*words, "--bandwidth"], capture_output=True, text=True, check=False)
    assert fit.returncode == 0, fit.stdout + fit.stderr
    assert "GB/s between 2 x CPU" in fit.stdout
    names = {line.split()[0] for line in fit.stdout.splitlines()}
    assert len(names) == 1
