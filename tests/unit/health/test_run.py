# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All checks together: within their time, and with no mistake of one that takes a node out of service."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.health import gpus, machine, run
from ansible_collections.hpc.compute.plugins.module_utils.health.model import CheckResult, Report
from ansible_collections.hpc.compute.plugins.module_utils.health.run import (
    Node,
    acknowledge,
    acknowledged,
    look,
    read_kernel_log,
)
from ansible_collections.hpc.compute.plugins.module_utils.health.settings import CHECKS, Disk, Settings
from emulator.testing import EmulatedDriver

OFF: dict[str, Any] = dict.fromkeys(CHECKS, "off")
MOUNTINFO = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n22 21 0:5 / {} rw - nfs4 server:/home rw\n"


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.write("proc/self/mountinfo", MOUNTINFO.format(root / "home"))
        self.write("proc/meminfo", "MemAvailable: 4096 kB\n")
        self.write("kernel.log", "")
        (root / "home").mkdir()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def look(self, **settings: Any) -> Report:
        plain = {"kernel_log": str(self.root / "kernel.log"), "disks": (Disk("/", 0, 0, 0),)}
        return look(Node("n1", self.root, self.proc), Settings(**{**plain, **settings}))

    def only(self, check: str, **settings: Any) -> CheckResult:
        """One check, the others off."""
        report = self.look(checks={**OFF, check: "drain"}, **settings)
        assert [one.name for one in report.checks] == list(CHECKS)
        assert all(one.status == "off" and not one.findings for one in report.checks if one.name != check)
        return next(one for one in report.checks if one.name == check)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Machine]:
    with EmulatedDriver("h100-80", root=tmp_path):
        yield Machine(tmp_path)


def test_a_node_that_is_well(node: Machine) -> None:
    began = time.time()
    report = node.look(checks={"clock": "off"}, mounts=(str(node.root / "home"),))
    assert {one.name: one.status for one in report.checks} == {**dict.fromkeys(CHECKS, "ok"), "clock": "off"}
    assert report.healthy
    assert report.complete
    assert report.node == "n1"
    assert began - 1 < report.time < began + 10
    assert 0 < report.seconds < 10


