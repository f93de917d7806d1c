# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel shows of the emulated boards under /sys/bus/pci."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from . import topology
from .machine import Machine

_NVIDIA = 0x10DE
_GPU_CLASS = 0x030200  # 3D controller
_SWITCH_CLASS = 0x068000  # bridge, other
_FIRST_IOMMU_GROUP = 40


@dataclass(frozen=True)
class Function:
    """A PCI function to show; *driver* is ``None`` when nothing is bound to it."""

    address: str
    device_id: str
    subsystem_id: str
    class_code: int
    driver: str | None
    numa_node: int
    cpus: str
    iommu_group: int

    def files(self) -> dict[str, bytes]:
        """The plain files of its directory, by name."""
        mask = f"{topology.cpu_mask(self.cpus):x}"
        words = -(-len(mask) // 8)
        padded = mask.zfill(words * 8)
        device, subsystem = int(self.device_id, 16), int(self.subsystem_id, 16)
        pci_id = f"10DE:{device:04X}"
        modalias = (
            f"pci:v000010DEd{device:08X}sv000010DEsd{subsystem:08X}"
            f"bc{self.class_code >> 16:02X}sc{self.class_code >> 8 & 255:02X}i{self.class_code & 255:02X}"
        )
        uevent = [
            f"PCI_CLASS={self.class_code:X}",
            f"PCI_ID={pci_id}",
            f"PCI_SUBSYS_ID=10DE:{subsystem:04X}",
            f"PCI_SLOT_NAME={self.address}",
            f"MODALIAS={modalias}",
        ]
        if self.driver is not None:
            uevent.insert(0, f"DRIVER={self.driver}")
        lines = {
            "vendor": "0x10de",
            "device": f"0x{device:04x}",
            "subsystem_vendor": "0x10de",
            "subsystem_device": f"0x{subsystem:04x}",
            "class": f"0x{self.class_code:06x}",
            "revision": "0xa1",
            "numa_node": str(self.numa_node),
            "local_cpulist": self.cpus,
            "local_cpus": ",".join(padded[start : start + 8] for start in range(0, len(padded), 8)),
            "enable": "1",
            "irq": "16",
            "modalias": modalias,
            "current_link_speed": "32.0 GT/s PCIe",
            "current_link_width": "16",
            "max_link_speed": "32.0 GT/s PCIe",
            "max_link_width": "16",
            "resource": "\n".join(["0x0000000000000000 0x0000000000000000 0x0000000000000000"] * 13),
            "uevent": "\n".join(uevent),
        }
        return {name: f"{text}\n".encode() for name, text in lines.items()} | {"config": self._config()}

    def _config(self) -> bytes:
        """The configuration space's header, which lspci reads."""
        head = struct.pack("<HHHHI", _NVIDIA, int(self.device_id, 16), 0x0007, 0x0010, self.class_code << 8 | 0xA1)
        body = bytearray(256)
        body[: len(head)] = head
        struct.pack_into("<HH", body, 0x2C, _NVIDIA, int(self.subsystem_id, 16))
        return bytes(body)


def functions(machine: Machine) -> list[Function]:
    """Every PCI function the machine adds: its GPUs and NVSwitches."""
    driver = machine.options.kernel_driver
    bound = None if driver == "none" else driver
    found = [
        Function(
            address=gpu.pci_address,
            device_id=gpu.board.pci_device_id,
            subsystem_id=gpu.board.subsystem_device_id,
            class_code=_GPU_CLASS,
            driver=bound,
            numa_node=gpu.numa_node,
            cpus=gpu.cpus,
            iommu_group=_FIRST_IOMMU_GROUP + gpu.index,
        )
        for gpu in machine.gpus
    ]
    for number, switch in enumerate(machine.switches):
        found.append(
            Function(
                address=switch.pci_address,
                device_id=switch.pci_device_id,
                subsystem_id="1796",
                class_code=_SWITCH_CLASS,
                driver="nvidia-nvswitch" if machine.loaded else None,
                numa_node=machine.gpus[0].numa_node,
                cpus=machine.gpus[0].cpus,
                iommu_group=_FIRST_IOMMU_GROUP + len(machine.gpus) + number,
            )
        )
    return found


def write(bus: Path, found: list[Function]) -> None:
    """Write the functions below *bus* (``…/sys/bus/pci``); a directory of the same address is written over.

    A name that is a symbolic link, which is how the kernel shows its own devices, gives way.
    """
    for function in found:
        home = bus / "devices" / function.address
        if home.is_symlink():
            home.unlink()
        home.mkdir(parents=True, exist_ok=True)
        for name, content in function.files().items():
            (home / name).write_bytes(content)
        link(home / "subsystem", "../..")
        link(home / "iommu_group", f"../../../../kernel/iommu_groups/{function.iommu_group}")
        if function.driver is None:
            (home / "driver").unlink(missing_ok=True)
            continue
        owner = bus / "drivers" / function.driver
        owner.mkdir(parents=True, exist_ok=True)
        link(home / "driver", f"../../drivers/{function.driver}")
        link(owner / function.address, f"../../devices/{function.address}")


def link(path: Path, target: str) -> None:
    """A symbolic link at *path*, whatever it was before."""
    if path.is_symlink():
        if str(path.readlink()) == target:
            return
        path.unlink()
    path.symlink_to(target)
