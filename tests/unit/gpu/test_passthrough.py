# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a host from handing its GPUs on."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu import passthrough

GPU, AUDIO, DISK, BRIDGE = "0000:01:00.0", "0000:01:00.1", "0000:02:00.0", "0000:00:01.0"
CLASSES = {GPU: "030200", AUDIO: "040300", DISK: "010802", BRIDGE: "060400"}


def host(root: Path, drivers: dict[str, str | None], group: int | None = 7, groups: bool = True) -> passthrough.Host:
    """A host with these functions, all in one group, and another group with nothing of interest."""
    (root / "sys/bus/pci/devices").mkdir(parents=True)
    if groups:
        (root / "sys/kernel/iommu_groups/0/devices").mkdir(parents=True)
    for address, driver in drivers.items():
        device = root / "sys/bus/pci/devices" / address
        device.mkdir()
        files = {"vendor": "0x10de", "device": "0x2330", "class": f"0x{CLASSES[address]}", "subsystem_vendor": "0x10de"}
        for name, text in {**files, "subsystem_device": "0x16c1"}.items():
            (device / name).write_text(f"{text}\n")
        if driver:
            (device / "driver").symlink_to(f"../../drivers/{driver}")
        if group is not None and groups:
            (device / "iommu_group").symlink_to(f"../../../../kernel/iommu_groups/{group}")
            members = root / f"sys/kernel/iommu_groups/{group}/devices"
            members.mkdir(parents=True, exist_ok=True)
            (members / address).symlink_to(device)
    return passthrough.read_host(root)


def codes(found: passthrough.Host) -> list[str]:
    return [problem.code for problem in found.problems]


def test_a_group_that_is_all_vfio_or_unbound_is_ready(tmp_path: Path) -> None:
    found = host(tmp_path, {GPU: "vfio-pci", AUDIO: None, BRIDGE: "pcieport"})
    assert (found.iommu, codes(found)) == (True, [])
    (gpu,) = found.candidates
    assert gpu.ready
    assert gpu.neighbours == (passthrough.Neighbour(AUDIO, "040300", None),)
    assert found.to_dict()["candidates"][0]["neighbours"][0]["address"] == AUDIO


@pytest.mark.parametrize("driver", ["nvidia", None])
def test_a_gpu_of_the_host_is_named_with_its_driver(tmp_path: Path, driver: str | None) -> None:
    found = host(tmp_path, {GPU: driver})
    assert codes(found) == ["not_vfio"]
    assert (driver or "no driver") in found.problems[0].message
    assert "10de:2330" in found.problems[0].message
    assert not found.candidates[0].ready


def test_a_device_of_the_host_in_the_group_is_named(tmp_path: Path) -> None:
    found = host(tmp_path, {GPU: "vfio-pci", DISK: "nvme"})
    assert codes(found) == ["group_shared"]
    assert f"{DISK} (nvme)" in found.problems[0].message


def test_without_an_iommu_that_is_the_one_thing_to_do(tmp_path: Path) -> None:
    found = host(tmp_path, {GPU: "nvidia"}, groups=False)
    assert (found.iommu, codes(found)) == (False, ["iommu_off"])
    assert not found.candidates[0].ready


def test_a_slot_behind_no_iommu(tmp_path: Path) -> None:
    found = host(tmp_path, {GPU: "vfio-pci"}, group=None)
    assert codes(found) == ["iommu_group_missing"]


def test_a_group_without_a_list_of_members_and_one_that_names_a_device_that_went(tmp_path: Path) -> None:
    found = host(tmp_path, {GPU: "vfio-pci"})
    members = tmp_path / "sys/kernel/iommu_groups/7/devices"
    (members / "0000:03:00.0").symlink_to("nowhere")
    assert passthrough.read_host(tmp_path) == found
    for path in members.iterdir():
        path.unlink()
    members.rmdir()
    assert passthrough.read_host(tmp_path).candidates[0].neighbours == ()


def test_no_gpu_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    assert passthrough.read_host(tmp_path) == passthrough.Host(False, (), ())
