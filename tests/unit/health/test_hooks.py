# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Before and after a job: its own devices are looked at, and nothing of anybody else's."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml as n
import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.nvml import PynvmlMissing
from ansible_collections.hpc.compute.plugins.module_utils.health import hooks
from ansible_collections.hpc.compute.plugins.module_utils.health.hooks import epilog, kill_process, prolog
from ansible_collections.hpc.compute.plugins.module_utils.health.model import MARKER
from ansible_collections.hpc.compute.plugins.module_utils.health.run import Node
from ansible_collections.hpc.compute.plugins.module_utils.health.settings import Settings
from emulator.testing import EmulatedDriver

UID = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start processes of another user")


class Machine:
    """An H100, and another one with two slices; *processes* are real ones of a job's user."""

    def __init__(self, driver: EmulatedDriver, root: Path) -> None:
        self.driver = driver
        self.node = Node("n1", root)
        self.said: list[str] = []
        self.killed: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        whole, cut = driver.show()["gpus"]
        self.whole = whole["uuid"]
        instances = cut["gpu_instances"]
        self.slices = [one["compute_instances"][0]["uuid"] for one in instances]
        self.targets = [f"1/{one['id']}" for one in instances]
        self.write_map(f"0 {self.whole} /dev/nvidia0\n1 {self.slices[0]} /dev/nvidia1\n2 {self.slices[1]} /dev/gone\n")

    def write_map(self, text: str) -> None:
        path = self.node.root / "run/hpc-compute/gpu-uuids"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def start(self, target: str, job: str = "7", uid: int = UID) -> int:
        """A process of a job that computes on *target*."""
        child = subprocess.Popen(["sleep", "60"], env={"SLURM_JOB_ID": job, "PATH": os.environ["PATH"]}, user=uid)
        self.processes.append(child)
        end = time.monotonic() + 5
        while f"SLURM_JOB_ID={job}".encode() not in Path(f"/proc/{child.pid}/environ").read_bytes():
            assert time.monotonic() < end
        self.driver.busy(target, child.pid)
        return child.pid

    def kill(self, pid: int) -> None:
        self.killed.append(pid)
        for child in self.processes:
            if child.pid == pid:
                child.kill()
                child.wait()

    def environ(self, *visible: str, job: str = "7") -> dict[str, str]:
        return {"SLURM_JOB_ID": job, "SLURM_JOB_UID": str(UID), "CUDA_VISIBLE_DEVICES": ",".join(visible)}

    def prolog(self, *visible: str) -> str:
        return prolog(self.node, self.environ(*visible), self.said.append)

    def epilog(self, *visible: str, **settings: Any) -> str:
        chosen = Settings(**{"epilog_wait": 0.05, "driver_timeout": 10, **settings})
        return epilog(self.node, chosen, self.environ(*visible), self.said.append, self.kill)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(hooks, "_PAUSE_S", 0.01)
    with EmulatedDriver("h100-80,h100-80=1g.10gb*2", root=tmp_path) as driver:
        one = Machine(driver, tmp_path)
        yield one
        for child in one.processes:
            child.kill()
            child.wait()


# -- before ------------------------------------------------------------------------------------------------------------


def test_a_job_without_devices_is_not_looked_at(machine: Machine) -> None:
    machine.write_map("\xff")
    assert machine.prolog() == ""
    assert machine.epilog() == ""


def test_the_device_files_of_a_job(machine: Machine) -> None:
    assert machine.prolog(machine.whole) == ""
    assert machine.prolog("0", machine.slices[0]) == ""
    assert machine.prolog("0", "2") == f"{MARKER}prolog: device files are missing: /dev/gone"
    assert machine.prolog(machine.slices[1]).endswith("/dev/gone")
    assert machine.said == []


def test_devices_that_are_not_known_are_no_fault(machine: Machine) -> None:
    assert machine.prolog("MIG-x") == ""
    assert machine.said == ["prolog of job 7: none of its devices MIG-x is in the map of this node's"]
    machine.write_map("")
    assert machine.prolog("MIG-x") == ""
    assert len(machine.said) == 1


# -- after -------------------------------------------------------------------------------------------------------------


def test_devices_that_are_free(machine: Machine) -> None:
    assert machine.epilog(machine.whole, *machine.slices) == ""
    assert machine.said == []


def test_memory_that_stays_in_use(machine: Machine) -> None:
    machine.driver.leak(0, 2000)
    assert machine.epilog("0", epilog_wait=0.3) == (
        f"{MARKER}epilog: {machine.whole}: 2004 MiB are in use after job 7, 0.3 s after its end"
    )
    assert machine.epilog("0", epilog_memory_mib=2004) == ""
    assert machine.epilog("1") == ""  # another device's memory is no matter of this job's
    machine.driver.leak(machine.targets[0], 3000)
    assert machine.slices[0] in machine.epilog("1")
    assert machine.epilog("2") == ""


