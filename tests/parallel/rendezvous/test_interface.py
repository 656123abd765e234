"""The interface that reaches rank 0 is the one that gloo and NCCL are told to take."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from megaphi.parallel.rendezvous import interface
from megaphi.parallel.rendezvous.interface import choose_interface, interface_of, local_address

CARDS = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.0.0.5", "fe80::5%eth0"], "ib0": ["192.168.7.5"]}


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with three interfaces, whose routes to 10.* and 192.168.7.* take the matching ones."""
    found = {name: [SimpleNamespace(address=one) for one in addresses] for name, addresses in CARDS.items()}
    monkeypatch.setattr(interface.psutil, "net_if_addrs", lambda: found)
    monkeypatch.setattr(
        interface, "local_address", lambda host, port: "192.168.7.5" if host.startswith("192") else "10.0.0.5"
    )


@pytest.mark.parametrize(
    ("mine", "everybody", "gloo", "nccl"),
    [
        ("192.168.7.5", ["192.168.7.4", "192.168.7.5"], "ib0", "=ib0"),  # not the first card, and not the default route
        ("127.0.1.1", ["127.0.1.1", "192.168.7.6"], "ib0", "=ib0"),  # rank 0 on Debian: its name is loopback
        ("127.0.0.1", ["127.0.0.1", "127.0.0.1"], "lo", None),  # one host
        ("fe80::5%eth0", ["fe80::4%eth0", "fe80::5%eth0"], "eth0", "=eth0"),
        ("", ["", ""], None, None),  # unknown: left to gloo and NCCL
        ("172.16.0.1", ["172.16.0.1", "172.16.0.2"], None, None),  # behind an address translation
    ],
)
@pytest.mark.usefixtures("cards")
def test_the_interface_that_reaches_rank_0(mine, everybody, gloo, nccl):
    environment: dict[str, str] = {}
    assert choose_interface(mine, everybody, environment) == gloo
    assert environment.get("GLOO_SOCKET_IFNAME") == gloo
    assert environment.get("NCCL_SOCKET_IFNAME") == nccl


@pytest.mark.usefixtures("cards")
def test_what_the_user_has_set_stays():
    environment = {"GLOO_SOCKET_IFNAME": "bond7", "NCCL_SOCKET_IFNAME": "ib"}
    choose_interface("10.0.0.5", ["10.0.0.4", "10.0.0.5"], environment)
    assert environment == {"GLOO_SOCKET_IFNAME": "bond7", "NCCL_SOCKET_IFNAME": "ib"}


def test_the_way_to_this_host_is_loopback_and_nothing_needs_to_listen():
    assert local_address("127.0.0.1", 1) == "127.0.0.1"
    assert local_address("no-such-host.invalid", 1) == ""
    assert interface_of("127.0.0.1") == "lo"
