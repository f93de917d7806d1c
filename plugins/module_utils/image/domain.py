# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A libvirt domain for a compute node in a virtual machine, with GPUs of the host handed to it.

The input is an entry of ``clusters: <name>: compute_nodes:``. The format is libvirt's (https://libvirt.org/formatdomain.html);
what isn't written is left to libvirt's defaults.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from ..gpu.pci import canonical_address

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")
_SIZE = re.compile(r"[1-9]\d{0,5}[MGT]")
_KEYS = frozenset({"name", "base_image_path", "memory", "cpus", "disk_size", "gpu", "ip", "network"})
_GPU_KEYS = frozenset({"passthrough", "pci_devices"})


@dataclass(frozen=True)
class Machine:
    """A compute node to be. *memory*: MiB. *disk_size*: as ``qemu-img`` takes it. *pci_devices*: addresses.

    *ip*: the address that it shall have, empty if that doesn't matter. A domain can't carry it: it is for whoever gives
    the guest its address.
    """

    name: str
    memory: int
    cpus: int
    base_image_path: str
    disk_size: str
    pci_devices: tuple[str, ...] = ()
    network: str = "default"
    ip: str = ""


def read_machines(clusters: Mapping[str, Any]) -> list[Machine]:
    """All compute nodes of all *clusters*, in their order.

    :raises ValueError: a value is missing, unknown or no good, a name or a GPU is given twice; the text names where.
    """
    machines = []
    for cluster, content in clusters.items():
        nodes = _mapping(content, f"clusters.{cluster}").get("compute_nodes", [])
        if not isinstance(nodes, Sequence) or isinstance(nodes, str):
            raise ValueError(f"clusters.{cluster}.compute_nodes: expected a list, found {type(nodes).__name__}")
        for number, node in enumerate(nodes):
            where = f"clusters.{cluster}.compute_nodes[{number}]"
            machines.append(_machine(_mapping(node, where), where))
    _unique([machine.name for machine in machines], "the name")
    _unique([machine.ip for machine in machines if machine.ip], "the address")
    _unique([address for machine in machines for address in machine.pci_devices], "the PCI device")
    return machines


def disk_path(machine: Machine, folder: str) -> str:
    """Where its own disk lies, an overlay on the image."""
    return str(PurePosixPath(folder) / f"{machine.name}.qcow2")


def disk_command(machine: Machine, folder: str, images: str) -> list[str]:
    """The command that makes its disk. *images*: where the path of an image begins that isn't absolute; qemu-img itself
    would take it from the folder of the disk."""
    made_from = ["-F", "qcow2", "-b", str(PurePosixPath(images) / machine.base_image_path)]
    return ["qemu-img", "create", "-f", "qcow2", *made_from, disk_path(machine, folder), machine.disk_size]


def to_xml(machine: Machine, folder: str, kind: str = "kvm") -> str:
    """The domain, for ``virsh define``. *folder*: of disks. *kind*: ``kvm``, or ``qemu`` where there is none.

    UEFI and q35, since a GPU's memory needs PCI Express and an address space that BIOS has no room for.
    """
    domain = ElementTree.Element("domain", type=kind)
    _text(domain, "name", machine.name)
    _text(domain, "memory", str(machine.memory), unit="MiB")
    _text(domain, "vcpu", str(machine.cpus))
    system = ElementTree.SubElement(domain, "os", firmware="efi")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    # DKMS signs the modules in the image with a key that no firmware knows: Secure Boot would refuse the driver
    firmware = ElementTree.SubElement(system, "firmware")
    ElementTree.SubElement(firmware, "feature", enabled="no", name="secure-boot")
    features = ElementTree.SubElement(domain, "features")
    ElementTree.SubElement(features, "acpi")
    ElementTree.SubElement(features, "apic")
    # the guest's room for a GPU's memory follows from the host's address width, which only this mode shows it
    processor = ElementTree.SubElement(domain, "cpu", mode="host-passthrough" if kind == "kvm" else "maximum")
    if kind == "kvm":
        ElementTree.SubElement(processor, "maxphysaddr", mode="passthrough")
    devices = ElementTree.SubElement(domain, "devices")
    disk = ElementTree.SubElement(devices, "disk", type="file", device="disk")
    ElementTree.SubElement(disk, "driver", name="qemu", type="qcow2", discard="unmap")
    ElementTree.SubElement(disk, "source", file=disk_path(machine, folder))
    ElementTree.SubElement(disk, "target", dev="vda", bus="virtio")
    network = ElementTree.SubElement(devices, "interface", type="network")
    ElementTree.SubElement(network, "source", network=machine.network)
    ElementTree.SubElement(network, "model", type="virtio")
    console = ElementTree.SubElement(devices, "console", type="pty")
    ElementTree.SubElement(console, "target", type="serial", port="0")
    for address in machine.pci_devices:
        _hostdev(devices, address)
    ElementTree.indent(domain)
    return ElementTree.tostring(domain, encoding="unicode") + "\n"


