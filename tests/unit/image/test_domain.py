# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual machines for compute nodes: what is read, what libvirt is told, what is refused."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.image import domain

NODE: dict[str, Any] = {
    "name": "hpc-compute-01",
    "base_image_path": "build/packer/hpc-compute/hpc-compute/hpc-compute.qcow2",
    "memory": 65536,
    "cpus": 16,
    "disk_size": "100G",
    "gpu": {"passthrough": True, "pci_devices": ["0000:01:00.0", "0000:02:00.0"]},
}


def clusters(*nodes: Any) -> dict[str, Any]:
    return {"hpc": {"compute_nodes": list(nodes)}}


def test_every_value_reaches_libvirt() -> None:
    (machine,) = domain.read_machines(clusters(NODE))
    tree = ElementTree.fromstring(domain.to_xml(machine, "/disks"))  # noqa: S314  # our own
    assert tree.get("type") == "kvm"
    assert tree.findtext("name") == "hpc-compute-01"
    assert (tree.find("memory").get("unit"), tree.findtext("memory")) == ("MiB", "65536")  # type: ignore[union-attr]
    assert tree.findtext("vcpu") == "16"
    secure_boot = tree.find("os/firmware/feature[@name='secure-boot']")
    assert secure_boot is not None
    assert secure_boot.get("enabled") == "no", "it would refuse the driver's modules"
    assert tree.find("devices/disk/source").get("file") == "/disks/hpc-compute-01.qcow2"  # type: ignore[union-attr]
    given = [place.attrib for place in tree.findall("devices/hostdev/source/address")]
    assert given == [{"domain": "0x0000", "bus": f"0x0{bus}", "slot": "0x00", "function": "0x0"} for bus in (1, 2)]
    assert {device.get("managed") for device in tree.findall("devices/hostdev")} == {"yes"}
    assert domain.disk_command(machine, "/disks", "/repo")[-3:] == [
        f"/repo/{NODE['base_image_path']}",
        "/disks/hpc-compute-01.qcow2",
        "100G",
    ]


def test_an_address_is_kept_and_not_given_twice() -> None:
    assert [one.ip for one in domain.read_machines(clusters({**NODE, "ip": "192.168.100.10"}))] == ["192.168.100.10"]
    other = {**NODE, "name": "other", "gpu": {}, "ip": "10.0.0.1"}
    with pytest.raises(ValueError, match=r"the address 10\.0\.0\.1 once, found it 2 times"):
        domain.read_machines(clusters({**NODE, "ip": "10.0.0.1"}, other))


def test_without_kvm_the_processor_is_no_copy_of_the_hosts() -> None:
    (machine,) = domain.read_machines(clusters({**NODE, "gpu": {}}))
    tree = ElementTree.fromstring(domain.to_xml(machine, "/disks", "qemu"))  # noqa: S314  # our own
    assert tree.find("cpu").attrib == {"mode": "maximum"}  # type: ignore[union-attr]
    assert tree.findall("devices/hostdev") == []


def test_an_image_with_an_absolute_path_is_taken_from_there() -> None:
    (machine,) = domain.read_machines(clusters({**NODE, "base_image_path": "/srv/x.qcow2"}))
    assert "/srv/x.qcow2" in domain.disk_command(machine, "/disks", "/repo")


def test_defaults() -> None:
    short = {key: NODE[key] for key in ("name", "base_image_path", "memory", "cpus")}
    (machine,) = domain.read_machines(clusters(short))
    assert (machine.disk_size, machine.pci_devices, machine.network) == ("100G", (), "default")
    assert domain.read_machines({"empty": {}}) == []


def test_passthrough_switched_off_hands_nothing_on() -> None:
    off = {**NODE, "gpu": {"passthrough": False, "pci_devices": ["0000:01:00.0"]}}
    assert domain.read_machines(clusters(off))[0].pci_devices == ()


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (
            {**NODE, "memory": "64G"},
            r"hpc.compute_nodes\[0\].memory: expected a whole number of at least 1024, found '64G'",
        ),
        ({**NODE, "cpus": True}, "cpus: expected a whole number"),
        ({**NODE, "cpus": 0}, "at least 1, found 0"),
        ({**NODE, "name": "a b"}, "expected a host name, found 'a b'"),
        ({**NODE, "base_image_path": ""}, "path of the image"),
        ({**NODE, "disk_size": "lots"}, "found 'lots'"),
        ({**NODE, "ip": "10.0.0.300"}, r"compute_nodes\[0\].ip: expected an IP address, found '10.0.0.300'"),
        ({**NODE, "gpus": 2}, "unknown: gpus"),
        ({**NODE, "gpu": {"pci": []}}, "gpu: unknown: pci"),
        ({**NODE, "gpu": {"pci_devices": "0000:01:00.0"}}, "expected a list of PCI addresses"),
        ({**NODE, "gpu": {"pci_devices": ["01:00.0"]}}, "expected a PCI address such as 0000:3b:00.0, found '01:00.0'"),
        ({**NODE, "gpu": [1]}, "gpu: expected a mapping, found list"),
        ("node", "expected a mapping, found str"),
    ],
)
def test_what_is_no_good_is_named(node: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        domain.read_machines(clusters(node))


def test_a_gpu_or_a_name_given_twice_and_nodes_that_are_no_list() -> None:
    with pytest.raises(ValueError, match="the name hpc-compute-01 once, found it 2 times"):
        domain.read_machines(clusters(NODE, NODE))
    with pytest.raises(ValueError, match=r"the PCI device 0000:01:00\.0 once"):
        domain.read_machines(clusters(NODE, {**NODE, "name": "other"}))
    with pytest.raises(ValueError, match="compute_nodes: expected a list, found str"):
        domain.read_machines({"hpc": {"compute_nodes": "one"}})
