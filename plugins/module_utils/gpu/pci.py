# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's PCI functions as sysfs shows them: there without any driver, and readable in any root directory.

Layout: ``Documentation/PCI/sysfs-pci.rst`` of the kernel. Entries of ``/sys/bus/pci/devices`` are links on a running
kernel; plain directories, as in a captured tree, are read the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .model import Problem

NVIDIA_VENDOR_ID = "10de"

# PCI class and subclass: 0300 VGA controller (boards with a display output), 0302 3D controller (data-center boards),
# 0680 other bridge, which is how an NVSwitch presents itself.
_GPU_CLASSES = ("0300", "0302")
_NVSWITCH_CLASS = "0680"

_ADDRESS = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
_CPU_LIST = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclass(frozen=True)
class PciFunction:
    """One NVIDIA GPU or NVSwitch. Ids are lower-case hex without ``0x``: four digits, *class_code* six.

    *kernel_driver* is the bound driver, ``None`` when unbound. *numa_node* is ``None`` where the firmware names none
    (sysfs: -1). *cpu_affinity* is a kernel CPU list.
    """

    address: str
    vendor_id: str
    device_id: str
    class_code: str
    subsystem_vendor_id: str | None = None
    subsystem_device_id: str | None = None
    kernel_driver: str | None = None
    numa_node: int | None = None
    cpu_affinity: str | None = None
    iommu_group: int | None = None

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU; otherwise it is an NVSwitch."""
        return self.class_code[:4] in _GPU_CLASSES


def canonical_address(text: str) -> str:
    """A PCI address as sysfs writes it: lower case, domain of four digits or as many as it needs.

    NVML writes the same address in upper case with an eight digit domain (``00000000:3B:00.0``).

    :raises ValueError: this is no ``domain:bus:device.function``.
    """
    match = _ADDRESS.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"expected a PCI address such as 0000:3b:00.0, found {text!r}")
    domain, bus, device, function = match.groups()
    return f"{int(domain, 16):04x}:{bus}:{device}.{function}"


def address_key(address: str) -> tuple[int, ...]:
    """Sorts canonical addresses by place, so that domain 10000 comes after domain 2000."""
    return tuple(int(part, 16) for part in re.split("[:.]", address))


def scan(root: Path = Path("/")) -> tuple[list[PciFunction], list[Problem]]:
    """The GPUs and NVSwitches below *root*, by address, and what could not be read (code ``sysfs_unreadable``).

    A system without a PCI bus (``/sys/bus`` is there, ``/sys/bus/pci`` is not, as in some containers and on some
    boards) has no GPU, which is no problem. Without ``/sys/bus`` sysfs is not mounted, and whether there is a GPU can't
    be known: that is one. Virtual functions of a GPU belong to virtual machines and are left out.
    """
    directory = root / "sys/bus/pci/devices"
    try:
        entries = list(directory.iterdir())
    except FileNotFoundError:
        if (root / "sys/bus").is_dir():
            return [], []
        return [], [
            Problem(
                "sysfs_unreadable",
                f"expected sysfs at {root / 'sys'}, found no {root / 'sys/bus'}: whether this machine has a GPU is not "
                f"known; mount sysfs there (mount -t sysfs sysfs {root / 'sys'})",
            )
        ]
    except OSError as error:
        return [], [_unreadable(directory, error)]
    functions: list[PciFunction] = []
    problems: list[Problem] = []
    for entry in entries:
        reader = _FunctionReader(entry)
        function = reader.read()
        problems.extend(reader.problems)
        if function is not None:
            functions.append(function)
    functions.sort(key=lambda function: address_key(function.address))
    problems.sort(key=lambda problem: (problem.pci_address or "", problem.message))
    return functions, problems


def _unreadable(path: Path, error: OSError, address: str | None = None) -> Problem:
    return Problem(
        "sysfs_unreadable",
        f"{path} could not be read: {error.strerror or error}; a device that vanishes while it is read looks like "
        "this, so try again, and otherwise check that sysfs is mounted and not masked by a container",
        address,
    )


class _FunctionReader:
    """Reads one device directory; what is odd there becomes a problem, and the rest is still read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._address: str | None = None
        self.problems: list[Problem] = []

    def read(self) -> PciFunction | None:
        try:
            self._address = canonical_address(self._directory.name)
        except ValueError as error:
            self._odd(self._directory, str(error))
            return None
        vendor = self._hexadecimal("vendor", 4)
        if vendor != NVIDIA_VENDOR_ID:
            return None
        class_code = self._hexadecimal("class", 6)
        if class_code is None or class_code[:4] not in (*_GPU_CLASSES, _NVSWITCH_CLASS):
            return None
        if (self._directory / "physfn").is_symlink():
            return None
        device = self._hexadecimal("device", 4)
        if device is None:
            return None
        return PciFunction(
            address=self._address,
            vendor_id=vendor,
            device_id=device,
            class_code=class_code,
            subsystem_vendor_id=self._hexadecimal("subsystem_vendor", 4),
            subsystem_device_id=self._hexadecimal("subsystem_device", 4),
            kernel_driver=self._link_name("driver"),
            numa_node=self._numa_node(),
            cpu_affinity=self._cpu_affinity(),
            iommu_group=self._iommu_group(),
        )

    def _odd(self, path: Path, what: str) -> None:
        self.problems.append(Problem("sysfs_unreadable", f"{path}: {what}", self._address))

    def _text(self, name: str, *, required: bool = True) -> str | None:
        path = self._directory / name
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError as error:
            if required:
                self.problems.append(_unreadable(path, error, self._address))
        except OSError as error:
            self.problems.append(_unreadable(path, error, self._address))
        except UnicodeDecodeError as error:
            self._odd(path, f"expected plain text, found bytes that are none ({error.reason})")
        return None

    def _hexadecimal(self, name: str, digits: int) -> str | None:
        text = self._text(name)
        if text is None:
            return None
        match = re.fullmatch(rf"0x([0-9a-f]{{{digits}}})", text.lower())
        if match is None:
            self._odd(self._directory / name, f"expected 0x and {digits} hex digits, found {text!r}")
            return None
        return match.group(1)

    def _link_name(self, name: str) -> str | None:
        path = self._directory / name
        try:
            return path.readlink().name
        except FileNotFoundError:
            return None
        except OSError as error:
            self.problems.append(_unreadable(path, error, self._address))
            return None

    # A kernel without NUMA has no numa_node, one without an IOMMU no iommu_group, an old one no local_cpulist: their
    # absence is an answer.

    def _numa_node(self) -> int | None:
        text = self._text("numa_node", required=False)
        if text is None or text == "-1":
            return None
        if not text.isdecimal():
            self._odd(self._directory / "numa_node", f"expected a NUMA node number or -1, found {text!r}")
            return None
        return int(text)

    def _cpu_affinity(self) -> str | None:
        text = self._text("local_cpulist", required=False)
        if not text:
            return None
        if _CPU_LIST.fullmatch(text) is None:
            self._odd(self._directory / "local_cpulist", f"expected a CPU list such as 0-15,32-47, found {text!r}")
            return None
        return text

    def _iommu_group(self) -> int | None:
        name = self._link_name("iommu_group")
        if name is None:
            return None
        if not name.isdecimal():
            self._odd(self._directory / "iommu_group", f"expected a link to a numbered group, found {name!r}")
            return None
        return int(name)