def test_what_is_off_is_not_looked_at(node: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ask", lambda *_: pytest.fail("it asked"))
    report = node.look(checks=OFF)
    assert report.healthy
    assert {one.status for one in report.checks} == {"off"}


def test_the_driver_is_asked_for_any_check_that_needs_it(node: Machine) -> None:
    node.write("etc/hpc-compute/gpu-layout.yml", "version: v9")
    assert node.only("layout").status == "unknown"


def test_a_driver_that_hangs(tmp_path: Path) -> None:
    with EmulatedDriver("h100-80", root=tmp_path) as driver:
        node = Machine(tmp_path)
        driver.fault("nvmlInit*", hang=True)
        (found,) = node.only("driver", driver_timeout=0.3).findings
        assert str(found) == "the NVIDIA driver does not answer: no answer in 0.3 s"
        assert found.level == "fault"
        driver.clear_faults()
        driver.lose(0)
        assert "is lost" in str(node.only("gpus").findings)


def test_a_mistake_of_a_check_drains_nothing(node: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(*_: object) -> Any:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(gpus, "look_at_gpus", mistake)
    monkeypatch.setattr(machine, "room", mistake)
    monkeypatch.setattr(machine, "memory", mistake)
    monkeypatch.setattr(machine, "clock", mistake)
    monkeypatch.setattr(machine, "gres_files", mistake)
    monkeypatch.setattr(machine, "read_mounts", mistake)
    monkeypatch.setattr(run, "read_kernel_log", mistake)
    report = node.look()
    assert report.healthy
    assert not report.complete
    unsure = {one.name for one in report.checks if one.status == "unknown"}
    assert unsure == {"driver", "xid", "devices", "readonly", "disk", "memory", "clock"}
    assert all("ZeroDivisionError: oops" in str(one) for one in report.findings("unknown"))


def test_the_kernel_log(node: Machine) -> None:
    node.write("kernel.log", "100.0 n1 kernel: NVRM: Xid (PCI:0000:3b:00): 79, gone\n")
    assert [str(one) for one in node.only("xid").findings] == ["0000:3b:00.0: Xid 79, gone"]
    assert node.only("xid", xids={79: "ignore"}).status == "ok"
    acknowledge(node.root, 101.0)
    assert acknowledged(node.root) == 101.0
    assert node.only("xid").status == "ok"
    (node.root / "kernel.log").unlink()
    (found,) = node.only("xid").findings
    assert str(found).startswith("the kernel log could not be read: FileNotFoundError")
    assert found.level == "unknown"


def test_an_acknowledgement_that_is_none(tmp_path: Path) -> None:
    assert acknowledged(tmp_path) == 0
    acknowledge(tmp_path, 1.5)
    (tmp_path / run.ACKNOWLEDGED).write_text("yesterday")
    assert acknowledged(tmp_path) == 0


@pytest.mark.parametrize(
    ("code", "out", "err", "words"),
    [
        (0, "a\nb\n", "", None),
        (1, "", "", None),
        (1, "", "Failed to open journal", "ended with exit code 1: Failed to open journal"),
        (2, "", "", "ended with exit code 2: no message"),
    ],
)
def test_the_journal(monkeypatch: pytest.MonkeyPatch, code: int, out: str, err: str, words: str | None) -> None:
    def journalctl(command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == "journalctl"
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(subprocess, "run", journalctl)
    if words is None:
        assert read_kernel_log("journal") == out.splitlines()
    else:
        with pytest.raises(OSError, match=words):
            read_kernel_log("journal")


def test_mounts(node: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(node.root / "home")
    found = node.only("mounts", mounts=("/nowhere", home)).findings
    assert [str(one) for one in found] == ["/nowhere: is not mounted"]
    assert node.only("mounts").status == "ok"

    def hang(_path: str) -> None:
        while True:
            signal.pause()

    monkeypatch.setattr(machine, "touch", hang)
    (finding,) = node.only("mounts", mounts=(home,), mount_timeout=0.2).findings
    assert str(finding) == f"{home}: does not answer: no answer in 0.2 s"
    assert finding.level == "fault"

    def stale(_path: str) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(machine, "touch", stale)
    (finding,) = node.only("mounts", mounts=(home,)).findings
    assert str(finding) == f"{home}: does not answer: OSError: [Errno 116] Stale file handle"
    assert finding.level == "fault"
    (node.proc / "self/mountinfo").unlink()
    assert node.only("mounts", mounts=(home,)).status == "unknown"


def test_disks(node: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.only("disk", disks=(Disk("/", free_percent=100),)).status == "fault"
    (found,) = node.only("disk", disks=(Disk(str(node.root / "gone")),)).findings
    assert found.level == "unknown"
    assert "No such file" in str(found)

    def hang(_disk: Disk) -> None:
        while True:
            signal.pause()

    monkeypatch.setattr(machine, "room", hang)
    (found,) = node.only("disk", mount_timeout=0.2).findings
    assert str(found) == "/: does not answer: no answer in 0.2 s"


def test_devices_of_gres_conf(node: Machine) -> None:
    node.write("etc/slurm/gres.conf", "Name=gpu File=/dev/nvidia[0-2]\n")
    (found,) = node.only("devices").findings
    assert str(found) == "device files of gres.conf are missing: /dev/nvidia1, /dev/nvidia2"


def test_read_only_file_systems(node: Machine) -> None:
    node.write("proc/self/mountinfo", "21 1 8:1 / / rw - ext4 /dev/sda1 ro\n")
    assert node.only("readonly").status == "fault"
    node.write("etc/fstab", "/dev/sda1 / ext4 ro 0 1\n")
    assert node.only("readonly").status == "ok"


def test_memory(node: Machine) -> None:
    assert node.only("memory", memory_available_mib=5).status == "fault"
    node.write("proc/meminfo", "nonsense\n")
    assert node.only("memory").status == "unknown"