def _hostdev(devices: ElementTree.Element, address: str) -> None:
    """``managed``: libvirt binds it to vfio-pci when the guest starts and gives it back afterwards."""
    segment, bus, rest = address.split(":")
    slot, function = rest.split(".")
    device = ElementTree.SubElement(devices, "hostdev", mode="subsystem", type="pci", managed="yes")
    source = ElementTree.SubElement(device, "source")
    place = {"domain": segment, "bus": bus, "slot": slot, "function": function}
    ElementTree.SubElement(source, "address", {key: f"0x{value}" for key, value in place.items()})


def _text(parent: ElementTree.Element, name: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, name, attributes).text = text


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected a mapping, found {type(value).__name__}")
    return value


def _machine(node: Mapping[str, Any], where: str) -> Machine:
    if unknown := sorted(set(node) - _KEYS):
        raise ValueError(f"{where}: unknown: {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    name = node.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where}.name: expected a host name, found {name!r}")
    image = node.get("base_image_path")
    if not isinstance(image, str) or not image:
        raise ValueError(f"{where}.base_image_path: expected the path of the image, found {image!r}")
    size = str(node.get("disk_size", "100G")).upper()
    if not _SIZE.fullmatch(size):
        raise ValueError(f"{where}.disk_size: expected a size such as 100G, found {node['disk_size']!r}")
    return Machine(
        name=name,
        memory=_number(node, "memory", where, least=1024),
        cpus=_number(node, "cpus", where, least=1),
        base_image_path=image,
        disk_size=size,
        pci_devices=_pci_devices(node.get("gpu", {}), f"{where}.gpu"),
        network=str(node.get("network", "default")),
        ip=_ip(node, where),
    )


def _ip(node: Mapping[str, Any], where: str) -> str:
    if "ip" not in node:
        return ""
    try:
        return str(ipaddress.ip_address(str(node["ip"])))
    except ValueError as error:
        raise ValueError(f"{where}.ip: expected an IP address, found {node['ip']!r}") from error


def _number(node: Mapping[str, Any], key: str, where: str, least: int) -> int:
    value = node.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{where}.{key}: expected a whole number of at least {least}, found {value!r}")
    return value


def _pci_devices(value: Any, where: str) -> tuple[str, ...]:
    gpu = _mapping(value, where)
    if unknown := sorted(set(gpu) - _GPU_KEYS):
        raise ValueError(f"{where}: unknown: {', '.join(unknown)}; known are {', '.join(sorted(_GPU_KEYS))}")
    addresses = gpu.get("pci_devices", [])
    if not isinstance(addresses, Sequence) or isinstance(addresses, str):
        raise ValueError(f"{where}.pci_devices: expected a list of PCI addresses, found {addresses!r}")
    if gpu.get("passthrough", bool(addresses)) is False:
        return ()
    try:
        return tuple(canonical_address(str(address)) for address in addresses)
    except ValueError as error:
        raise ValueError(f"{where}.pci_devices: {error}") from error


def _unique(values: Sequence[str], what: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"expected {what} {value} once, found it {values.count(value)} times")
