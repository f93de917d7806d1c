# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines as sysfs shows them: whole trees, then each thing that may be odd."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu import pci
from ansible_collections.hpc.compute.plugins.module_utils.gpu.pci import address_key, canonical_address, scan
from unit.gpu.machine_trees import TREES, add_device, dump, expand, load, record

H100 = {
    "vendor": "0x10de",
    "device": "0x2330",
    "class": "0x030200",
    "subsystem_vendor": "0x10de",
    "subsystem_device": "0x16c1",
    "numa_node": "0",
    "local_cpulist": "0-15,32-47",
    "driver": "nvidia",
    "iommu_group": "31",
}


def with_change(**change: str | None) -> dict[str, str]:
    return {name: value for name, value in {**H100, **change}.items() if value is not None}


def test_a_machine_without_nvidia_devices_has_none(tmp_path: Path) -> None:
    assert scan(expand(load("virtual-machine"), tmp_path)) == ([], [])


def test_the_running_machine_can_be_scanned() -> None:
    functions, problems = scan()
    assert problems == []
    assert all(function.vendor_id == "10de" for function in functions)


def test_a_dgx_has_eight_gpus_and_four_switches_and_nothing_else_counts(tmp_path: Path) -> None:
    functions, problems = scan(expand(load("dgx-h100"), tmp_path))
    assert problems == []
    assert [one.address for one in functions if one.is_gpu] == [
        f"0000:{bus}:00.0" for bus in ("1b", "43", "52", "61", "9d", "c3", "d1", "df")
    ]
    assert [one.address for one in functions if not one.is_gpu] == [
        f"0000:{bus}:00.0" for bus in ("07", "08", "09", "0a")
    ]
    assert [one for one in functions if one.address == "0000:9d:00.0"] == [
        pci.PciFunction(
            address="0000:9d:00.0",
            vendor_id="10de",
            device_id="2330",
            class_code="030200",
            subsystem_vendor_id="10de",
            subsystem_device_id="16c1",
            kernel_driver="nvidia",
            numa_node=1,
            cpu_affinity="56-111,168-223",
            iommu_group=81,
        )
    ]


def test_a_display_gpu_counts_and_its_audio_function_does_not(tmp_path: Path) -> None:
    functions, problems = scan(expand(load("workstation-nouveau"), tmp_path))
    assert problems == []
    assert [(one.address, one.is_gpu, one.kernel_driver, one.numa_node) for one in functions] == [
        ("0000:01:00.0", True, "nouveau", None)
    ]


@pytest.mark.parametrize("path", sorted(TREES.glob("*.json")), ids=lambda path: path.stem)
def test_recording_an_expanded_tree_gives_the_tree(path: Path, tmp_path: Path) -> None:
    tree = json.loads(path.read_text())
    assert record(tree["about"], expand(tree, tmp_path)) == tree
    assert json.loads(dump(tree)) == tree


def test_plain_directories_are_read_as_links_are(tmp_path: Path) -> None:
    directory = tmp_path / "sys/bus/pci/devices/0000:1b:00.0"
    directory.mkdir(parents=True)
    for name in ("vendor", "device", "class", "subsystem_vendor", "subsystem_device"):
        (directory / name).write_text(H100[name])
    functions, problems = scan(tmp_path)
    assert problems == []
    assert [
        (one.device_id, one.kernel_driver, one.numa_node, one.cpu_affinity, one.iommu_group) for one in functions
    ] == [("2330", None, None, None, None)]


def test_large_domains_are_kept_and_sorted_by_number(tmp_path: Path) -> None:
    for address in ("10000:01:00.0", "2000:01:00.0", "0000:01:00.0"):
        add_device(tmp_path, address, H100)
    functions, problems = scan(tmp_path)
    assert problems == []
    assert [one.address for one in functions] == ["0000:01:00.0", "2000:01:00.0", "10000:01:00.0"]


def test_virtual_functions_belong_to_virtual_machines(tmp_path: Path) -> None:
    add_device(tmp_path, "0000:1b:00.0", H100)
    add_device(tmp_path, "0000:1b:00.4", {**H100, "physfn": "0000:1b:00.0"})
    functions, problems = scan(tmp_path)
    assert problems == []
    assert [one.address for one in functions] == ["0000:1b:00.0"]


def test_a_machine_without_a_pci_bus_has_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "sys/bus").mkdir(parents=True)
    assert scan(tmp_path) == ([], [])


def test_without_sysfs_it_is_not_known_whether_there_is_a_gpu(tmp_path: Path) -> None:
    functions, (problem,) = scan(tmp_path)
    assert functions == []
    assert problem.code == "sysfs_unreadable"
    assert "whether this machine has a GPU is not known" in problem.message
    assert str(tmp_path / "sys") in problem.message


