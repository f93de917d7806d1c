# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files a driver shows, below a directory, and what survives a reboot in the state file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pynvml as n
import pytest
from emulator import staging
from emulator.conftest import Start
from emulator.nvml_helpers import compute_instances, cut, mig_devices
from emulator.testing import DriverError, EmulatedDriver


def read(path: Path) -> str:
    return path.read_text().strip()


def capabilities(root: Path) -> set[str]:
    return {path.name for path in (root / "dev/nvidia-caps").iterdir()}


def test_capability_minors_are_the_documented_ones() -> None:
    lines = dict(line.split() for line in staging.mig_minors().splitlines())
    assert len(lines) == 2 + 32 * 15 * 9
    assert (lines["config"], lines["monitor"]) == ("1", "2")
    assert (lines["gpu0/gi0/access"], lines["gpu0/gi7/access"], lines["gpu0/gi7/ci0/access"]) == ("3", "66", "67")
    assert lines["gpu1/gi0/access"] == "138"
    assert lines["gpu31/gi14/ci7/access"] == "4322"
    assert len(set(lines.values())) == len(lines)
    assert staging.capability_minor(0, 7) == 66
    assert staging.capability_minor(31, 14, 7) == 4322


def test_pci_functions_look_like_the_kernels(start: Start, tmp_path: Path) -> None:
    start("8xh100-80", root=tmp_path, init=False, numa=["0-31,64-95", "32-63,96-127"])
    bus = tmp_path / "sys/bus/pci"
    assert len(list((bus / "devices").iterdir())) == 12
    gpu = bus / "devices/0000:df:00.0"
    assert [read(gpu / name) for name in ("vendor", "device", "class")] == ["0x10de", "0x2330", "0x030200"]
    assert [read(gpu / name) for name in ("subsystem_vendor", "subsystem_device")] == ["0x10de", "0x16c1"]
    assert (read(gpu / "numa_node"), read(gpu / "local_cpulist")) == ("1", "32-63,96-127")
    assert read(gpu / "local_cpus") == "ffffffff,00000000,ffffffff,00000000"
    assert (gpu / "driver").resolve() == bus / "drivers/nvidia"
    assert (bus / "drivers/nvidia/0000:df:00.0").resolve() == gpu
    assert (gpu / "iommu_group").resolve().name == "47"
    assert (gpu / "iommu_group/devices/0000:df:00.0").resolve() == gpu
    assert (gpu / "config").read_bytes()[:4] == bytes.fromhex("de103023")
    assert "PCI_ID=10DE:2330" in read(gpu / "uevent")
    switch = bus / "devices/0000:05:00.0"
    assert [read(switch / name) for name in ("device", "class")] == ["0x22a3", "0x068000"]


def test_proc_and_nodes_follow_the_minor(start: Start, tmp_path: Path) -> None:
    start("2xa100-40", root=tmp_path, shuffle_minors=True)
    proc = tmp_path / "proc/driver/nvidia"
    information = read(proc / "gpus/0000:1b:00.0/information")
    assert re.search(r"^Device Minor: \t 1$", information, re.MULTILINE)
    assert n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(0)) in information
    assert "  550.163.01  " in read(proc / "version")
    nodes = {path.name for path in (tmp_path / "dev").iterdir()}
    assert nodes == {"nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps"}
    assert capabilities(tmp_path) == {"nvidia-cap1", "nvidia-cap2"}


def test_capability_files_are_there_when_a_call_returns(start: Start, tmp_path: Path) -> None:
    driver = start("2xh100-80=", root=tmp_path, shuffle_minors=True)
    device = n.nvmlDeviceGetHandleByIndex(0)
    (instance,) = cut(device, 9)
    number = n.nvmlDeviceGetGpuInstanceId(mig_devices(device)[0])
    base = staging.capability_minor(1, number)
    assert capabilities(tmp_path) == {"nvidia-cap1", "nvidia-cap2", f"nvidia-cap{base}", f"nvidia-cap{base + 1}"}
    home = tmp_path / f"proc/driver/nvidia/capabilities/gpu1/mig/gi{number}"
    assert read(home / "access").startswith(f"DeviceFileMinor: {base}\n")
    assert read(home / "ci0/access").startswith(f"DeviceFileMinor: {base + 1}\n")
    n.nvmlComputeInstanceDestroy(compute_instances(instance, 2)[0])
    assert capabilities(tmp_path) == {"nvidia-cap1", "nvidia-cap2", f"nvidia-cap{base}"}
    assert not (home / "ci0").exists()
    n.nvmlGpuInstanceDestroy(instance)
    assert not (home.parent.parent).exists()
    cut(device, 9)
    driver.reboot()
    assert capabilities(tmp_path) == {"nvidia-cap1", "nvidia-cap2"}