def test_memory_that_is_free_a_moment_later(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.driver.leak(0, 2000)
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: machine.driver.leak(0, 0))
    monkeypatch.setattr(hooks, "time", clock)
    assert machine.epilog("0", epilog_wait=10) == ""


@needs_root
def test_memory_on_a_device_that_somebody_else_uses_is_theirs(machine: Machine) -> None:
    machine.driver.leak(0, 2000)
    machine.start("0", job="8")
    assert machine.epilog("0") == ""
    machine.driver.leak(machine.targets[0], 2000)
    machine.start(machine.targets[0], uid=UID + 1)
    assert machine.epilog("1") == ""
    assert machine.killed == []


@needs_root
def test_leftover_processes_are_told_and_killed_where_that_is_wanted(machine: Machine) -> None:
    pid = machine.start("0")
    others = [machine.start("0", job="8"), machine.start(machine.targets[1], uid=UID + 1)]
    assert machine.epilog("0") == ""
    assert machine.said == [f"epilog of job 7: it left the process sleep (pid {pid}) on a GPU"]
    assert machine.killed == []
    assert machine.epilog("0", epilog_kill=True, epilog_wait=10) == ""
    assert set(machine.killed) == {pid}
    assert not set(others) & set(machine.killed)


@needs_root
def test_a_process_on_a_device_that_slurm_did_not_name_is_found(machine: Machine) -> None:
    pid = machine.start(f"{machine.targets[1]}/0")
    machine.epilog("0", epilog_kill=True, epilog_wait=10)
    assert set(machine.killed) == {pid}


@needs_root
def test_a_process_that_does_not_end(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = machine.start("0")

    def refuse(_pid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(machine, "kill", refuse)
    reason = machine.epilog("0", epilog_kill=True, epilog_memory_mib=100)
    assert reason == (f"{MARKER}epilog: {machine.whole}: 260 MiB are in use after job 7, 0.05 s after its end (1 more)")
    assert f"epilog of job 7: process {pid} could not be killed: Operation not permitted" in machine.said
    assert f"process sleep (pid {pid}) of job 7 does not end" in machine.epilog("0", epilog_kill=True)


@needs_root
def test_a_number_that_is_another_process_by_now_is_not_killed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False])
    machine.start("0")
    monkeypatch.setattr(hooks, "belongs_to", lambda *_: next(answers))
    # In the child that asks the driver it is the job's, here no more.
    monkeypatch.setattr(
        hooks, "left_behind", lambda *_: hooks.Leftover(processes=((machine.processes[0].pid, "sleep"),))
    )
    assert "does not end" in machine.epilog("0", epilog_kill=True, epilog_wait=0.0001)
    assert machine.killed == []


def test_instances_that_share_memory_blame_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmulatedDriver("h100-80=", root=tmp_path) as driver:
        n.nvmlInit()
        device = n.nvmlDeviceGetHandleByIndex(0)
        instance = n.nvmlDeviceCreateGpuInstance(device, 9)
        for _ in range(2):
            n.nvmlGpuInstanceCreateComputeInstance(instance, 0)
        n.nvmlShutdown()
        (shown,) = driver.show()["gpus"][0]["gpu_instances"]
        driver.leak(f"0/{shown['id']}", 5000)
        uuids = [one["uuid"] for one in shown["compute_instances"]]
        environ = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": str(UID), "CUDA_VISIBLE_DEVICES": uuids[0]}
        assert epilog(Node("n1", tmp_path), Settings(epilog_wait=0.05), environ, pytest.fail) == ""


def test_a_gpu_that_fails_is_the_health_checks_matter(machine: Machine) -> None:
    machine.driver.leak(0, 2000)
    machine.driver.fault("nvmlDeviceGetMemoryInfo", error="UNKNOWN", gpu=0, skip=1)
    assert machine.epilog("0") == ""
    machine.driver.clear_faults()
    machine.driver.fault("nvmlDeviceGetComputeRunningProcesses*", error="UNKNOWN", gpu=0)
    assert machine.epilog("0") == ""


def test_a_driver_that_hangs_drains(machine: Machine) -> None:
    machine.driver.fault("nvmlInit*", hang=True)
    reason = machine.epilog("0", driver_timeout=0.3)
    assert reason == f"{MARKER}driver: the NVIDIA driver does not answer: no answer in 0.3 s"
    machine.driver.clear_faults()


def test_a_driver_that_cannot_be_asked_is_told_of(machine: Machine) -> None:
    def missing() -> Any:
        raise PynvmlMissing("no pynvml")

    machine.node = replace(machine.node, load=missing)
    assert machine.epilog("0") == ""
    assert machine.said == ["epilog of job 7: its GPUs could not be looked at: PynvmlMissing: no pynvml"]


def test_processes_are_killed_for_good() -> None:
    child = subprocess.Popen(["sleep", "60"])
    kill_process(child.pid)
    assert child.wait() == -9
    with pytest.raises(ProcessLookupError):
        kill_process(child.pid)
