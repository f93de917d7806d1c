# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes' network: a bridge of its own, with address translation to the outside. Made with the first node, removed
with the last."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

from .paths import STATE
from .process import RigError, run

BRIDGE = "hpcc0"
NETWORK = "10.213.97.0/24"
GATEWAY = "10.213.97.1"
#: Without one of its own the bridge has that of a node, another one as nodes come and go, and the nodes that stay lose
#: their gateway for half a minute.
_MAC = "02:68:70:63:63:00"
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_FORWARDING_WAS = STATE / "ip_forward"
_MARK = ("-m", "comment", "--comment", "hpc-compute-rig")
#: (table, chain, match and target). The two of FORWARD go to the top of the chain, since a machine with Docker drops
#: there what nobody accepted.
_RULES = (
    ("nat", "POSTROUTING", ("-s", NETWORK, "!", "-d", NETWORK, "-j", "MASQUERADE")),
    ("filter", "FORWARD", ("-i", BRIDGE, "-j", "ACCEPT")),
    ("filter", "FORWARD", ("-o", BRIDGE, "-j", "ACCEPT")),
)


def add() -> None:
    """Make the network; what is there already is left as it is."""
    if not Path(f"/sys/class/net/{BRIDGE}").exists():
        run(["ip", "link", "add", BRIDGE, "address", _MAC, "type", "bridge"])
    run(["ip", "address", "replace", f"{GATEWAY}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    for table, chain, rule in _RULES:
        words = (*rule, *_MARK)
        if _iptables(table, "-C", chain, *words, check=False) != 0:
            _iptables(table, "-I", chain, *words)
    if _FORWARDING.read_text(encoding="ascii").strip() == "0":
        _FORWARDING_WAS.write_text("0\n", encoding="ascii")
        _FORWARDING.write_text("1\n", encoding="ascii")


def remove() -> None:
    """Remove every trace of the network; does nothing where there is none."""
    for table, chain, rule in _RULES:
        while _iptables(table, "-C", chain, *rule, *_MARK, check=False) == 0:
            _iptables(table, "-D", chain, *rule, *_MARK)
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        run(["ip", "link", "delete", BRIDGE])
    if _FORWARDING_WAS.exists():
        _FORWARDING.write_text(_FORWARDING_WAS.read_text(encoding="ascii"), encoding="ascii")
        _FORWARDING_WAS.unlink()


def name_servers() -> list[str]:
    """Name servers a node can reach.

    :raises RigError: this machine has only one on itself, such as a local forwarder, which a node cannot reach.
    """
    if chosen := os.environ.get("HPC_COMPUTE_DNS"):
        return chosen.split()
    # systemd-resolved and NetworkManager keep the real servers elsewhere than in the file programs read
    files = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf")
    for path in map(Path, files):
        if not path.exists():
            continue
        lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
        named = [words[1].partition("%")[0] for words in lines if len(words) > 1 and words[0] == "nameserver"]
        usable = [server for server in named if ip_address(server).version == 4 and not ip_address(server).is_loopback]
        if usable:
            return usable
    raise RigError(
        f"expected an IPv4 name server that is not on this machine itself in {files[0]}, found none; "
        "name one that nodes can use: HPC_COMPUTE_DNS=ADDRESS ./run ..."
    )


def _iptables(table: str, action: str, *words: str, check: bool = True) -> int:
    return run(["iptables", "--wait", "-t", table, action, *words], check=check).returncode