@pytest.mark.parametrize(("spec", "options"), [("none", {}), ("h100-80", {"kernel_driver": "nouveau"})])
def test_without_the_driver_there_are_pci_entries_at_most(
    start: Start, tmp_path: Path, spec: str, options: dict[str, str]
) -> None:
    start(spec, root=tmp_path, init=False, **options)
    assert not (tmp_path / "dev").exists()
    assert not (tmp_path / "proc").exists()
    devices = tmp_path / "sys/bus/pci/devices"
    assert [(entry / "driver").resolve().name for entry in devices.iterdir()] == list(options.values())


def test_an_unbound_gpu_has_no_driver_link(start: Start, tmp_path: Path) -> None:
    start("h100-80", root=tmp_path, init=False, kernel_driver="none")
    gpu = tmp_path / "sys/bus/pci/devices/0000:1b:00.0"
    assert gpu.is_dir()
    assert not (gpu / "driver").exists()


def test_staging_again_replaces_another_machine_and_unstaging_removes_it(tmp_path: Path) -> None:
    with EmulatedDriver("4xh100-80=1g.10gb", root=tmp_path):
        pass
    with EmulatedDriver("a30", root=tmp_path) as driver:
        first = sorted(path for path in tmp_path.rglob("*") if path.is_symlink() or path.is_file())
        driver.control("stage", root=str(tmp_path))
        assert first == sorted(path for path in tmp_path.rglob("*") if path.is_symlink() or path.is_file())
    assert [path.name for path in (tmp_path / "sys/bus/pci/devices").iterdir()] == ["0000:1b:00.0"]
    assert [path.name for path in (tmp_path / "dev").glob("nvidia[0-9]*")] == ["nvidia0"]
    assert capabilities(tmp_path) == {"nvidia-cap1", "nvidia-cap2"}
    staging.unstage(tmp_path)
    staging.unstage(tmp_path)
    assert list((tmp_path / "dev").iterdir()) == []
    assert not (tmp_path / "proc/driver").exists()
    assert not (tmp_path / "sys/bus/pci").exists()


def test_a_start_with_a_state_is_a_reboot(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    spec = "a100-40,a100-40=1g.5gb,h100-80=1g.10gb"
    with EmulatedDriver(spec, state=state) as driver:
        n.nvmlInit()
        n.nvmlDeviceSetMigMode(n.nvmlDeviceGetHandleByIndex(0), 1)
        n.nvmlShutdown()
        before = driver.show()["gpus"]
        assert [len(gpu["gpu_instances"]) for gpu in before] == [0, 1, 1]
    with EmulatedDriver(spec, state=state) as driver:
        shown = driver.show()
    assert shown["boots"] == 2
    assert [gpu["mig_current"] for gpu in shown["gpus"]] == [True, True, False]
    assert [gpu["gpu_instances"] for gpu in shown["gpus"]] == [[], [], []]
    assert [gpu["uuid"] for gpu in shown["gpus"]] == [gpu["uuid"] for gpu in before]
    with EmulatedDriver("a30=1g.6gb", state=state) as driver:
        other = driver.show()
    assert other["boots"] == 1, "other GPUs are another machine"
    assert len(other["gpus"][0]["gpu_instances"]) == 1


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"spec": "a30", "modes": {}})])
def test_a_spoilt_state_is_named(tmp_path: Path, content: str) -> None:
    state = tmp_path / "state.json"
    state.write_text(content)
    with (
        pytest.raises(DriverError, match=r"state.json is no state of this emulator .*remove it"),
        EmulatedDriver("a30", state=state),
    ):
        pass
