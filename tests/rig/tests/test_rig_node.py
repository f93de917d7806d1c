# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes come up quickly, keep apart, and leave nothing behind, also when the command that made them was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rig import mounts, network, node
from rig.node import Node
from rig.paths import NODES, REPO
from rig.process import RigError, run, wait_for

ONE = Node("rig-one", "10.213.97.45")
TWO = Node("rig-two", "10.213.97.46")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    ONE.down()
    TWO.down()


def _traces(name: str) -> list[str]:
    """Everything on this machine that bears the node's name."""
    found = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/hpc-compute-{name}")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"hpc-compute-{name}")]
    found += mounts.below(NODES / name)
    found += [str(path) for path in (NODES / name, Path("/run/systemd/nspawn/propagate", name)) if path.exists()]
    return found + [line for line in _processes() if f"--machine={name}" in line or f"/{name}/ssh" in line]


def _processes() -> Iterator[str]:
    """The command lines of this machine's processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _network_traces() -> list[str]:
    links = [line for line in run(["ip", "-brief", "link"]).stdout.splitlines() if network.BRIDGE in line]
    rules = run(["iptables-save"]).stdout.splitlines()
    return links + [line for line in rules if "hpc-compute-rig" in line]


def test_two_nodes_are_machines_of_their_own() -> None:
    ONE.up()
    TWO.up()
    for one in (ONE, TWO):
        assert one.run(["hostname"]).stdout.strip() == one.name
        assert one.run(["systemctl", "is-system-running"]).stdout.strip() == "running"
    assert ONE.run(["cat", "/etc/machine-id"]).stdout != TWO.run(["cat", "/etc/machine-id"]).stdout
    assert ONE.run(["timeout", "5", "bash", "-c", f"exec 3<>/dev/tcp/{TWO.ip}/22"]).returncode == 0
    ONE.down()
    assert _traces(ONE.name) == []
    assert TWO.run(["apt-get", "-q", "update"]).returncode == 0, "the way out must stay while a node is up"
    TWO.down()
    assert _traces(TWO.name) == []
    if not node.all_nodes():
        assert _network_traces() == []


def test_down_of_what_is_not_there_is_no_failure() -> None:
    ONE.down()


@pytest.mark.parametrize("moment", ["root/etc/machine-id", "ssh/root"], ids=["while it is made", "when it boots"])
def test_a_killed_up_is_cleared_by_the_next_command(moment: str) -> None:
    up = subprocess.Popen(
        [sys.executable, "-m", "rig", "up", ONE.name, "--ip", ONE.ip],
        env={**os.environ, "PYTHONPATH": str(REPO / "tests")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(f"{moment} to be there", (ONE.folder / moment).exists, seconds=30, every=0.005)
    up.send_signal(signal.SIGKILL)
    assert up.wait() == -signal.SIGKILL
    assert _traces(ONE.name) != []
    ONE.down()
    assert _traces(ONE.name) == []


def test_up_replaces_a_node_of_the_same_name() -> None:
    ONE.up()
    ONE.run(["touch", "/root/mark"])
    ONE.up()
    assert ONE.run(["test", "-e", "/root/mark"], check=False).returncode == 1


def test_an_address_in_use_is_refused() -> None:
    ONE.up()
    with pytest.raises(RigError, match=f"{ONE.ip} is in use by node {ONE.name}"):
        Node(TWO.name, ONE.ip).up()
    assert ONE.run(["true"]).returncode == 0


@pytest.mark.parametrize(
    ("name", "ip", "image", "message"),
    [
        ("a/b", "10.213.97.45", "debian", "expected a node name"),
        ("-a", "10.213.97.45", "debian", "expected a node name"),
        ("", "10.213.97.45", "debian", "expected a node name"),
        ("ok", "192.0.2.1", "debian", "expected an address of 10.213.97.0/24"),
        ("ok", "10.213.97.1", "debian", "expected an address"),
        ("ok", "here", "debian", "expected an address"),
        ("ok", "10.213.97.45", "other", "expected a node image of debian, controller"),
    ],
)
def test_bad_names_and_addresses_are_refused(name: str, ip: str, image: str, message: str) -> None:
    with pytest.raises(RigError, match=message):
        Node(name, ip, image).up()


def test_bad_gpus_are_refused_and_leave_nothing() -> None:
    with pytest.raises(RigError, match="nosuchboard"):
        ONE.up(gpus="nosuchboard")
    assert _traces(ONE.name) == []


def test_a_failing_command_says_where_and_why() -> None:
    ONE.up()
    with pytest.raises(RigError, match=r"on node rig-one: ls /nowhere failed with exit code 2: .*No such file"):
        ONE.run(["ls", "/nowhere"])