def test_an_unreadable_bus_is_a_problem(tmp_path: Path) -> None:
    bus = tmp_path / "sys/bus/pci/devices"
    bus.parent.mkdir(parents=True)
    bus.write_text("a file where a directory is expected")
    functions, (problem,) = scan(tmp_path)
    assert functions == []
    assert problem.code == "sysfs_unreadable"
    assert "Not a directory" in problem.message


@pytest.mark.parametrize("missing", ["vendor", "class", "device", "subsystem_vendor"])
def test_a_device_that_vanishes_while_it_is_read_hides_no_other(missing: str, tmp_path: Path) -> None:
    add_device(tmp_path, "0000:1b:00.0", with_change(**{missing: None}))
    add_device(tmp_path, "0000:43:00.0", H100)
    functions, (problem,) = scan(tmp_path)
    assert "0000:43:00.0" in [one.address for one in functions]
    assert (problem.code, problem.pci_address) == ("sysfs_unreadable", "0000:1b:00.0")
    assert f"0000:1b:00.0/{missing} could not be read: No such file or directory" in problem.message


def test_a_dangling_link_is_a_problem(tmp_path: Path) -> None:
    bus = tmp_path / "sys/bus/pci/devices"
    bus.mkdir(parents=True)
    (bus / "0000:1b:00.0").symlink_to("../../../devices/gone")
    functions, (problem,) = scan(tmp_path)
    assert functions == []
    assert problem.pci_address == "0000:1b:00.0"


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("numa_node", "two", "numa_node"),
        ("local_cpulist", "0-", "cpu_affinity"),
        ("subsystem_device", "16c1", "subsystem_device_id"),
        ("iommu_group", "group", "iommu_group"),
    ],
)
def test_odd_content_costs_that_value_only(name: str, text: str, field: str, tmp_path: Path) -> None:
    add_device(tmp_path, "0000:1b:00.0", with_change(**{name: text}))
    (function,), (problem,) = scan(tmp_path)
    assert getattr(function, field) is None
    assert function.device_id == "2330"
    assert (problem.code, problem.pci_address) == ("sysfs_unreadable", "0000:1b:00.0")
    assert name in problem.message
    assert repr(text) in problem.message


def test_an_odd_vendor_is_a_problem_as_it_may_be_a_gpu(tmp_path: Path) -> None:
    add_device(tmp_path, "0000:1b:00.0", with_change(vendor="0xzzzz"))
    functions, (problem,) = scan(tmp_path)
    assert functions == []
    assert "expected 0x and 4 hex digits, found '0xzzzz'" in problem.message


def test_bytes_that_are_no_text_are_a_problem(tmp_path: Path) -> None:
    directory = add_device(tmp_path, "0000:1b:00.0", H100)
    (directory / "numa_node").write_bytes(b"\xff\xfe")
    (function,), (problem,) = scan(tmp_path)
    assert function.numa_node is None
    assert "expected plain text" in problem.message


def test_files_and_links_that_can_not_be_read_are_problems(tmp_path: Path) -> None:
    directory = add_device(tmp_path, "0000:1b:00.0", with_change(driver=None, numa_node=None))
    (directory / "numa_node").mkdir()
    (directory / "driver").mkdir()
    (function,), problems = scan(tmp_path)
    assert (function.numa_node, function.kernel_driver) == (None, None)
    assert [Path(problem.message.split(" could")[0]).name for problem in problems] == ["driver", "numa_node"]
    assert os.strerror(21) in problems[1].message


def test_an_entry_that_is_no_address_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "sys/bus/pci/devices/one").mkdir(parents=True)
    functions, (problem,) = scan(tmp_path)
    assert functions == []
    assert "expected a PCI address such as 0000:3b:00.0, found 'one'" in problem.message
    assert problem.pci_address is None


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0000:3b:00.0", "0000:3b:00.0"),
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("00010000:E1:00.0", "10000:e1:00.0"),
        ("10000:e1:00.0\n", "10000:e1:00.0"),
        ("FFFFFFFF:FF:1F.7", "ffffffff:ff:1f.7"),
    ],
)
def test_addresses_have_one_form(text: str, canonical: str) -> None:
    assert canonical_address(text) == canonical


@pytest.mark.parametrize("text", ["", "3b:00.0", "0000:3b:00.8", "0000:3b:00", "0000:3b:00.0x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a PCI address"):
        canonical_address(text)


def test_addresses_sort_by_place() -> None:
    assert address_key("10000:e1:00.0") > address_key("2000:e1:00.0") > address_key("2000:1b:1f.7")
